//! A real etcd in a rig's control plane: who may do what with it. Needs root.

use std::process::Command;

use super::{Component, ETCD_PORT, Programs, etcd_certificates};
use crate::{
    cgroup, config::LabConfig, lab::DownGuard, names::Places, netns, network, pki::Holder, tool,
};

/// The output of etcdctl as one of the holders; the error is what it prints.
fn etcdctl(places: &Places, holder: Option<Holder>, arguments: &[&str]) -> Result<String, String> {
    let certificates = etcd_certificates(places, "koornacht");
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://172.18.1.10:{ETCD_PORT}"))
        .args(["--command-timeout=3s", "--dial-timeout=2s"])
        .arg("--cacert")
        .arg(certificates.ca())
        .args(arguments);
    if let Some(holder) = holder {
        command.arg("--cert").arg(certificates.certificate(holder));
        command.arg("--key").arg(certificates.key(holder));
    }
    // From a node of another cluster: as its xds-server would.
    netns::inside(&places.control_plane_namespace("tion"), || {
        tool::run(command, None)
    })
    .unwrap()
    .map_err(|error| error.to_string())
}

#[test]
fn other_clusters_may_read_and_nothing_else() {
    let _guard = DownGuard::fresh("tetcd").unwrap();
    let config = LabConfig::built_in().unwrap().with_rig("tetcd").unwrap();
    let places = Places::of("tetcd").unwrap();
    cgroup::create(&places.cgroup()).unwrap();
    std::fs::create_dir_all(places.clusters_up()).unwrap();
    network::create_router(&places).unwrap();
    for cluster in &config.clusters {
        std::fs::create_dir_all(places.cluster(&cluster.name)).unwrap();
        network::create_cluster(&places, cluster).unwrap();
    }
    let etcd = Component::parse(&config, "koornacht/etcd").unwrap();
    let programs = Programs::find(None);
    etcd.start(&places, &config, &programs).unwrap();
    let run = |holder, arguments: &[&str]| etcdctl(&places, holder, arguments);
    let (own, remote) = (Some(Holder::XdsServer), Some(Holder::Remote));

    run(own, &["put", "/tulle/v1/koornacht/info", "1"]).unwrap();
    assert_eq!(
        run(remote, &["get", "/tulle/v1/koornacht/info"]).unwrap(),
        "/tulle/v1/koornacht/info\n1\n"
    );
    let refused: [(Option<Holder>, &[&str]); 6] = [
        (remote, &["put", "/tulle/v1/koornacht/info", "2"]),
        (remote, &["del", "/tulle/v1/koornacht/info"]),
        (remote, &["get", "--prefix", "/"]),
        (own, &["put", "/tulle/v1/tion/info", "1"]),
        (own, &["get", "/tulle/v1/koornacht0"]),
        (remote, &["user", "list"]),
    ];
    for (holder, arguments) in refused {
        let error = run(holder, arguments).unwrap_err();
        assert!(
            error.contains("permission denied"),
            "{arguments:?}: {error}"
        );
    }
    run(None, &["get", "/tulle/v1/koornacht/info"]).unwrap_err();

    // It keeps what it has, and its users, over a kill.
    etcd.kill(&places).unwrap();
    assert_eq!(etcd.process(&places), None);
    assert_eq!(etcd.health(&places, &config), Err("not running".to_owned()));
    etcd.start(&places, &config, &programs).unwrap();
    assert_eq!(
        run(
            remote,
            &["get", "--print-value-only", "/tulle/v1/koornacht/info"]
        )
        .unwrap(),
        "1\n"
    );
    run(remote, &["put", "/tulle/v1/koornacht/info", "2"]).unwrap_err();
    etcd.stop(&places).unwrap();
}

#[test]
fn component_that_ends_at_once_is_reported_with_its_log() {
    let _guard = DownGuard::fresh("tlog").unwrap();
    let config = LabConfig::built_in().unwrap().with_rig("tlog").unwrap();
    let places = Places::of("tlog").unwrap();
    std::fs::create_dir_all(places.state()).unwrap();
    cgroup::create(&places.cgroup()).unwrap();
    network::create_router(&places).unwrap();
    let directory = tempfile::tempdir().unwrap();
    network::create_cluster(&places, &config.clusters[0]).unwrap();
    let server = Component::parse(&config, "koornacht/xds-server").unwrap();
    let programs = Programs::find(Some(directory.path()));
    let program = directory.path().join("xds-server");
    std::fs::write(&program, "#!/bin/sh\necho the reason >&2\nexit 1\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let error = server
        .start(&places, &config, &programs)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("koornacht/xds-server is not healthy"),
        "{error}"
    );
    assert!(error.ends_with("the reason"), "{error}");
}
