//! Runs other programs: a line that says so, a bounded time, an error that shows the command.
//!
//! It decides when a program has run too long and ends it together with everything that it started.

mod attend;
mod background;

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use self::attend::{Outlet, exits_within};
pub(crate) use self::background::Background;
use crate::say;

/// How long a command may take unless the caller knows better.
const DEFAULT_LIMIT: Duration = Duration::from_mins(2);
/// Between asking a program to end and ending it.
const GRACE: Duration = Duration::from_secs(5);

/// What the names of the variables start with that `cargo run` sets for the program that it runs.
const ABOUT_THIS_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// One command to run.
#[derive(Clone)]
#[must_use]
pub(crate) struct Run {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    limit: Duration,
    /// What the user reads in place of the program's path.
    shown: Option<&'static str>,
}

/// What a command said and how it ended.
pub(crate) struct Captured {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            limit: DEFAULT_LIMIT,
            shown: None,
        }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((key.into(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    pub(crate) fn shown_as(mut self, name: &'static str) -> Self {
        self.shown = Some(name);
        self
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Prints the command, runs it with its output visible, and fails unless it ends with 0 in time.
    pub(crate) fn run(&self) -> Result<()> {
        say::line(format_args!("   $ {self}"));
        let mut child = self.command().spawn().with_context(|| self.not_started())?;
        let status = self.wait(&mut child, &mut [])?;
        if !status.success() {
            bail!("`{self}` ended with {status}");
        }
        Ok(())
    }

    /// Like [`Run::run`], but hands every line of the output to `observe` too, and says how the command ended.
    pub(crate) fn run_observed(&self, observe: &mut dyn FnMut(&str)) -> Result<ExitStatus> {
        say::line(format_args!("   $ {self}"));
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| self.not_started())?;
        let stdout = child
            .stdout
            .take()
            .context("the output of a command is not piped")?;
        let mut lines = Lines::default();
        let mut take = |bytes: &[u8]| {
            say::raw(bytes);
            lines.push(bytes, observe);
        };
        let status = self.wait(&mut child, &mut [Outlet::new(stdout, &mut take)?])?;
        lines.finish(observe);
        Ok(status)
    }

    /// Runs the command silently and returns all that it said, however it ended.
    pub(crate) fn capture(&self) -> Result<Captured> {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.not_started())?;
        let stdout = child
            .stdout
            .take()
            .context("the output of a command is not piped")?;
        let stderr = child
            .stderr
            .take()
            .context("the output of a command is not piped")?;
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let mut take_said = |bytes: &[u8]| said.extend_from_slice(bytes);
        let mut take_complained = |bytes: &[u8]| complained.extend_from_slice(bytes);
        let mut outlets = [
            Outlet::new(stdout, &mut take_said)?,
            Outlet::new(stderr, &mut take_complained)?,
        ];
        let status = self.wait(&mut child, &mut outlets)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Captured {
            status,
            stdout: text(said),
            stderr: text(complained),
        })
    }

    /// Runs the command silently; what it wrote to its standard output, if it ended with 0.
    pub(crate) fn output(&self) -> Result<String> {
        let captured = self.capture()?;
        if captured.status.success() {
            return Ok(captured.stdout);
        }
        Err(anyhow!("{}", captured.stderr.trim()))
            .with_context(|| format!("`{self}` ended with {}", captured.status))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        // Cargo describes this very package to us; to a build of another one that would be a change, and a reason to build again.
        for (key, _) in std::env::vars_os() {
            if ABOUT_THIS_PACKAGE
                .iter()
                .any(|prefix| key.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(key);
            }
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    fn wait(&self, child: &mut Child, outlets: &mut [Outlet<'_>]) -> Result<ExitStatus> {
        if !exits_within(child, self.limit, outlets)? {
            end_family(child)?;
            bail!(
                "`{self}` did not end within {} s and was ended",
                self.limit.as_secs()
            );
        }
        child
            .wait()
            .with_context(|| format!("cannot learn how `{self}` ended"))
    }

    fn not_started(&self) -> String {
        format!("cannot start `{self}`")
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (key, value) in &self.environment {
            write!(formatter, "{}={} ", key.display(), value.display())?;
        }
        match self.shown {
            Some(name) => write!(formatter, "{name}")?,
            None => write!(formatter, "{}", self.program.display())?,
        }
        for argument in &self.arguments {
            let argument = argument.to_string_lossy();
            if argument.is_empty() || argument.contains(char::is_whitespace) {
                write!(formatter, " '{argument}'")?;
            } else {
                write!(formatter, " {argument}")?;
            }
        }
        Ok(())
    }
}

/// Whether a program of this name can be found on the path, or a file with this absolute path.
pub(crate) fn is_installed(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    // Administration programs are outside of an ordinary user's path, and still there.
    let places = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(places)
        .any(|folder| folder.join(program).is_file())
}

/// Calls `probe` until it returns a value or the deadline passes; the pause grows from 5 ms to 200 ms.
pub(crate) fn poll_until<T>(
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(value) = probe()? {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], observe: &mut dyn FnMut(&str)) {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.begun.extend_from_slice(part);
            self.finish(observe);
        }
        self.begun.extend_from_slice(last);
    }

    fn finish(&mut self, observe: &mut dyn FnMut(&str)) {
        if !self.begun.is_empty() {
            observe(&String::from_utf8_lossy(&self.begun));
            self.begun.clear();
        }
    }
}

/// Ends a program and all that it started: first politely, then for good.
fn end_family(child: &mut Child) -> Result<()> {
    let family = descendants(pid_of(child));
    signal(child, Signal::TERM)?;
    if !exits_within(child, GRACE, &mut [])? {
        child.kill()?;
    }
    child.wait()?;
    for member in family {
        // Whoever is gone already cannot be signalled, and need not be.
        kill_process(member, Signal::KILL).ok();
    }
    Ok(())
}

fn descendants(ancestor: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| parent_of(&entry.ok()?.path()))
        .collect();
    let mut family = vec![ancestor];
    let mut seen = 0;
    while let Some(&member) = family.get(seen) {
        family.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == member)
                .map(|(pid, _)| *pid),
        );
        seen += 1;
    }
    family.split_off(1)
}

/// Reads `(pid, parent)` from `/proc/<pid>/stat`, whose second field may hold any character but ends at the last `)`.
fn parent_of(folder: &Path) -> Option<(Pid, Pid)> {
    let pid = folder.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let parent = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    Some((Pid::from_raw(pid)?, Pid::from_raw(parent)?))
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    match kill_process(pid_of(child), signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("cannot signal a started program"),
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[cfg(test)]
mod tests;
