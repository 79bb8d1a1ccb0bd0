//! Programs that run beside the story: ended when asked to, and at the latest when the guard is dropped.

use std::{
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Run, attend::exits_within, end_family};

/// How long a program may take to end after it was asked to.
const END_LIMIT: Duration = Duration::from_secs(15);

/// A program that runs beside the story.
#[must_use]
pub(crate) struct Background {
    child: Child,
    shown: String,
}

impl Run {
    /// Starts the command in the background and returns both ends of the talk with it.
    pub(crate) fn converse(&self) -> Result<(Background, ChildStdin, ChildStdout)> {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| self.not_started())?;
        let stdin = child
            .stdin
            .take()
            .context("the input of a command is not piped")?;
        let stdout = child
            .stdout
            .take()
            .context("the output of a command is not piped")?;
        Ok((
            Background {
                child,
                shown: self.to_string(),
            },
            stdin,
            stdout,
        ))
    }
}

impl Background {
    /// Waits until the program has ended by itself, as it should.
    pub(crate) fn end(mut self) -> Result<()> {
        if !exits_within(&self.child, END_LIMIT, &mut [])? {
            bail!(
                "`{}` did not end within {} s",
                self.shown,
                END_LIMIT.as_secs()
            );
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("`{}` ended with {status}", self.shown);
        }
        Ok(())
    }

    /// Whether the program still runs.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            end_family(&mut self.child).ok();
        }
    }
}
