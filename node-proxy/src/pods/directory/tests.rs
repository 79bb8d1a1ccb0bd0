use std::{fs, path::Path};

use super::{Marker, PodDirectory, ScanPodsError, read_pod};
use crate::{pods::PodSockmap, run::chain};

const POD: &str = r#"{"uid":"u-1","name":"x-wing","namespace":"default","serviceAccount":"x-wing",
    "addresses":["10.1.1.5","fd00:10:1:1::5"],"netns":"/run/netns/x","nameservers":["172.20.1.10"],
    "search":["default.svc.cluster.local"]}"#;

fn directory() -> (tempfile::TempDir, PodDirectory) {
    let dir = tempfile::tempdir().unwrap();
    let directory = PodDirectory::new(dir.path().to_owned());
    (dir, directory)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn descriptions_are_read() {
    let (dir, directory) = directory();
    fs::write(dir.path().join("default_x-wing.json"), POD).unwrap();
    fs::write(dir.path().join(".default_draft.json"), "{").unwrap();
    fs::write(dir.path().join("default_x-wing.captured"), "u-1").unwrap();
    let scan = directory.scan().unwrap();
    assert_eq!(scan.pods.keys().collect::<Vec<_>>(), ["default_x-wing"]);
    let pod = &scan.pods["default_x-wing"];
    assert_eq!(pod.service_account, "x-wing");
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(pod.nameservers.len(), 1);
    assert!(scan.invalid.is_empty());
}

#[test]
fn a_rewritten_file_is_read_again_and_an_unchanged_one_is_not() {
    let (dir, directory) = directory();
    let path = dir.path().join("default_x-wing.json");
    fs::write(&path, POD).unwrap();
    let first = directory.scan().unwrap();
    assert_eq!(directory.scan().unwrap(), first);
    let draft = dir.path().join("draft");
    fs::write(&draft, POD.replace("u-1", "u-22")).unwrap();
    fs::rename(&draft, &path).unwrap();
    assert_eq!(directory.scan().unwrap().pods["default_x-wing"].uid, "u-22");
    fs::remove_file(&path).unwrap();
    assert!(directory.scan().unwrap().pods.is_empty());
}

#[test]
fn what_describes_no_pod_is_marked_with_a_sentence() {
    let (dir, directory) = directory();
    fs::write(dir.path().join("default_x-wing.json"), "{").unwrap();
    let scan = directory.scan().unwrap();
    assert!(scan.pods.is_empty());
    assert!(scan.invalid.contains("default_x-wing"));
    let sentence = fs::read_to_string(dir.path().join("default_x-wing.error")).unwrap();
    assert!(sentence.contains("does not describe a pod"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1);
}

#[test]
fn each_field_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let check = |content: String, expected: &str| {
        let path = dir.path().join("default_x-wing.json");
        fs::write(&path, content).unwrap();
        let error = chain(&read_pod("default_x-wing", &path).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    check(POD.replace("u-1", "../x"), "uid");
    check(POD.replace("u-1", ""), "uid");
    check(
        POD.replace(r#""name":"x-wing""#, r#""name":"other""#),
        "name",
    );
    check(
        POD.replace(r#""serviceAccount":"x-wing""#, r#""serviceAccount":"""#),
        "serviceAccount",
    );
    check(
        POD.replace(r#""10.1.1.5","fd00:10:1:1::5""#, ""),
        "addresses",
    );
    check(POD.replace("/run/netns/x", "netns"), "netns");
    check(" ".repeat(70_000), "longer than");
    check(
        POD.replace(r#"{"uid""#, r#"{"sockmap":"on","uid""#),
        "does not describe a pod: sockmap: unknown variant `on`, expected `auto` or `off`",
    );
    check(format!("{POD} {{}}"), "trailing characters");
}

#[test]
fn a_pod_may_do_without_the_sockmap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("default_x-wing.json");
    let read = |content: &str| {
        fs::write(&path, content).unwrap();
        read_pod("default_x-wing", &path).unwrap().sockmap
    };
    assert_eq!(read(POD), PodSockmap::Auto);
    let with = |mode| POD.replace(r#"{"uid""#, &format!(r#"{{"sockmap":"{mode}","uid""#));
    assert_eq!(read(&with("off")), PodSockmap::Off);
    assert_eq!(read(&with("auto")), PodSockmap::Auto);
}

#[test]
fn markers_replace_each_other() {
    let (dir, directory) = directory();
    directory.mark("default_a", Marker::Error, "why");
    directory.mark("default_a", Marker::Captured, "u-1");
    assert_eq!(names(dir.path()), ["default_a.captured"]);
    assert_eq!(
        fs::read_to_string(dir.path().join("default_a.captured")).unwrap(),
        "u-1\n"
    );
    directory.mark("default_b", Marker::Error, "why");
    fs::write(dir.path().join("default_a.json"), POD).unwrap();
    directory.unmark("default_a");
    directory.remove_all_markers();
    assert_eq!(names(dir.path()), ["default_a.json"]);
}

#[test]
fn a_directory_that_is_gone_is_an_error() {
    let (dir, directory) = directory();
    drop(dir);
    assert!(matches!(directory.scan(), Err(ScanPodsError::Read { .. })));
}
