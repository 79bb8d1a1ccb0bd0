use std::{fs, path::PathBuf, time::Duration};

use clap::Parser;
use tulle_datapath::{Enforcement, Pacing};

use super::{Config, ConfigFaults, Lanes, RawConfig, SameNode, cgroup::locate};
use crate::plane::InboundMode;

/// A directory with everything that the required flags name.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pods")).unwrap();
        fs::create_dir(dir.path().join("cgroup")).unwrap();
        fs::write(dir.path().join("cgroup/cgroup.controllers"), "").unwrap();
        fs::write(dir.path().join("root.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(dir.path().join("token"), "secret\n").unwrap();
        Scene { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn arguments(&self) -> Vec<String> {
        let flags = [
            ("--cluster", "koornacht".to_owned()),
            ("--node", "koornacht-worker".to_owned()),
            ("--trust-domain", "koornacht.tulle".to_owned()),
            ("--pod-dir", self.path("pods")),
            ("--xds", "https://172.18.1.10:15012".to_owned()),
            ("--xds-root", self.path("root.pem")),
            ("--token", self.path("token")),
            ("--capture-cgroup", self.path("cgroup")),
            ("--pin-dir", "/sys/fs/bpf/tulle/n".to_owned()),
            ("--proxy-cgroup", self.path("cgroup")),
        ];
        flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }

    fn config(&self, more: &[&str]) -> Result<Config, ConfigFaults> {
        let more = more.iter().map(|text| (*text).to_owned());
        let all = std::iter::once("node-proxy".to_owned())
            .chain(self.arguments())
            .chain(more);
        Config::try_from(RawConfig::try_parse_from(all).unwrap())
    }
}

fn flags_of(faults: &ConfigFaults) -> Vec<&'static str> {
    faults.0.iter().map(|fault| fault.flag).collect()
}

#[test]
fn the_required_flags_are_enough() {
    let config = Scene::new().config(&[]).unwrap();
    assert_eq!(config.xds.host, "172.18.1.10");
    assert_eq!(config.xds.port, 15012);
    assert_eq!(config.inbound, InboundMode::Permissive);
    assert_eq!(config.same_node, SameNode::Direct);
    assert_eq!(config.lanes, Lanes::On);
    assert_eq!(config.admin.to_string(), "127.0.0.1:15000");
    assert_eq!(config.drain_timeout.as_secs(), 10);
    assert_eq!(config.names_ttl_min, Duration::from_secs(3600));
    assert_eq!(config.state, None);
}

#[test]
fn every_missing_flag_is_named_at_once() {
    let raw = RawConfig::try_parse_from(["node-proxy"]).unwrap();
    let faults = Config::try_from(raw).unwrap_err();
    let required = [
        "--cluster",
        "--node",
        "--trust-domain",
        "--pod-dir",
        "--xds",
        "--xds-root",
        "--token",
        "--capture-cgroup",
        "--pin-dir",
    ];
    let found = flags_of(&faults);
    assert!(required.iter().all(|flag| found.contains(flag)), "{faults}");
}

#[test]
fn every_fault_is_reported_at_once() {
    let raw = RawConfig {
        cluster: Some("Upper".to_owned()),
        node: Some("no spaces".to_owned()),
        trust_domain: Some(String::new()),
        pod_dir: Some(PathBuf::from("/nonexistent")),
        xds: Some("http://host:1".to_owned()),
        xds_root: Some(PathBuf::from("/nonexistent")),
        token: Some(PathBuf::from("/nonexistent")),
        capture_cgroup: Some(PathBuf::from("/tmp")),
        pin_dir: Some(PathBuf::from("relative")),
        proxy_cgroup: Some(PathBuf::from("/nonexistent")),
        inbound: "lenient".to_owned(),
        sockmap: "on".to_owned(),
        pacing: "slow".to_owned(),
        admin: "0.0.0.0:15000".to_owned(),
        drain_timeout: "-1".to_owned(),
        host_address: vec!["somewhere".to_owned()],
        same_node: "maybe".to_owned(),
        lanes: "some".to_owned(),
        denied: "quietly".to_owned(),
        names_min_ttl: "an hour".to_owned(),
        state: Some(PathBuf::from("/nonexistent/state")),
    };
    let faults = Config::try_from(raw).unwrap_err();
    assert_eq!(faults.0.len(), 21, "{faults}");
    let text = faults.to_string();
    assert!(
        text.contains("--xds: \"http://host:1\" is not an address"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 22);
}

#[test]
fn values_are_understood() {
    let scene = Scene::new();
    let state = scene.path("state");
    let more = [
        "--inbound",
        "strict",
        "--sockmap",
        "off",
        "--pacing",
        "system",
        "--admin",
        "[::1]:0",
        "--drain-timeout",
        "0",
        "--host-address",
        "172.18.1.11",
        "--host-address",
        "fd00:18:1::11",
        "--same-node",
        "mtls",
        "--lanes",
        "off",
        "--denied",
        "reject",
        "--names-min-ttl",
        "30",
        "--state",
        &state,
    ];
    let config = scene.config(&more).unwrap();
    assert_eq!(config.inbound, InboundMode::Strict);
    assert_eq!(config.same_node, SameNode::Mtls);
    assert_eq!(config.lanes, Lanes::Off);
    assert_eq!(config.pacing, Pacing::System);
    assert_eq!(config.denied, Enforcement::Reject);
    assert_eq!(config.names_ttl_min, Duration::from_secs(30));
    assert_eq!(config.host_addresses.len(), 2);
    assert_eq!(config.state, Some(PathBuf::from(state)));
}

#[test]
fn addresses_of_the_server_are_strict() {
    let scene = Scene::new();
    let check = |url: &str, host: Option<&str>| {
        let mut raw = RawConfig::try_parse_from(
            std::iter::once("node-proxy".to_owned()).chain(scene.arguments()),
        )
        .unwrap();
        raw.xds = Some(url.to_owned());
        let config = Config::try_from(raw);
        assert_eq!(config.ok().map(|c| c.xds.host).as_deref(), host, "{url}");
    };
    check(
        "https://xds-server.tulle-system.svc:15012",
        Some("xds-server.tulle-system.svc"),
    );
    check("https://[fd00::10]:15012/", Some("fd00::10"));
    check("https://host", None);
    check("https://host:0", None);
    check("https://host:15012/path", None);
    check("host:15012", None);
}

#[test]
fn the_own_cgroup_is_found_below_its_mount() {
    let check = |membership: &str, mounts: &str, expected: Option<&str>| {
        assert_eq!(locate(membership, mounts), expected.map(PathBuf::from));
    };
    let v1 = "30 23 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n";
    let v2 = "31 23 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
    let part = "31 23 0:27 /kube /cg rw - cgroup2 cgroup2 rw\n";
    check(
        "1:cpu:/x\n0::/a/b\n",
        &format!("{v1}{v2}"),
        Some("/sys/fs/cgroup/unified/a/b"),
    );
    check("0::/kube/pod\n", part, Some("/cg/pod"));
    check("0::/elsewhere\n", part, None);
    check("1:cpu:/x\n", v2, None);
    check("0::/a\n", v1, None);
}
