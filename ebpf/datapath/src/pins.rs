//! Where things are pinned, and which pins still fit this build.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use rustix::fs::statfs;
use tracing::warn;
use tulle_abi::{MAPS, MapLayout};

use crate::{OpenDatapathError, RemoveDatapathError, UID_LEN_MAX};

/// The directory that holds every pin of one node.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the directories where they are missing.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenDatapathError> {
        let pins = Pins {
            root: root.to_owned(),
        };
        require_bpffs(root)?;
        for dir in [pins.maps(), pins.links(), pins.pods(), pins.gates()] {
            fs::create_dir_all(&dir).map_err(|source| OpenDatapathError::Path {
                action: "make the directory",
                path: dir.clone(),
                source,
            })?;
        }
        Ok(pins)
    }

    /// Where a map of this build is pinned: the layout number is part of the name, so maps of two layouts can stand side by side.
    pub(crate) fn map(&self, map: &MapLayout) -> PathBuf {
        self.maps().join(format!("{}_{}", map.name, map.layout))
    }

    /// Where the link of a hook is pinned.
    pub(crate) fn link(&self, hook: &str) -> PathBuf {
        self.links().join(hook)
    }

    /// Where the steering link of a pod is pinned. `None` when the uid cannot be a file name.
    pub(crate) fn pod(&self, uid: &str) -> Option<PathBuf> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_uid = !uid.is_empty() && uid.len() <= UID_LEN_MAX && uid.bytes().all(is_plain);
        is_uid.then(|| self.pods().join(uid))
    }

    /// Where a link of a pod's gate is pinned: a uid has no underscores, and a bpffs takes no dots.
    pub(crate) fn gate(&self, uid: &str, way: &str, interface: u32) -> PathBuf {
        self.gates().join(format!("{uid}_{way}_{interface}"))
    }

    /// The pins of all links of a pod's gate.
    pub(crate) fn gate_links(&self, uid: &str) -> io::Result<Vec<PathBuf>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.gates())? {
            let entry = entry?;
            let name = entry.file_name();
            let of = name.to_str().and_then(|name| name.split('_').next());
            if of == Some(uid) {
                links.push(entry.path());
            }
        }
        Ok(links)
    }

    /// The uids of the pods that have a steering link.
    pub(crate) fn pod_uids(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for entry in fs::read_dir(self.pods())? {
            uids.extend(entry?.file_name().into_string());
        }
        Ok(uids)
    }

    /// Pins of maps that this build cannot use: another layout, or other sizes under the same layout.
    pub(crate) fn stale_maps(&self) -> Result<Vec<PathBuf>, OpenDatapathError> {
        let fail = |source| OpenDatapathError::Path {
            action: "list",
            path: self.maps(),
            source,
        };
        let mut stale = Vec::new();
        for entry in fs::read_dir(self.maps()).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let known = MAPS.iter().find(|map| self.map(map) == path);
            if !known.is_some_and(|map| fits(map, &path)) {
                warn!(pin = %path.display(), "a pinned map has another layout than this build; it will be replaced");
                stale.push(path);
            }
        }
        self.add_companions(&mut stale);
        Ok(stale)
    }

    /// Maps that only make sense together go together: the old programs go on with the old ones, so nobody may tidy those up.
    fn add_companions(&self, stale: &mut Vec<PathBuf>) {
        let pins: Vec<PathBuf> = MAPS
            .iter()
            .filter(|map| COMPANIONS.contains(&map.name))
            .map(|map| self.map(map))
            .filter(|pin| pin.exists() && !stale.contains(pin))
            .collect();
        if pins.len() < COMPANIONS.len() {
            stale.extend(pins);
        }
    }

    fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn gates(&self) -> PathBuf {
        self.root.join("gates")
    }

    fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }
}

/// The directory may not exist yet; then the nearest one above it counts.
fn require_bpffs(root: &Path) -> Result<(), OpenDatapathError> {
    let existing = root.ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(root);
    let stat = statfs(existing).map_err(|source| OpenDatapathError::Path {
        action: "ask for the file system of",
        path: existing.to_owned(),
        source: source.into(),
    })?;
    if u64::try_from(stat.f_type).ok() == Some(BPF_FS_MAGIC) {
        Ok(())
    } else {
        Err(OpenDatapathError::NotBpffs {
            path: root.to_owned(),
        })
    }
}

/// Removes every pin under a directory, and the directory. What was attached is thereby detached.
///
/// Links go first, so that no program runs on without its maps being reachable.
pub(crate) fn remove_all(root: &Path) -> Result<(), RemoveDatapathError> {
    for part in ["links", "gates", "pods", "maps"] {
        let dir = root.join(part);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(RemoveDatapathError { path: dir, source }),
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(source) => return Err(RemoveDatapathError { path: dir, source }),
            };
            remove_file(&path).map_err(|source| RemoveDatapathError { path, source })?;
        }
        remove_dir(&dir)?;
    }
    remove_dir(root)
}

/// Removes a pin. One that is not there counts as removed.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), RemoveDatapathError> {
    match fs::remove_dir(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(RemoveDatapathError {
            path: path.to_owned(),
            source: err,
        }),
        _ => Ok(()),
    }
}

/// Whether a pinned map has the sizes of this build. The kernel would otherwise write values of another size into our memory.
fn fits(map: &MapLayout, path: &Path) -> bool {
    let is = |found: u32, wanted: usize| usize::try_from(found) == Ok(wanted);
    MapInfo::from_pin(path).is_ok_and(|info| {
        is(info.key_size(), map.key_len)
            && is(info.value_size(), map.value_len)
            && is(info.max_entries(), map.entries_max)
    })
}

/// The maps that refer to each other by service id.
const COMPANIONS: [&str; 5] = ["SERVICES", "BACKENDS", "MEMBERS", "MAGLEV", "AFFINITIES"];
/// The magic number of a bpf file system in `statfs`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
