//! The program itself: its exit codes, its words, its end.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const GOOD: &str = "--cluster koornacht --cluster-id 1 --trust-domain koornacht.tulle --listen 127.0.0.1:0 --admin 127.0.0.1:0 --manifests . --ca-dir ca --node-tokens tokens.json";

fn command(directory: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xds-server"));
    command
        .args(line.split_whitespace())
        .current_dir(directory)
        .stderr(Stdio::piped());
    command
}

fn run(line: &str) -> Output {
    let directory = TempDir::new().unwrap();
    command(directory.path(), line).output().unwrap()
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn bad_command_line_is_told_whole() {
    let output = run("--cluster A_ --store disk");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    for flag in [
        "--cluster:",
        "--cluster-id:",
        "--manifests:",
        "--store:",
        "--node-tokens:",
    ] {
        assert!(text.contains(flag), "{flag}: {text}");
    }
}

#[test]
fn what_cannot_be_had_is_told_in_one_line() {
    let output = run(&GOOD.replace("--listen 127.0.0.1:0", "--listen 192.0.2.1:1"));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("--listen: cannot listen on 192.0.2.1:1"),
        "{text}"
    );
    // A directory that is not there ends the server, since nothing can be served from it.
    let output = run(&GOOD.replace("--manifests .", "--manifests nowhere"));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("nowhere"), "{text}");
}

#[test]
fn sigterm_ends_it_cleanly_and_soon() {
    let directory = TempDir::new().unwrap();
    let mut process = Process(command(directory.path(), GOOD).spawn().unwrap());
    // It listens when its root is there.
    let root = directory.path().join("ca/root-cert.pem");
    let until = Instant::now() + Duration::from_secs(30);
    let stderr = process.0.stderr.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    while !lines.next().unwrap().unwrap().contains("serving") {
        assert!(Instant::now() < until);
    }
    assert!(root.exists());
    let id = process.0.id().to_string();
    let asked = Instant::now();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let status = process.0.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
}
