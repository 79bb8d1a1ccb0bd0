//! Brings a rig up: what is missing is made, what stands is left alone.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::FlockOperation,
    mount::{MountFlags, UnmountFlags},
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    api::{self, ApiError, ClusterApi},
    apply,
    cgroup::{self, CgroupError},
    component::{self, Component, ComponentError, Programs},
    config::{ClusterConfig, Connect, LabConfig, Mesh, Store},
    connect::{self, ConnectError},
    names::{self, Places},
    netns::{self, NamespaceError},
    network, random,
};

/// The rig could not be brought up. `down` removes what was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpError {
    /// Not root.
    #[error("the lab needs root: it makes namespaces, cgroups and mounts; `sudo` mends it")]
    NotRoot,
    /// A program of the system is missing.
    #[error("the program `{program}` is missing; `apt-get install {package}` mends it")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// The lab's file has no such cluster.
    #[error("the lab's file has no cluster `{name}`; it has {}", known.join(", "))]
    UnknownCluster {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The rig runs, built from another file.
    #[error(
        "rig {rig} is up and was built from another lab file; `tulle lab down --rig {rig}` first"
    )]
    OtherFile {
        /// The rig.
        rig: String,
    },
    /// The machine's cgroups are not usable.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The wires could not be laid.
    #[error("cannot build the network")]
    Network(#[from] NamespaceError),
    /// A component did not start.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// A cluster's objects are not usable.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Clusters could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A cluster's builder ended without an answer.
    #[error("the start of cluster {cluster} broke off")]
    BrokenOff {
        /// The cluster.
        cluster: String,
    },
}

/// Brings up the clusters of those names (all, if none is named).
pub(crate) fn up(
    places: &Places,
    config: &LabConfig,
    names: &[String],
    programs: &Programs,
) -> Result<(), UpError> {
    let clusters = choose(config, names)?;
    check_machine(config, programs)?;
    let state = places.state();
    let machine = lock_machine()
        .map_err(|source| fault("lock", Path::new(names::STATE_ROOT_PARENT), source))?;
    fs::create_dir_all(places.clusters_up()).map_err(|source| fault("create", &state, source))?;
    let _lock = lock(places)?;
    keep_config(places, config)?;
    cgroup::create(&places.cgroup())?;
    remember_mounts(places, config)?;
    network::create_router(places)?;
    drop(machine);
    let outcomes = thread::scope(|scope| {
        let builders: Vec<_> = clusters
            .iter()
            .map(|cluster| {
                (
                    cluster,
                    scope.spawn(move || up_cluster(places, config, cluster, programs)),
                )
            })
            .collect();
        let broken_off = |cluster: &ClusterConfig| UpError::BrokenOff {
            cluster: cluster.name.clone(),
        };
        builders
            .into_iter()
            .map(|(cluster, builder)| builder.join().unwrap_or_else(|_| Err(broken_off(cluster))))
            .collect::<Vec<_>>()
    });
    outcomes.into_iter().collect::<Result<(), UpError>>()?;
    Component::Supervisor.start(places, config, programs)?;
    if config.connect == Connect::Auto && config.mesh != Mesh::None && config.store == Store::Etcd {
        connect::connect_all(places, config)?;
    }
    Ok(())
}

fn choose<'c>(config: &'c LabConfig, names: &[String]) -> Result<Vec<&'c ClusterConfig>, UpError> {
    if names.is_empty() {
        return Ok(config.clusters.iter().collect());
    }
    let find = |name: &String| {
        config.cluster(name).ok_or_else(|| UpError::UnknownCluster {
            name: name.clone(),
            known: config
                .clusters
                .iter()
                .map(|cluster| cluster.name.clone())
                .collect(),
        })
    };
    names.iter().map(find).collect()
}

fn check_machine(config: &LabConfig, programs: &Programs) -> Result<(), UpError> {
    if !rustix::process::geteuid().is_root() {
        return Err(UpError::NotRoot);
    }
    let mut needed = vec![
        ("ip", "iproute2"),
        ("nginx", "nginx-light"),
        ("curl", "curl"),
    ];
    if config.mesh != Mesh::None {
        if config.store == Store::Etcd {
            needed.extend([
                ("etcd", "etcd-server"),
                ("etcdctl", "etcd-client"),
                ("openssl", "openssl"),
            ]);
        }
        programs.path("xds-server")?;
    }
    if config.mesh == Mesh::Tulle {
        programs.path("node-proxy")?;
    }
    for (program, package) in needed {
        let found = SYSTEM_DIRECTORIES
            .iter()
            .any(|path| Path::new(path).join(program).exists());
        if !found {
            return Err(UpError::MissingProgram { program, package });
        }
    }
    Ok(())
}

fn lock(places: &Places) -> Result<File, UpError> {
    let path = places.state().join("up.lock");
    let file = File::create(&path).map_err(|source| fault("open", &path, source))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| fault("lock", &path, error.into()))?;
    Ok(file)
}

/// Keeps other rigs from making or removing what all rigs share, until the answer is dropped.
pub(crate) fn lock_machine() -> io::Result<File> {
    let directory = File::open(names::STATE_ROOT_PARENT)?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

/// Keeps the lab's file with the rig, for the commands that follow.
fn keep_config(places: &Places, config: &LabConfig) -> Result<(), UpError> {
    let path = places.config();
    match fs::read_to_string(&path) {
        Ok(known) if known == config.text => Ok(()),
        Ok(_) => Err(UpError::OtherFile {
            rig: places.rig().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            api::write_whole(&path, config.text.as_bytes(), 0o644)
                .map_err(|(path, source)| fault("write", &path, source))
        }
        Err(source) => Err(fault("read", &path, source)),
    }
}

/// Mounts what the machine lacks, and notes it so that the last rig's `down` unmounts it.
fn remember_mounts(places: &Places, config: &LabConfig) -> Result<(), UpError> {
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(|source| fault("read", Path::new("/proc/self/mounts"), source))?;
    let is_mounted = |path: &str| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(path))
    };
    let note = |name: &str| {
        let path = Path::new(names::STATE_ROOT).join(name);
        fs::write(&path, "").map_err(|source| fault("write", &path, source))
    };
    if !is_mounted(NAMESPACES_DIR) {
        // `ip netns add` is going to make it a mount of its own.
        note(MADE_NAMESPACES_MOUNT)?;
    }
    if config.mesh != Mesh::Tulle {
        return Ok(());
    }
    if !is_mounted(names::BPFFS) {
        note(MADE_BPFFS)?;
        let target = Path::new(names::BPFFS);
        rustix::mount::mount("bpf", target, "bpf", MountFlags::empty(), c"mode=0700")
            .map_err(|error| fault("mount the BPF file system on", target, error.into()))?;
    }
    let pins = places.pins_of_rig();
    fs::create_dir_all(&pins).map_err(|source| fault("create", &pins, source))
}

/// Keeps where Tulle's programs lie, for components that are started again later.
pub(crate) fn remember_binaries(places: &Places, directory: &Path) -> Result<(), UpError> {
    let directory =
        fs::canonicalize(directory).map_err(|source| fault("find", directory, source))?;
    let text = directory.to_string_lossy();
    api::write_whole(&places.state().join(BINARIES), text.as_bytes(), 0o644)
        .map_err(|(path, source)| fault("write", &path, source))
}

/// Where Tulle's programs lie, if `up` was told.
pub(crate) fn known_binaries(places: &Places) -> Option<PathBuf> {
    fs::read_to_string(places.state().join(BINARIES))
        .ok()
        .map(PathBuf::from)
}

/// Unmounts what the lab has mounted, if nobody uses it.
pub(crate) fn forget_mounts() {
    for (note, target) in [
        (MADE_BPFFS, names::BPFFS),
        (MADE_NAMESPACES_MOUNT, NAMESPACES_DIR),
    ] {
        let note = Path::new(names::STATE_ROOT).join(note);
        let unused =
            fs::read_dir(target).is_ok_and(|entries| entries.flatten().all(is_kernels_own));
        if note.exists() && unused {
            // Somebody else may have begun to use it in this moment; then it stays, which is right.
            rustix::mount::unmount(target, UnmountFlags::empty()).ok();
        }
        drop(fs::remove_file(note));
    }
}

/// The kernel itself puts `maps.debug` and `progs.debug` on a fresh BPF file system.
fn is_kernels_own(entry: fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().ends_with(".debug")
}

fn up_cluster(
    places: &Places,
    config: &LabConfig,
    cluster: &ClusterConfig,
    programs: &Programs,
) -> Result<(), UpError> {
    let network_done = places.cluster(&cluster.name).join("network.done");
    let api = ClusterApi::at(places, &cluster.name);
    api.create_directories()?;
    if !network_done.exists() || !namespaces_exist(places, cluster) {
        network::create_cluster(places, cluster)?;
        fs::write(&network_done, "").map_err(|source| fault("write", &network_done, source))?;
    }
    for node in &cluster.nodes {
        let directory = places.pod_files(&cluster.name, &node.name);
        fs::create_dir_all(&directory).map_err(|source| fault("create", &directory, source))?;
        cgroup::create(&places.pods_cgroup(&cluster.name, &node.name))?;
        cgroup::create(&places.proxy_cgroup(&cluster.name, &node.name))?;
    }
    apply::create_initial(config, cluster, &api)?;
    create_tokens(places, cluster)?;
    for directory in [
        component::remotes_directory(places, &cluster.name),
        component::ca_directory(places, &cluster.name),
    ] {
        fs::create_dir_all(&directory).map_err(|source| fault("create", &directory, source))?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&directory, permissions)
            .map_err(|source| fault("protect", &directory, source))?;
    }
    start_components(places, config, cluster, programs)?;
    let mark = places.clusters_up().join(&cluster.name);
    api::write_whole(&mark, b"", 0o644).map_err(|(path, source)| fault("write", &path, source))
}

/// Control plane first, one after the other; then all proxies at once.
fn start_components(
    places: &Places,
    config: &LabConfig,
    cluster: &ClusterConfig,
    programs: &Programs,
) -> Result<(), UpError> {
    let (proxies, control_plane): (Vec<_>, Vec<_>) = Component::of_cluster(config, cluster)
        .into_iter()
        .partition(|component| matches!(component, Component::NodeProxy(..)));
    for component in control_plane {
        component.start(places, config, programs)?;
    }
    thread::scope(|scope| {
        let starts: Vec<_> = proxies
            .iter()
            .map(|proxy| scope.spawn(move || proxy.start(places, config, programs)))
            .collect();
        for start in starts {
            let broken_off = || UpError::BrokenOff {
                cluster: cluster.name.clone(),
            };
            start.join().map_err(|_| broken_off())??;
        }
        Ok(())
    })
}

fn namespaces_exist(places: &Places, cluster: &ClusterConfig) -> bool {
    netns::exists(&places.control_plane_namespace(&cluster.name))
        && cluster
            .nodes
            .iter()
            .all(|node| netns::exists(&places.node_namespace(&cluster.name, &node.name)))
}

/// Gives each node and the operator a secret; the control plane gets only the hashes.
fn create_tokens(places: &Places, cluster: &ClusterConfig) -> Result<(), UpError> {
    let token_of = |node: &str| component::token_file(places, &cluster.name, node);
    let nodes = cluster.nodes.iter().map(|node| node.name.as_str());
    create_secrets(
        nodes.map(|node| (node, token_of(node))),
        &component::node_tokens_file(places, &cluster.name),
    )?;
    let operator = component::operator_token_file(places, &cluster.name);
    create_secrets(
        [("lab", operator)],
        &component::operator_tokens_file(places, &cluster.name),
    )
}

/// Makes a secret for each name that has none, and writes all their hashes.
fn create_secrets<'n>(
    secrets: impl IntoIterator<Item = (&'n str, PathBuf)>,
    hashes_file: &Path,
) -> Result<(), UpError> {
    let mut hashes = serde_json::Map::new();
    for (name, path) in secrets {
        if !path.exists() {
            api::write_whole(&path, random::token().as_bytes(), 0o600)
                .map_err(|(path, source)| fault("write", &path, source))?;
        }
        let token = fs::read_to_string(&path).map_err(|source| fault("read", &path, source))?;
        let hash = random::hex(&Sha256::digest(token.trim().as_bytes()));
        hashes.insert(name.to_owned(), serde_json::Value::String(hash));
    }
    let text = serde_json::Value::Object(hashes).to_string();
    if fs::read_to_string(hashes_file).is_ok_and(|known| known == text) {
        return Ok(());
    }
    api::write_whole(hashes_file, text.as_bytes(), 0o600)
        .map_err(|(path, source)| fault("write", &path, source))
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> UpError {
    UpError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

const NAMESPACES_DIR: &str = "/run/netns";
const BINARIES: &str = "bin-dir";
const MADE_BPFFS: &str = ".made-bpffs";
const MADE_NAMESPACES_MOUNT: &str = ".made-netns-mount";
const SYSTEM_DIRECTORIES: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
