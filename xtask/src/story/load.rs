//! Requests that go on while something changes: one after the other, each on a new connection, every answer kept.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::answers::Answers;
use crate::{lab::driver::Lab, process::Background};

/// The last request may take its full time before the load ends.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// More answers than any step can gather.
const ANSWERS_MAX: usize = 100_000;

/// Requests from one pod, until they are stopped.
#[must_use]
pub(super) struct Load {
    shell: Background,
    stopping: Arc<AtomicBool>,
    answers: Receiver<Result<Answers>>,
}

impl Load {
    /// Starts to ask `service` from a pod of the deployment `client`.
    pub(super) fn start(lab: &Lab, cluster: &str, client: &str, service: &str) -> Result<Self> {
        // One line in, one request, one line out: so the load never runs ahead, and ends when its input does.
        let script = format!(
            "while read -r _; do out=$(curl -sS --max-time 5 {service} 2>&1) || out=\"curl ended with $?: $out\"; echo \"$out\" | tr '\\n' ' '; echo; done"
        );
        let (shell, stdin, stdout) = lab.shell(cluster, client, &script).converse()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (sender, answers) = mpsc::sync_channel(1);
        let stop = Arc::clone(&stopping);
        thread::spawn(move || {
            // Nobody listens when a step has failed already.
            sender.send(ask_until(&stop, stdin, stdout)).ok();
        });
        Ok(Self {
            shell,
            stopping,
            answers,
        })
    }

    /// Ends the load and returns every answer.
    pub(super) fn stop(self) -> Result<Answers> {
        self.stopping.store(true, Ordering::Relaxed);
        let answers = self
            .answers
            .recv_timeout(STOP_LIMIT)
            .context("the load did not end in time")??;
        self.shell.end()?;
        Ok(answers)
    }
}

fn ask_until(stop: &AtomicBool, mut stdin: ChildStdin, stdout: ChildStdout) -> Result<Answers> {
    let mut answers = Answers::default();
    let mut lines = BufReader::new(stdout).lines();
    while !stop.load(Ordering::Relaxed) && answers.len() < ANSWERS_MAX {
        stdin
            .write_all(b"\n")
            .context("the load's shell ended before it was asked to")?;
        let line = lines
            .next()
            .context("the load's shell ended before it was asked to")??;
        answers.push(line.trim_end().to_owned());
    }
    Ok(answers)
}
