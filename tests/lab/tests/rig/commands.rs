//! Commands: exec, get, apply's refusals.

use std::io::Write;

use tulle_lab::{ExecRequest, OutputFormat};

use super::support::{Rig, deployment, text};

#[test]
fn exec_passes_streams_and_exit_code() {
    let rig = Rig::up("texec");
    rig.apply(&deployment("web", 2, "nginx:1", ""));
    rig.wait_ready("web");
    let run = |command: &[&str]| {
        rig.lab
            .exec("koornacht", "deployment/web", command)
            .unwrap()
    };
    let output = run(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(
        (text(&output), output.stderr),
        ("out\n".to_owned(), b"err\n".to_vec())
    );
    let mut child = rig
        .lab
        .spawn("koornacht", "deployments/web", &["tr", "a-z", "A-Z"])
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap()), "HELLO");
    let request = ExecRequest {
        target: "deploy/web".to_owned(),
        user: Some(4242),
        command: vec!["id".into()],
        ..ExecRequest::default()
    };
    let output = rig.lab.exec_request("koornacht", &request).unwrap();
    assert_eq!(text(&output), "uid=4242 gid=4242 groups=4242\n");
    // The command is in the pod's cgroup: what captures the pod captures the command.
    let cgroup = text(&run(&["cat", "/proc/self/cgroup"]));
    assert!(
        cgroup.contains("/tulle-lab/texec/koornacht/koornacht-worker"),
        "{cgroup}"
    );
    assert!(cgroup.contains("/pods/default_web-"), "{cgroup}");
}

#[test]
fn exec_says_what_is_wrong() {
    let rig = Rig::up("twrong");
    rig.apply(&deployment("web", 1, "nginx:1", ""));
    rig.wait_ready("web");
    let check = |cluster: &str, target: &str, command: &[&str], expected: &str| {
        let error = rig.lab.exec(cluster, target, command).unwrap_err();
        assert!(tulle_lab::describe(&error).contains(expected), "{error}");
    };
    check(
        "nowhere",
        "deployment/web",
        &["true"],
        "no cluster `nowhere`; it has koornacht, tion",
    );
    check(
        "tion",
        "deployment/web",
        &["true"],
        "cluster tion is not up",
    );
    check(
        "koornacht",
        "deployment/nope",
        &["true"],
        "deployment/nope has no running pod in koornacht",
    );
    check(
        "koornacht",
        "pod/nope",
        &["true"],
        "pod/nope has no running pod",
    );
    check(
        "koornacht",
        "service/web",
        &["true"],
        "`service/web` is not deployment/NAME",
    );
    check(
        "koornacht",
        "pony/web",
        &["true"],
        "`pony/web` is not deployment/NAME",
    );
    check("koornacht", "deployment/web", &[], "no command");
    check(
        "koornacht",
        "deployment/web",
        &["/no/such"],
        "cannot run `/no/such`: No such file",
    );
    let error = rig.lab.kill("pod/nope").unwrap_err();
    assert_eq!(error.to_string(), "pods \"nope\" not found");
    let error = rig.lab.stop("koornacht/nope").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no component `koornacht/nope`; there are supervisor"
    );
    assert!(rig.lab.logs("../../../etc/passwd").is_err());
}

#[test]
fn nothing_is_applied_when_one_document_is_bad() {
    let rig = Rig::up("tbad");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n";
    let table = [
        ("kind: [", "text:6: "),
        (
            "apiVersion: v1\nkind: Pony\nmetadata: {name: a}",
            "text:6: kind: unknown kind `Pony`",
        ),
        (
            good,
            "text:7: metadata.name: configmap/good is there twice, first at text:3",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: 'x:1'}]}",
            "text:8: spec.containers[0].image: unknown image `x:1`",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: empire",
            "text:9: metadata.namespace: there is no namespace `empire`",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 9.9.9.9, ports: [{port: 1}]}",
            "text:8: spec.clusterIP: 9.9.9.9 is not in",
        ),
    ];
    for (bad, expected) in table {
        let error = rig
            .lab
            .apply_text("koornacht", &format!("{good}---\n{bad}\n"))
            .unwrap_err();
        assert!(
            error.to_string().starts_with(expected),
            "{error}\n  does not begin with {expected}"
        );
        let listed = rig
            .lab
            .get("koornacht", "cm", None, None, OutputFormat::Name)
            .unwrap();
        assert_eq!(listed, "", "something was applied");
    }
}

#[test]
fn get_prints_tables() {
    let rig = Rig::up("tget");
    rig.apply(tulle_lab::KOORNACHT);
    rig.wait_ready("rebel-base");
    rig.wait_ready("x-wing");
    let get = |kind: &str, format| rig.lab.get("koornacht", kind, None, None, format).unwrap();
    let headings = |text: &str| {
        text.lines()
            .next()
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let pods = get("pods", OutputFormat::Wide);
    assert_eq!(
        headings(&pods),
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    );
    assert_eq!(
        pods.lines()
            .filter(|line| line.contains(" 1/1 ") && line.contains("Running"))
            .count(),
        4,
        "{pods}"
    );
    let services = get("svc", OutputFormat::Table);
    assert!(
        services
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("rebel-base   ClusterIP   172.20.1.11   <none>"),
        "{services}"
    );
    let deployments = get("deploy", OutputFormat::Table);
    assert!(
        deployments.contains("rebel-base   2/2     2            2"),
        "{deployments}"
    );
    assert_eq!(
        get("deployments", OutputFormat::Name),
        "deployment.apps/rebel-base\ndeployment.apps/x-wing\n"
    );
    let nodes = get("nodes", OutputFormat::Table);
    assert!(
        nodes.contains("koornacht-worker2   Ready    172.18.1.12"),
        "{nodes}"
    );
}

#[test]
fn get_says_what_is_wrong_and_prints_json() {
    let rig = Rig::up("tjson");
    rig.apply(tulle_lab::KOORNACHT);
    let error = rig
        .lab
        .get("koornacht", "ponies", None, None, OutputFormat::Table)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("there is no kind `ponies`; there are namespaces,"),
        "{error}"
    );
    let error = rig
        .lab
        .get("koornacht", "svc", Some("x"), None, OutputFormat::Table)
        .unwrap_err();
    assert_eq!(error.to_string(), "services \"x\" not found");
    let json = rig
        .lab
        .get(
            "koornacht",
            "svc",
            Some("rebel-base"),
            None,
            OutputFormat::Json,
        )
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["spec"]["clusterIP"], "172.20.1.11");
}

#[test]
fn capture_sees_what_passes_between_clusters() {
    let rig = Rig::up_with("tcap", &["koornacht", "tion"], "");
    rig.apply(&deployment("client", 1, "cilium/json-mock:1", ""));
    rig.lab.apply_text("tion", tulle_lab::TION).unwrap();
    rig.wait_ready("client");
    rig.lab
        .wait_ready("tion", "rebel-base", super::support::DEADLINE)
        .unwrap();
    let file = rig.lab.state_directory().join("link.pcap");
    let capture = rig.lab.capture_link("koornacht", &file).unwrap();
    let address = rig.addresses("tion", "rebel-base").remove(0);
    rig.run("deployment/client", &["curl", "-sS", "-m", "5", &address]);
    let bytes = capture.finish().unwrap();
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(
        contains(b"GET / HTTP/1.1") && contains(b"Foran Tutha"),
        "{} bytes",
        bytes.len()
    );
}
