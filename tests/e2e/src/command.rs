//! The program `tulle`, driven as a user drives it: words in, text and exit code out.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tulle_lab::DownGuard;

use crate::{
    fast_paths::FastPath,
    rig::{lab_file, streams},
};

/// `tulle` and a rig of its own, which is removed at the end.
#[derive(Debug)]
pub struct Tulle {
    program: PathBuf,
    binaries: PathBuf,
    rig: String,
    _down: DownGuard,
}

impl Tulle {
    /// The built program; what stood under the rig's name is removed first, and nothing is brought up.
    ///
    /// # Errors
    /// When `TULLE_BIN_DIR` is not set or holds no `tulle`.
    pub fn new(rig: &str) -> Result<Tulle> {
        let binaries = std::env::var_os("TULLE_BIN_DIR").map(PathBuf::from);
        let binaries = binaries.context(
            "TULLE_BIN_DIR is not set: `cargo xtask test` sets it to where the programs were built",
        )?;
        let program = binaries.join("tulle");
        ensure!(program.is_file(), "{} is not there", program.display());
        Ok(Tulle {
            program,
            binaries,
            rig: rig.to_owned(),
            _down: DownGuard::fresh(rig)?,
        })
    }

    /// What the rig's cluster is called as a context.
    pub fn context(&self, cluster: &str) -> String {
        format!("{}/{cluster}", self.rig)
    }

    /// The command with these words; `lab` gets the rig's name.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        match words {
            ["lab", rest @ ..] => command.args(["lab", "--rig", &self.rig]).args(rest),
            words => command.args(words),
        };
        command
    }

    /// Brings the rig up, with more words for `tulle lab up`, without the fast path that the whole run does without.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&self, words: &[&str]) -> Result<String> {
        let binaries = self.binaries.to_string_lossy();
        let up = ["lab", "up", "--bin-dir", &binaries];
        let Some(left_out) = FastPath::left_out()? else {
            return self.run(&[&up, words].concat());
        };
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), lab_file(&self.rig, left_out.off())?)?;
        let path = file.path().to_string_lossy();
        self.run(&[&up, words, &["--file", &path]].concat())
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        let output = self.command(words).stdin(Stdio::null()).output();
        output.with_context(|| format!("{words:?}"))
    }

    /// What a command prints; it must succeed.
    ///
    /// # Errors
    /// When it does not; with both of its streams.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        let (text, status) = (streams(&output), output.status);
        ensure!(status.success(), "{words:?}: {status}\n{text}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a command answers as JSON; it must succeed.
    ///
    /// # Errors
    /// When it does not, or answers something else.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.run(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))
    }

    /// What a command says when it fails with `code`, as it must.
    ///
    /// # Errors
    /// When it succeeds, or fails in another way.
    pub fn fails(&self, words: &[&str], code: i32) -> Result<String> {
        let output = self.output(words)?;
        let (text, status) = (streams(&output), output.status);
        ensure!(status.code() == Some(code), "{words:?}: {status}\n{text}");
        Ok(text)
    }

    /// Starts a command whose streams the caller takes.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(&self, words: &[&str]) -> Result<Child> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("{words:?}"))
    }

    /// Runs a step until it holds.
    ///
    /// # Errors
    /// When it does not within `limit`; with its last error.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut step: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut last = None;
        tulle_lab::wait_until(Instant::now() + limit, || {
            let outcome = step();
            let held = outcome.is_ok();
            last = Some(outcome);
            held
        });
        last.context("it was not tried")?
            .with_context(|| format!("not within {limit:?}: {what}"))
    }
}
