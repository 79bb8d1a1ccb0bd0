//! `tulle lab` as a user types it: words, output, exit codes. The mesh is left out; the lab itself is real. Needs root.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

const RIG: &str = "tcli";

/// Takes the rig down, also when a test fails.
struct Rig {
    file: PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let output = lab(&["down"]);
        assert!(output.status.success(), "{output:?}");
        drop(fs::remove_file(&self.file));
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tulle"));
    command.args(["lab", "--rig", RIG]).args(words);
    command
}

fn lab(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

/// What a command prints; it must succeed.
#[track_caller]
fn prints(words: &[&str]) -> String {
    let output = lab(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command says when it fails, as it must.
#[track_caller]
fn fails(words: &[&str]) -> String {
    let output = lab(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Gives a command something to read; what it prints.
fn feed(words: &[&str], text: &str) -> Output {
    let mut child = command(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// One test, since its steps build on each other, as a user's do.
#[test]
fn a_session_at_the_command_line() {
    assert!(lab(&["down"]).status.success());
    assert_eq!(
        fails(&["status"]),
        "error: rig tcli is not up; `tulle lab up` brings it up\n"
    );
    let file = std::env::temp_dir().join("tulle-cli-test.yaml");
    fs::write(
        &file,
        tulle_lab::BUILT_IN
            .replace("mesh: tulle", "mesh: none")
            .replace("clusterDns: true", "clusterDns: false"),
    )
    .unwrap();
    let rig = Rig { file };
    let path = rig.file.to_str().unwrap();
    let status = prints(&["up", "--file", path, "--cluster", "koornacht"]);
    assert!(
        status.contains("koornacht   1    up      2       0/0"),
        "{status}"
    );
    assert!(
        status.contains("tion        2    down    2       0/0"),
        "{status}"
    );

    changes_objects();
    runs_commands();
    handles_components();

    drop(rig);
    assert!(fails(&["status"]).contains("is not up"));
}

#[expect(
    clippy::too_many_lines,
    reason = "one story of commands, read from top to bottom"
)]
fn changes_objects() {
    let output = feed(&["apply", "koornacht", "-f", "-"], tulle_lab::KOORNACHT);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "deployment.apps/rebel-base created\ndeployment.apps/x-wing created\n\
         configmap/rebel-base-response created\nservice/rebel-base created\n"
    );
    let output = feed(
        &["apply", "koornacht", "-f", "-"],
        "apiVersion: v1\nkind: Pony\n",
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("error: -:2: kind: unknown kind `Pony`"),
        "{error}"
    );
    prints(&["wait", "koornacht", "deployment/rebel-base"]);
    prints(&["wait", "koornacht", "deployment/x-wing"]);

    let key = "service.cilium.io/global";
    let table: [(&[&str], &str); 6] = [
        (
            &[
                "annotate",
                "koornacht",
                "service",
                "rebel-base",
                "service.cilium.io/global=true",
            ],
            "annotated",
        ),
        (
            &[
                "annotate",
                "koornacht",
                "svc/rebel-base",
                "--overwrite",
                "service.cilium.io/global=false",
            ],
            "annotated",
        ),
        (
            &[
                "annotate",
                "koornacht",
                "service",
                "rebel-base",
                "service.cilium.io/global-",
            ],
            "annotated",
        ),
        (
            &[
                "label",
                "koornacht",
                "services",
                "rebel-base",
                "side=light",
                "old-",
            ],
            "labeled",
        ),
        (
            &[
                "scale",
                "koornacht",
                "deployment",
                "rebel-base",
                "--replicas",
                "1",
            ],
            "scaled",
        ),
        (
            &[
                "scale",
                "koornacht",
                "deployment/rebel-base",
                "--replicas=2",
            ],
            "scaled",
        ),
    ];
    let expected = [Some("true"), Some("false"), None, None, None, None];
    for ((words, verb), expected) in table.into_iter().zip(expected) {
        assert!(
            prints(words).ends_with(&format!("/rebel-base {verb}\n")),
            "{words:?}"
        );
        let yaml = prints(&["get", "koornacht", "service/rebel-base", "-o", "yaml"]);
        let line = yaml
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
        assert_eq!(
            line.map(|value| value.trim_matches('\'')),
            expected,
            "{words:?}"
        );
    }
    let names = prints(&["get", "koornacht", "deployments", "-o", "name"]);
    assert_eq!(
        names,
        "deployment.apps/rebel-base\ndeployment.apps/x-wing\n"
    );
    assert_eq!(
        fails(&["annotate", "koornacht", "service", "nope", "a=b"]),
        "error: services \"nope\" not found\n"
    );
    assert_eq!(
        prints(&["delete", "koornacht", "configmap", "rebel-base-response"]),
        "configmap \"rebel-base-response\" deleted\n"
    );
    let again = ["delete", "koornacht", "configmap/rebel-base-response"];
    assert_eq!(
        fails(&again),
        "error: configmaps \"rebel-base-response\" not found\n"
    );
    assert_eq!(prints(&[&again[..], &["--ignore-not-found"]].concat()), "");
}

fn runs_commands() {
    let exec = |words: &[&str]| lab(&[&["exec", "koornacht"], words].concat());
    let output = exec(&[
        "deployments/x-wing",
        "-ti",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let output = feed(
        &[
            "exec",
            "koornacht",
            "deployment/x-wing",
            "-i",
            "--",
            "tr",
            "a-z",
            "A-Z",
        ],
        "yes",
    );
    assert_eq!(output.stdout, b"YES");
    let output = exec(&["deployment/x-wing", "--user", "65534", "--", "id", "-u"]);
    assert_eq!(output.stdout, b"65534\n");
    assert_eq!(
        exec(&["deployment/x-wing", "--", "/no/such"]).status.code(),
        Some(127)
    );
    assert_eq!(
        exec(&["deployment/nope", "--", "true"]).status.code(),
        Some(126)
    );
    assert_eq!(
        exec(&["deployment/x-wing", "true"]).status.code(),
        Some(2),
        "there is no `--`"
    );
    let pod = prints(&["get", "koornacht", "pods", "-o", "name"]);
    let pod = pod.lines().find(|name| name.contains("x-wing")).unwrap();
    let logs = prints(&["logs", pod, "--tail", "1"]);
    assert!(logs.lines().count() <= 1, "{logs}");
}

fn handles_components() {
    let status = prints(&["status"]);
    assert!(status.contains("supervisor   running"), "{status}");
    prints(&["kill", "supervisor"]);
    assert!(prints(&["status"]).contains("supervisor   stopped"));
    prints(&["start", "supervisor"]);
    prints(&["start", "supervisor"]);
    prints(&["stop", "supervisor"]);
    prints(&["up"]);
    assert!(prints(&["status"]).contains("supervisor   running"));
    assert!(fails(&["stop", "nope"]).starts_with("error: there is no component `nope`"));
    assert!(fails(&["link", "koornacht", "koornacht", "down"]).contains("two different clusters"));
    prints(&["link", "koornacht", "tion", "down"]);
    prints(&["link", "tion", "koornacht", "up"]);
}
