//! Files that name other clusters.

use std::fs;

use tempfile::TempDir;

use super::*;

const GOOD: &str =
    "name: tion\nendpoints: [https://172.18.2.10:2379]\nca: ca.pem\ncert: /etc/c.pem\nkey: k.pem\n";

fn read(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let (configured, problems) = read_directory(directory.path(), None);
    let names = configured.keys().map(ToString::to_string).collect();
    (names, problems.into_iter().map(|p| p.message).collect())
}

#[test]
fn file_names_a_cluster() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("t.yaml");
    fs::write(&path, GOOD).unwrap();
    let (name, settings) = read_file(directory.path(), &path, None).unwrap();
    assert_eq!(name.as_str(), "tion");
    assert_eq!(settings.kind, RemoteKind::Tulle);
    assert_eq!(
        settings.etcd.ca,
        PemSource::File(directory.path().join("ca.pem"))
    );
    assert_eq!(settings.etcd.cert, PemSource::File("/etc/c.pem".into()));
}

#[test]
fn files_may_hold_the_credentials_and_leave_the_ca_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("t.yaml");
    let inline = "name: tion\nkind: cilium\nserverName: etcd.tion\nendpoints: [https://lb.example:2379]\ncert: |\n  -----BEGIN CERTIFICATE-----\n  x\nkey: k.pem\n";
    fs::write(&path, inline).unwrap();
    let refused = read_file(directory.path(), &path, None).unwrap_err();
    assert!(refused.message.contains("ca: is missing"), "{refused:?}");
    let own = PemSource::File("/own/ca.pem".into());
    let (_, wanted) = read_file(directory.path(), &path, Some(&own)).unwrap();
    assert_eq!(wanted.kind, RemoteKind::Cilium);
    assert_eq!(wanted.etcd.ca, own);
    assert_eq!(wanted.etcd.server_name.as_deref(), Some("etcd.tion"));
    // What is in a file must not come into a log.
    assert!(!format!("{wanted:?}").contains("BEGIN"), "{wanted:?}");
    // Another content of a file is another connection.
    fs::write(directory.path().join("k.pem"), "1").unwrap();
    let (_, changed) = read_file(directory.path(), &path, Some(&own)).unwrap();
    assert_ne!(changed.contents, wanted.contents);
}

#[test]
fn bad_files_are_told_and_good_ones_used() {
    let check = |text: &str, message: &str| {
        let (names, problems) = read(&[
            ("bad.yaml", text),
            ("good.yaml", &GOOD.replace("tion", "yavin")),
        ]);
        assert_eq!(names, ["yavin"], "{text}");
        assert_eq!(problems.len(), 1, "{text}");
        assert!(problems[0].contains(message), "{problems:?}");
    };
    check("", "missing field");
    check(&GOOD.replace("tion", "T!"), "cluster name");
    check(&GOOD.replace("https", "http"), "expected https");
    check(
        &GOOD.replace("[https://172.18.2.10:2379]", "[]"),
        "expected https",
    );
    check(&format!("{GOOD}colour: red\n"), "colour");
    check(&GOOD.replace("tion", "yavin"), "already configured");
}

#[test]
fn endpoints_are_https_with_a_host() {
    let check = |text: &str, expected: bool| assert_eq!(is_https(text), expected, "{text}");
    check("https://10.0.0.1:2379", true);
    check("https://etcd.example", true);
    check("https://[fd00::1]:2379", true);
    check("http://10.0.0.1:2379", false);
    check("10.0.0.1:2379", false);
    check("https://", false);
    check("https://host/path", false);
}
