//! Debian packages, installed when the program that they bring is missing.
//!
//! An installation must leave the machine as quiet as it was: no service that a package brings is started, now or at boot.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::Purpose;
use crate::process::{Run, is_installed};

/// Programs and files that the build needs, and the packages that bring them.
const FOR_BUILDING: [(&str, &str); 3] = [
    ("gcc", "gcc"),
    // The build script of the crate `etcd-client` calls it, with definitions that import the standard ones.
    ("protoc", "protobuf-compiler"),
    (
        "/usr/include/google/protobuf/descriptor.proto",
        "libprotobuf-dev",
    ),
];

/// Programs that the lab and the tests call, and the packages that bring them.
const FOR_RUNNING: [(&str, &str); 12] = [
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("tcpdump", "tcpdump"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("nsenter", "util-linux"),
];

/// Services that the packages above bring.
const SERVICES: [(&str, &str); 2] = [("etcd-server", "etcd"), ("nginx-light", "nginx")];

const INSTALL_LIMIT: Duration = Duration::from_mins(15);

/// Debian's way to say whether a package may start its service; exit code 101 means no.
const START_POLICY: &str = "/usr/sbin/policy-rc.d";
const START_POLICY_TEXT: &str = "#!/bin/sh\n# Written by `cargo xtask setup` of Tulle for the time of an installation.\nexit 101\n";

/// Installs the packages whose programs are missing; does nothing when there are none.
pub(super) fn install_missing(purpose: Purpose) -> Result<()> {
    remove_stale_policy();
    let missing = missing(purpose, is_installed);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_installed("apt-get") {
        bail!(
            "these programs are missing and this is no Debian: install what brings them ({}) by hand",
            missing.join(", ")
        );
    }
    let apt = || {
        Run::new("apt-get")
            .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit(INSTALL_LIMIT)
    };
    let quiet = QuietServices::begin()?;
    apt().arg("update").run()?;
    apt()
        .args(["install", "-y", "--no-install-recommends"])
        .args(&missing)
        .run()?;
    drop(quiet);
    for (package, service) in SERVICES {
        if missing.contains(&package) && is_installed("systemctl") {
            Run::new("systemctl")
                .args(["--quiet", "disable", service])
                .run()?;
        }
    }
    Ok(())
}

fn missing(purpose: Purpose, installed: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let for_running = match purpose {
        Purpose::Building => &[][..],
        Purpose::Running => &FOR_RUNNING,
    };
    FOR_BUILDING
        .iter()
        .chain(for_running)
        .filter(|(program, _)| !installed(program))
        .map(|(_, package)| *package)
        .collect()
}

/// Keeps packages from starting their services until it is dropped.
struct QuietServices {
    ours: bool,
}

impl QuietServices {
    fn begin() -> Result<Self> {
        let path = Path::new(START_POLICY);
        // A policy of the machine's owner is not ours to replace.
        if path.exists() {
            return Ok(Self { ours: false });
        }
        fs::write(path, START_POLICY_TEXT)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {START_POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for QuietServices {
    fn drop(&mut self) {
        if self.ours {
            remove_stale_policy();
        }
    }
}

/// Removes our own policy, also that of a run that was killed; a foreign one stays.
fn remove_stale_policy() {
    if fs::read_to_string(START_POLICY).is_ok_and(|text| text == START_POLICY_TEXT) {
        fs::remove_file(START_POLICY).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_installed() {
        use Purpose::{Building, Running};
        assert!(missing(Running, |_| true).is_empty());
        assert_eq!(
            missing(Running, |program| program != "h2load"),
            ["nghttp2-client"]
        );
        assert_eq!(
            missing(Building, |_| false),
            ["gcc", "protobuf-compiler", "libprotobuf-dev"]
        );
        assert_eq!(
            missing(Building, |wanted| !wanted.ends_with(".proto")),
            ["libprotobuf-dev"]
        );
        assert_eq!(
            missing(Running, |_| false).len(),
            FOR_BUILDING.len() + FOR_RUNNING.len()
        );
    }
}
