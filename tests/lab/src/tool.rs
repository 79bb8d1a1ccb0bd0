//! Runs the programs of the system (`ip`, `openssl`, `etcdctl`) and reports in one sentence what
//! went wrong.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use thiserror::Error;

/// A program of the system did not do what the lab asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunToolError {
    /// The program could not be started.
    #[error("cannot run `{program}` (Debian package `{package}`)")]
    Start {
        /// The program.
        program: String,
        /// The Debian package that brings it.
        package: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("`{command}` failed: {message}")]
    Failed {
        /// The command line, shortened.
        command: String,
        /// What it printed.
        message: String,
    },
}

/// Runs `command`, optionally feeds it `input`, and returns its standard output.
pub(crate) fn run(mut command: Command, input: Option<&str>) -> Result<String, RunToolError> {
    let output = spawn(&mut command, input).map_err(|source| {
        let program = command.get_program().to_string_lossy().into_owned();
        RunToolError::Start {
            package: package_of(&program),
            program,
            source,
        }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let message = format!("{} ({})", stderr.trim(), output.status);
    Err(RunToolError::Failed {
        command: display(&command),
        message,
    })
}

fn spawn(command: &mut Command, input: Option<&str>) -> io::Result<Output> {
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that stops reading has failed; its exit status tells more than the broken pipe.
        match stdin.write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => drop(stdin),
        }
    }
    child.wait_with_output()
}

fn display(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text.chars().take(COMMAND_SHOWN_MAX).collect()
}

fn package_of(program: &str) -> &'static str {
    let name = program.rsplit('/').next().unwrap_or(program);
    PACKAGES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or("unknown", |(_, package)| package)
}

const COMMAND_SHOWN_MAX: usize = 240;

const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("tcpdump", "tcpdump"),
];
