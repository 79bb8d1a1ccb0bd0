//! The house keeps its shape: which crate may use which, who owns which vendor crate, how long a file may get.
//!
//! The tables here are the design's; a new arrow or a new owner is a change to this file, made alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Which crates of the workspace each crate may use. Tests are no exception, save the crates below `tests/`.
const ARROWS: [(&str, &[&str]); 15] = [
    ("tulle-model", &[]),
    ("tulle-balance", &["tulle-model"]),
    ("tulle-policy", &["tulle-model"]),
    ("tulle-wire", &["tulle-model"]),
    ("tulle-abi", &[]),
    (
        "tulle-datapath",
        &["tulle-abi", "tulle-model", "tulle-balance"],
    ),
    ("tulle-identity", &["tulle-model", "tulle-wire"]),
    (
        "tulle-node-proxy",
        &[
            "tulle-model",
            "tulle-wire",
            "tulle-balance",
            "tulle-policy",
            "tulle-identity",
            "tulle-abi",
            "tulle-datapath",
        ],
    ),
    (
        "tulle-xds-server",
        &[
            "tulle-model",
            "tulle-wire",
            "tulle-balance",
            "tulle-policy",
            "tulle-identity",
        ],
    ),
    ("tulle-lab", &["tulle-model"]),
    (
        "tulle",
        &[
            "tulle-model",
            "tulle-wire",
            "tulle-policy",
            "tulle-identity",
            "tulle-lab",
        ],
    ),
    // The end-to-end tests drive built programs; they use library crates only to play a foreign peer, and the interpreter of policies to
    // hold what becomes of connections against it.
    (
        "tulle-e2e",
        &[
            "tulle-lab",
            "tulle-model",
            "tulle-wire",
            "tulle-identity",
            "tulle-policy",
        ],
    ),
    // The measurements play whole clusters and nodes, so they may use what those are made of.
    (
        "tulle-bench",
        &[
            "tulle-e2e",
            "tulle-lab",
            "tulle-model",
            "tulle-wire",
            "tulle-identity",
            "tulle-xds-server",
        ],
    ),
    // The fuzz targets reach every parser of foreign bytes.
    (
        "tulle-fuzz",
        &[
            "tulle-model",
            "tulle-policy",
            "tulle-wire",
            "tulle-xds-server",
            "tulle-node-proxy",
        ],
    ),
    ("xtask", &[]),
];

/// Who alone may depend on a vendor crate, directly.
const OWNERS: [(&str, &[&str]); 12] = [
    ("aya", &["tulle-datapath", "tulle-abi"]),
    ("rustls", &["tulle-identity"]),
    ("tokio-rustls", &["tulle-identity"]),
    ("rcgen", &["tulle-identity"]),
    ("x509-parser", &["tulle-identity"]),
    ("kube", &["tulle-xds-server"]),
    ("etcd-client", &["tulle-xds-server"]),
    ("h2", &["tulle-node-proxy"]),
    ("quinn", &["tulle-node-proxy"]),
    ("hickory-proto", &["tulle-node-proxy"]),
    (
        "tonic",
        &["tulle-identity", "tulle-xds-server", "tulle-node-proxy"],
    ),
    ("k8s-openapi", &["tulle-xds-server", "tulle-lab"]),
];

/// A test may play a peer with its own TLS and HTTP/2, since it must send what our own code never would.
const PLAYS_FOREIGN_PEERS: [&str; 2] = ["tulle-e2e", "tulle-bench"];

/// What would let a pure crate do I/O, read a clock or draw a random number, at any depth.
const IMPURE: [&str; 12] = [
    "tokio",
    "mio",
    "socket2",
    "rand",
    "getrandom",
    "fastrand",
    "async-std",
    "smol",
    "hyper",
    "rustix",
    "chrono",
    "notify",
];

const FILE_LINES_MAX: usize = 800;
/// Files that may be longer. The list only shrinks.
const LONG_FILES: [&str; 0] = [];

#[test]
fn no_crate_uses_another_against_the_arrows() -> Result<()> {
    let metadata = metadata()?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let ours: BTreeSet<&str> = members(&metadata)
        .map(|package| package.name.as_str())
        .collect();
    let mut faults = Vec::new();
    for package in members(&metadata) {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            faults.push(format!(
                "{} has no line in the table of arrows",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if ours.contains(name) && !allowed.contains(&name) {
                faults.push(format!("{} must not use {name}", package.name));
            }
        }
    }
    for name in allowed.keys().filter(|name| !ours.contains(*name)) {
        faults.push(format!(
            "the table of arrows names {name}, which is no member of the workspace"
        ));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn a_vendor_crate_is_used_by_its_owner_only() -> Result<()> {
    let metadata = metadata()?;
    let mut faults = Vec::new();
    let judged =
        members(&metadata).filter(|package| !PLAYS_FOREIGN_PEERS.contains(&package.name.as_str()));
    for package in judged {
        for dependency in &package.dependencies {
            let owners = OWNERS
                .iter()
                .find(|(vendor, _)| *vendor == dependency.name.as_str());
            if let Some((vendor, owners)) = owners
                && !owners.contains(&package.name.as_str())
            {
                faults.push(format!(
                    "{} must not use {vendor}; only {} may",
                    package.name,
                    owners.join(", ")
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn what_lies_in_mesh_is_pure() -> Result<()> {
    let metadata = metadata()?;
    let room = metadata.workspace_root.join("mesh");
    let pure: Vec<&Package> = members(&metadata)
        .filter(|package| package.manifest_path.starts_with(&room))
        .collect();
    assert!(pure.len() >= 4, "the room `mesh` was not found");
    let mut faults = Vec::new();
    for package in pure {
        let below = everything_below(metadata.workspace_root.as_std_path(), &package.name)?;
        assert!(
            below.contains(package.name.as_str()),
            "cargo tree printed another form than expected"
        );
        for name in below {
            if IMPURE.contains(&name.as_str()) {
                faults.push(format!("{} reaches {name}", package.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn every_crate_obeys_the_lints_of_the_workspace() -> Result<()> {
    let metadata = metadata()?;
    for package in members(&metadata) {
        let manifest = fs::read_to_string(&package.manifest_path)?;
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} does not take the lints of the workspace",
            package.manifest_path
        );
        assert_eq!(
            package.license.as_deref(),
            Some("Apache-2.0"),
            "{}",
            package.name
        );
        assert_eq!(
            package.publish.as_deref(),
            Some(&[][..]),
            "{} may be published",
            package.name
        );
    }
    Ok(())
}

#[test]
fn no_file_is_too_long_and_none_is_called_mod() -> Result<()> {
    let root = metadata()?.workspace_root.into_std_path_buf();
    let mut faults = Vec::new();
    for file in rust_files(&root)? {
        let name = file
            .strip_prefix(&root)
            .unwrap_or(&file)
            .display()
            .to_string();
        let lines = fs::read_to_string(&file)?.lines().count();
        let excepted = LONG_FILES.contains(&name.as_str());
        if lines > FILE_LINES_MAX && !excepted {
            faults.push(format!(
                "{name} has {lines} lines, more than {FILE_LINES_MAX}: look for the seam"
            ));
        }
        if lines <= FILE_LINES_MAX && excepted {
            faults.push(format!(
                "{name} is short enough by now: take it off the list of exceptions"
            ));
        }
        if file.file_name().is_some_and(|name| name == "mod.rs") {
            faults.push(format!(
                "{name}: write `foo.rs` beside `foo/`, never `mod.rs`"
            ));
        }
    }
    for name in LONG_FILES.iter().filter(|name| !root.join(name).is_file()) {
        faults.push(format!(
            "{name} is gone: take it off the list of exceptions"
        ));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The dependency bans of `deny.toml` and the table of owners here say the same.
#[test]
fn deny_toml_names_the_same_owners() -> Result<()> {
    let root = metadata()?.workspace_root;
    let text = fs::read_to_string(root.join("deny.toml"))?;
    for (vendor, owners) in OWNERS {
        if FOREIGN_CRATES_USE_IT_TOO.contains(&vendor) {
            continue;
        }
        let line = text
            .lines()
            .find(|line| line.contains(&format!("crate = \"{vendor}\"")))
            .with_context(|| format!("deny.toml does not ban {vendor}"))?;
        for owner in owners {
            assert!(
                line.contains(&format!("\"{owner}\"")),
                "deny.toml: {vendor} lacks the wrapper {owner}"
            );
        }
    }
    Ok(())
}

/// `cargo deny` counts every dependant as a user, so crates that other libraries use as well are held by this file alone.
const FOREIGN_CRATES_USE_IT_TOO: [&str; 5] =
    ["rustls", "tokio-rustls", "h2", "tonic", "x509-parser"];

fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
        .no_deps()
        .other_options(["--locked".to_owned()])
        .exec()
        .context("cargo metadata failed; is Cargo.lock up to date?")
}

fn members(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.workspace_packages().into_iter()
}

/// The names of all crates that a crate is built with, without those that only its tests use.
///
/// `cargo tree` and not `cargo metadata`, which would count features that only other members of the workspace switch on. What a hash
/// function draws for its own table, as the standard library's does too, changes no result: it is not followed.
fn everything_below(root: &Path, package: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}",
        ])
        .args(["--package", package, "--prune", "ahash"])
        .current_dir(root)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}
