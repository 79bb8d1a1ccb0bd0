//! Listens on the link between the clusters, and says what somebody who listens there can read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    lab::driver::Lab,
    process::{Background, Run, poll_until},
};

/// Until the capture's file is there, which means that it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// Until a packet that was sent is in the file.
const RECORD_LIMIT: Duration = Duration::from_secs(10);
/// The contents of the packet that ends a recording.
const LAST_WORDS: &str = "here-the-recording-ends";
/// Nobody listens there, and nobody has to.
const DISCARD_PORT: u16 = 9;

/// A running capture.
#[must_use]
pub(super) struct Wiretap {
    capture: Background,
    /// The capture ends when this is closed.
    stdin: ChildStdin,
    /// Kept open: the capture says here how much it got.
    stdout: ChildStdout,
    file: PathBuf,
}

/// What was captured.
pub(super) struct Recording {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Wiretap {
    /// Starts to listen, and returns when it does.
    pub(super) fn start(lab: &Lab, cluster: &str, file: &Path) -> Result<Self> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        if file.exists() {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        // Whatever passes the link of a cluster: to other clusters, and between its own nodes.
        let (mut capture, stdin, stdout) = lab.capture(cluster, file).converse()?;
        let listens = poll_until(LISTEN_LIMIT, || {
            ensure!(capture.runs()?, "the link of {cluster} cannot be captured");
            Ok(fs::metadata(file)
                .is_ok_and(|metadata| metadata.len() > 0)
                .then_some(()))
        })?;
        listens.with_context(|| format!("nothing is captured into {}", file.display()))?;
        Ok(Self {
            capture,
            stdin,
            stdout,
            file: file.to_owned(),
        })
    }

    /// Stops listening as soon as all that passed until now is recorded.
    ///
    /// The kernel hands packets over in batches, so a last one is sent, to `address` behind the link, and waited for.
    pub(super) fn stop(self, lab: &Lab, address: &str) -> Result<Recording> {
        let script = format!("echo {LAST_WORDS} >/dev/udp/{address}/{DISCARD_PORT}");
        lab.on_router("bash").args(["-c", &script]).output()?;
        let file = self.file;
        let recorded = poll_until(RECORD_LIMIT, || {
            let recording = Recording::read(&file)?;
            Ok(recording.shows(LAST_WORDS).then_some(()))
        })?;
        recorded.with_context(|| format!("the last packet is not in {}", file.display()))?;
        drop(self.stdin);
        self.capture.end()?;
        drop(self.stdout);
        Recording::read(&file)
    }
}

impl Recording {
    fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self {
            file: file.to_owned(),
            bytes,
        })
    }

    /// Whether these bytes can be read anywhere in it.
    pub(super) fn shows(&self, text: &str) -> bool {
        self.bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// How many packets match a filter of tcpdump's language.
    pub(super) fn packets(&self, filter: &str) -> Result<usize> {
        let text = Run::new("tcpdump")
            .args(["-nn", "-Z", "root", "-r"])
            .arg(&self.file)
            .arg(filter)
            .output()?;
        Ok(text.lines().count())
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}
