use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use proptest::prelude::*;
use tulle_wire::xds::DeltaDiscoveryResponse;

use super::{LoadViewError, load, pause_after, save};
use crate::{
    testing::{pod, service},
    xds::{
        ResourceKind, View, XdsSettings,
        testing::{service_resource, workload_resource},
    },
};

fn settings() -> XdsSettings {
    XdsSettings {
        cluster: "koornacht".parse().unwrap(),
        node: "koornacht-worker".to_owned(),
        trust_domain: "koornacht.tulle".parse().unwrap(),
        state: None,
    }
}

/// A view of more resources than one record holds.
fn view() -> View {
    let mut view = View::default();
    let mut resources = vec![service_resource(
        &service("default", "s", &["172.20.1.7"]),
        "v7",
    )];
    for n in 0..1200 {
        let address = format!("10.1.{}.{}", n / 250, n % 250);
        resources.push(workload_resource(
            &pod("koornacht", "default", &format!("p{n}"), &[&address]),
            "v",
        ));
    }
    let response = DeltaDiscoveryResponse {
        resources,
        ..DeltaDiscoveryResponse::default()
    };
    assert!(
        view.apply(ResourceKind::Address, &response)
            .refused
            .is_empty()
    );
    view
}

fn contents(view: &View) -> Vec<(String, String)> {
    ResourceKind::ALL
        .into_iter()
        .flat_map(|kind| view.versions(kind))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

/// A node of a large mesh wrote its whole view twice a second: two thirds of a processor.
#[test]
fn what_takes_long_to_write_is_written_rarely() {
    let seconds = |seconds: f64| Duration::from_secs_f64(seconds);
    assert_eq!(pause_after(seconds(0.001)), seconds(0.5));
    assert_eq!(pause_after(seconds(0.35)), seconds(35.0));
    assert_eq!(pause_after(seconds(100.0)), seconds(60.0));
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    assert!(load(&path, &settings()).unwrap().is_none());
    let saved = view();
    save(&path, &settings(), &saved).unwrap();
    let loaded = load(&path, &settings()).unwrap().unwrap();
    assert_eq!(contents(&loaded), contents(&saved));
    let sorted = |view: &View| {
        let mut all: Vec<_> = view.directory().workloads().cloned().collect();
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        all
    };
    assert_eq!(sorted(&loaded), sorted(&saved));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no draft is left"
    );
}

#[test]
fn another_nodes_view_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    save(&path, &settings(), &view()).unwrap();
    let other = XdsSettings {
        node: "koornacht-worker2".to_owned(),
        ..settings()
    };
    let error = load(&path, &other).unwrap_err();
    assert!(matches!(error, LoadViewError::OtherNode { .. }), "{error}");
}

#[test]
fn another_builds_view_is_asked_for_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    save(&path, &settings(), &view()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header_len = usize::try_from(u32::from_le_bytes(bytes[..4].try_into().unwrap())).unwrap();
    let header = std::str::from_utf8(&bytes[20..20 + header_len]).unwrap();
    let header = header.replace(env!("CARGO_PKG_VERSION"), "0.0.0-old");
    let mut other = Vec::new();
    super::write_record(&mut other, header.as_bytes()).unwrap();
    other.extend_from_slice(&bytes[20 + header_len..]);
    fs::write(&path, other).unwrap();
    let loaded = load(&path, &settings()).unwrap().unwrap();
    assert_eq!(loaded.len(), 1201);
    assert!(
        contents(&loaded)
            .iter()
            .all(|(_, version)| version.is_empty())
    );
}

fn damaged(path: &Path, bytes: &[u8]) -> bool {
    fs::write(path, bytes).unwrap();
    match load(path, &settings()) {
        Err(LoadViewError::Damaged { .. }) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

#[test]
fn a_cut_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    save(&path, &settings(), &view()).unwrap();
    let bytes = fs::read(&path).unwrap();
    for len in [
        0,
        1,
        3,
        19,
        40,
        bytes.len() / 2,
        bytes.len() - 20,
        bytes.len() - 1,
    ] {
        assert!(damaged(&path, &bytes[..len]), "cut after {len}");
    }
    assert!(damaged(&path, b"{\"not\": \"ours\"}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_byte_is_noticed(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        let mut small = View::default();
        let response = DeltaDiscoveryResponse {
            resources: vec![workload_resource(&pod("koornacht", "default", "p", &["10.1.1.5"]), "v")],
            ..DeltaDiscoveryResponse::default()
        };
        small.apply(ResourceKind::Address, &response);
        save(&path, &settings(), &small).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(damaged(&path, &bytes));
    }
}
