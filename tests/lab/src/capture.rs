//! Captures packets on the link of a cluster, with tcpdump.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use thiserror::Error;

use crate::{
    launch::{Files, Launch, LaunchError, Streams},
    names::Places,
    supervisor::wait_for_child,
    wait,
};

/// Packets could not be captured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// tcpdump could not be started.
    #[error("cannot run tcpdump (Debian package tcpdump)")]
    Launch(#[source] Box<LaunchError>),
    /// tcpdump did not begin.
    #[error("tcpdump does not capture on {device} within {deadline:?}: {message}")]
    NotBegun {
        /// The device.
        device: String,
        /// How long it had.
        deadline: Duration,
        /// What it says.
        message: String,
    },
    /// tcpdump did not end, or its file is not there.
    #[error("cannot end the capture into {}", path.display())]
    End {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A capture that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    pub(crate) fn start(
        places: &Places,
        device: &str,
        file: &Path,
    ) -> Result<Capture, CaptureError> {
        // A log of its own for each capture: its first line says that it has begun.
        let log = file.with_extension("log");
        drop(fs::remove_file(&log));
        let mut command: Vec<std::ffi::OsString> = [
            "tcpdump",
            "--immediate-mode",
            "-i",
            device,
            "-U",
            "-s",
            "0",
            "-B",
            BUFFER_KIB,
            "-Z",
            "root",
            "-w",
        ]
        .map(Into::into)
        .to_vec();
        command.push(file.into());
        let launch = Launch {
            command,
            environment: None,
            cgroup: places.helpers_cgroup(),
            namespace: Some(places.router_namespace()),
            files: Files::Host,
            directory: PathBuf::from("/"),
            user: None,
            new_session: true,
            streams: Streams::Log(log.clone()),
        };
        let tcpdump = launch
            .spawn()
            .map_err(|error| CaptureError::Launch(Box::new(error)))?;
        let capture = Capture {
            tcpdump,
            file: file.to_owned(),
        };
        let said = || fs::read_to_string(&log).unwrap_or_default();
        if wait::until(Instant::now() + START_DEADLINE, || {
            said().contains("listening on")
        }) {
            return Ok(capture);
        }
        Err(CaptureError::NotBegun {
            device: device.to_owned(),
            deadline: START_DEADLINE,
            message: said().trim().to_owned(),
        })
    }

    /// Ends the capture and returns the bytes of the pcap file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn finish(mut self) -> Result<Vec<u8>, CaptureError> {
        self.end()
            .and_then(|()| fs::read(&self.file))
            .map_err(|source| CaptureError::End {
                path: self.file.clone(),
                source,
            })
    }

    fn end(&mut self) -> io::Result<()> {
        if self.tcpdump.try_wait()?.is_some() {
            return Ok(());
        }
        // Packets that have passed may still be on their way through tcpdump: it gets time until
        // nothing more comes.
        let deadline = Instant::now() + END_DEADLINE;
        let mut seen = (0, Instant::now());
        wait::until(deadline, || {
            let len = fs::metadata(&self.file).map_or(0, |data| data.len());
            if len != seen.0 {
                seen = (len, Instant::now());
            }
            seen.1.elapsed() >= QUIET
        });
        if let Some(pid) = i32::try_from(self.tcpdump.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            // SIGINT: tcpdump writes what it still has before it ends.
            rustix::process::kill_process(pid, Signal::INT)?;
        }
        if wait_for_child(&mut self.tcpdump, Instant::now() + END_DEADLINE).is_none() {
            self.tcpdump.kill()?;
            self.tcpdump.wait()?;
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!(
                "cannot end the capture into {}: {error}",
                self.file.display()
            );
        }
    }
}

const BUFFER_KIB: &str = "16384";
const START_DEADLINE: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(100);
const END_DEADLINE: Duration = Duration::from_secs(5);
