//! Programs in pods that try connections: kept running, since starting one takes longer than its work.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tulle_e2e::rig::{READY_DEADLINE, Rig};

/// Debian's, whatever else a developer has in the path.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
pub(crate) const SCRIPT: &str = include_str!("prober.py");

/// Over what a place is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// A place to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Target(pub(crate) Transport, pub(crate) String, pub(crate) u16);

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// An answer came.
    Ok,
    /// There was an error.
    Refused,
    /// Nothing came.
    Silent,
}

/// A program in a pod that tries what it is told to.
pub(crate) struct Prober {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Prober {
    pub(crate) fn start(rig: &Rig, cluster: &str, namespace: &str, pod: &str) -> Result<Prober> {
        Prober::start_as(rig, cluster, namespace, pod, "probe")
    }

    /// Runs the script's `names`, for [`Prober::look_up`].
    pub(crate) fn start_asker(
        rig: &Rig,
        cluster: &str,
        namespace: &str,
        pod: &str,
    ) -> Result<Prober> {
        Prober::start_as(rig, cluster, namespace, pod, "names")
    }

    fn start_as(
        rig: &Rig,
        cluster: &str,
        namespace: &str,
        pod: &str,
        word: &str,
    ) -> Result<Prober> {
        let binaries = std::env::var_os("TULLE_BIN_DIR").context("TULLE_BIN_DIR is not set")?;
        let pod = format!("pod/{pod}");
        let process = Command::new(std::path::Path::new(&binaries).join("tulle"))
            .args([
                "lab",
                "--rig",
                rig.lab.config().rig.as_str(),
                "exec",
                cluster,
                "-n",
                namespace,
            ])
            .args([pod.as_str(), "-i", "--", PYTHON, "-c", SCRIPT, word])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Prober::of(process)
    }

    /// A process that runs the script's `probe` already.
    pub(crate) fn of(mut process: Child) -> Result<Prober> {
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().context("no standard output")?;
        Ok(Prober {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// Asks for tries; [`Prober::answer`] waits for them.
    pub(crate) fn ask(&mut self, targets: &[Target], within: Duration) -> Result<()> {
        let line = serde_json::json!({"within": within.as_secs_f64(), "targets": targets});
        let stdin = self.stdin.as_mut().context("the prober was ended")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    pub(crate) fn answer(&mut self) -> Result<Vec<Fate>> {
        let mut line = String::new();
        let len = self.stdout.read_line(&mut line)?;
        ensure!(len > 0, "the prober ended");
        Ok(serde_json::from_str(&line)?)
    }

    /// The address of a name, if the pod is told one.
    pub(crate) fn look_up(&mut self, name: &str) -> Result<Option<IpAddr>> {
        let stdin = self.stdin.as_mut().context("the prober was ended")?;
        writeln!(stdin, "{name}")?;
        stdin.flush()?;
        let mut line = String::new();
        let len = self.stdout.read_line(&mut line)?;
        ensure!(len > 0, "the prober ended");
        let line = line.trim();
        Ok((!line.is_empty()).then(|| line.parse()).transpose()?)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // It ends with its input.
        self.stdin.take();
        self.process.wait().ok();
    }
}

/// A program in a pod whose lines are read.
pub(crate) struct Program {
    process: Child,
    lines: Receiver<String>,
}

impl Program {
    pub(crate) fn start(rig: &Rig, cluster: &str, pod: &str, words: &[&str]) -> Result<Program> {
        let binaries = std::env::var_os("TULLE_BIN_DIR").context("TULLE_BIN_DIR is not set")?;
        let pod = format!("pod/{pod}");
        let mut process = Command::new(std::path::Path::new(&binaries).join("tulle"))
            .args([
                "lab",
                "--rig",
                rig.lab.config().rig.as_str(),
                "exec",
                cluster,
            ])
            .args([pod.as_str(), "--", PYTHON, "-c", SCRIPT])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Program { process, lines })
    }

    /// When the program says that it saw this; earlier lines are passed over.
    pub(crate) fn wait_for(&self, word: &str) -> Result<u64> {
        let line = self.wait_for_line(word)?;
        let at = line.split(' ').nth(1).and_then(|at| at.parse().ok());
        at.with_context(|| format!("{line:?} has no time"))
    }

    pub(crate) fn wait_for_line(&self, word: &str) -> Result<String> {
        loop {
            let line = self.lines.recv_timeout(READY_DEADLINE);
            let line = line.with_context(|| format!("`{word}` did not come"))?;
            if line.starts_with(word) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// More than a program ever says before it is listened to.
const LINES_MAX: usize = 1024;
