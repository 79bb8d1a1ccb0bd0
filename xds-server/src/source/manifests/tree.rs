//! The directory as it was last read: which file defines what, and what is wrong with it.
//!
//! **Invariant:** the objects that count are a function of the files' last good contents alone, never of the order of
//! events: where two files define one object, the smaller path wins (`tree_forgets_its_history`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tulle_policy::ReadSettings;

use super::file::{Fault, Manifest, parse_manifest};
use crate::source::{Object, ObjectChange, ObjectKey, Problem};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    policies: ReadSettings,
    files: BTreeMap<PathBuf, File>,
    owners: HashMap<ObjectKey, BTreeSet<PathBuf>>,
    /// What is wrong with the directory itself, by path.
    faults: BTreeMap<PathBuf, Fault>,
    /// Kinds that were named in the log once.
    ignored_kinds: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct File {
    signature: Option<Signature>,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    fault: Option<Fault>,
}

/// Tells whether a file was replaced or written since it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signature {
    inode: u64,
    len: u64,
    modified: SystemTime,
    /// Written so shortly before it was read that another write may carry the same time.
    racy: bool,
}

impl Tree {
    pub(super) fn new(root: PathBuf, policies: ReadSettings) -> Self {
        Tree {
            root,
            policies,
            files: BTreeMap::new(),
            owners: HashMap::new(),
            faults: BTreeMap::new(),
            ignored_kinds: BTreeSet::new(),
        }
    }

    /// Reads again what may have changed at or below `path`, whatever it is now.
    pub(super) fn refresh(&mut self, path: &Path, changes: &mut Vec<ObjectChange>) {
        self.visit(path, Reread::Always, changes);
    }

    /// Walks everything and reads the files that look different.
    pub(super) fn refresh_all(&mut self, changes: &mut Vec<ObjectChange>) {
        let root = self.root.clone();
        self.visit(&root, Reread::IfDifferent, changes);
    }

    /// All that is wrong now, at most `PROBLEMS_MAX`.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let of_files = self
            .files
            .iter()
            .filter_map(|(path, f)| Some((path, f.fault.as_ref()?)));
        let broken = self
            .faults
            .iter()
            .chain(of_files)
            .map(|(path, fault)| Problem {
                path: path.clone(),
                line: fault.line,
                field: fault.field.clone(),
                message: fault.message.clone(),
            });
        let contested = self.owners.iter().filter(|(_, paths)| paths.len() > 1);
        let doubles = contested.flat_map(|(key, paths)| {
            let winner = paths.first();
            paths.iter().skip(1).filter_map(move |loser| {
                Some(Problem {
                    path: loser.clone(),
                    line: None,
                    field: None,
                    message: format!(
                        "{key} is already defined in {}, which counts",
                        winner?.display()
                    ),
                })
            })
        });
        let mut problems: Vec<Problem> = broken.chain(doubles).take(PROBLEMS_MAX).collect();
        problems.sort_by(|a, b| a.path.cmp(&b.path).then_with(|| a.message.cmp(&b.message)));
        problems
    }

    /// How many objects count.
    pub(super) fn objects_len(&self) -> usize {
        self.owners.len()
    }

    fn visit(&mut self, start: &Path, reread: Reread, changes: &mut Vec<ObjectChange>) {
        let mut seen = BTreeSet::new();
        let mut pending = vec![start.to_path_buf()];
        while let Some(path) = pending.pop() {
            self.faults.remove(&path);
            if path != self.root && is_hidden(&path) {
                continue;
            }
            match self.visit_one(&path, reread, changes) {
                Ok(Found::Directory(children)) => pending.extend(children),
                Ok(Found::Manifest) => {
                    seen.insert(path);
                }
                Ok(Found::Other) => {}
                // What cannot be listed or looked at may still be there: keep what was known below it.
                Err(fault) => {
                    seen.extend(self.below(&path));
                    self.faults.insert(path, fault);
                }
            }
        }
        for path in self.below(start) {
            if !seen.contains(&path) {
                self.replace(&path, None, changes);
                self.files.remove(&path);
            }
        }
    }

    fn visit_one(
        &mut self,
        path: &Path,
        reread: Reread,
        changes: &mut Vec<ObjectChange>,
    ) -> Result<Found, Fault> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound && path != self.root => {
                return Ok(Found::Other);
            }
            Err(e) => return Err(io_fault("cannot look at it", &e)),
        };
        if metadata.is_dir() {
            return self.children(path).map(Found::Directory);
        }
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if !manifest || !metadata.is_file() {
            return Ok(Found::Other);
        }
        let signature = Signature::of(&metadata);
        let known = self.files.get(path);
        let same = known
            .and_then(|f| f.signature)
            .is_some_and(|s| s == signature && !s.racy);
        if same && reread == Reread::IfDifferent {
            return Ok(Found::Manifest);
        }
        if known.is_none() && self.files.len() >= FILES_MAX {
            return Err(fault(format!(
                "more than {FILES_MAX} manifests: this one is not read"
            )));
        }
        self.read(path, signature, changes);
        Ok(Found::Manifest)
    }

    /// Directories reached through symbolic links are not entered: a loop would never end.
    fn children(&self, path: &Path) -> Result<Vec<PathBuf>, Fault> {
        let is_link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
        if is_link && path != self.root {
            return Ok(Vec::new());
        }
        let depth = path
            .strip_prefix(&self.root)
            .map_or(0, |p| p.components().count());
        if depth > DEPTH_MAX {
            return Err(fault(format!(
                "deeper than {DEPTH_MAX} directories: not read"
            )));
        }
        let entries = fs::read_dir(path).map_err(|e| io_fault("cannot list it", &e))?;
        let paths: Result<Vec<PathBuf>, io::Error> = entries.map(|e| e.map(|e| e.path())).collect();
        paths.map_err(|e| io_fault("cannot list it", &e))
    }

    fn read(&mut self, path: &Path, signature: Signature, changes: &mut Vec<ObjectChange>) {
        let read = read_bounded(path).and_then(|text| parse_manifest(&text, &self.policies));
        match read.and_then(|manifest| self.check_room(manifest)) {
            Ok(manifest) => {
                self.log_ignored(path, &manifest);
                self.replace(path, Some(manifest.objects), changes);
                let file = self.files.entry(path.to_path_buf()).or_default();
                file.signature = Some(signature);
                file.fault = None;
            }
            // The last good content stays in force; a half-written file must not empty a cluster.
            Err(fault) => {
                tracing::warn!(path = %path.display(), line = fault.line, "bad manifest: {}", fault.message);
                let file = self.files.entry(path.to_path_buf()).or_default();
                file.signature = Some(signature);
                file.fault = Some(fault);
            }
        }
    }

    fn check_room(&self, manifest: Manifest) -> Result<Manifest, Fault> {
        if self.owners.len().saturating_add(manifest.objects.len()) > OBJECTS_MAX {
            return Err(fault(format!(
                "with this file there would be more than {OBJECTS_MAX} objects"
            )));
        }
        Ok(manifest)
    }

    fn log_ignored(&mut self, path: &Path, manifest: &Manifest) {
        for kind in &manifest.ignored {
            if self.ignored_kinds.len() < IGNORED_KINDS_MAX
                && self.ignored_kinds.insert(kind.clone())
            {
                tracing::info!(path = %path.display(), "the mesh does not read {kind}; ignored from now on");
            }
        }
    }

    /// Exchanges a file's objects and tells what that changes.
    fn replace(
        &mut self,
        path: &Path,
        objects: Option<BTreeMap<ObjectKey, Arc<Object>>>,
        changes: &mut Vec<ObjectChange>,
    ) {
        let objects = objects.unwrap_or_default();
        let old = self
            .files
            .get(path)
            .map(|f| f.objects.clone())
            .unwrap_or_default();
        let touched: BTreeSet<ObjectKey> = old.keys().chain(objects.keys()).cloned().collect();
        let before: Vec<Option<Arc<Object>>> = touched.iter().map(|k| self.winner(k)).collect();
        for key in old.keys() {
            if let Some(paths) = self.owners.get_mut(key) {
                paths.remove(path);
                if paths.is_empty() {
                    self.owners.remove(key);
                }
            }
        }
        for key in objects.keys() {
            self.owners
                .entry(key.clone())
                .or_default()
                .insert(path.to_path_buf());
        }
        self.files.entry(path.to_path_buf()).or_default().objects = objects;
        for (key, before) in touched.into_iter().zip(before) {
            match (before, self.winner(&key)) {
                (before, Some(after)) if before.as_ref() != Some(&after) => {
                    changes.push(ObjectChange::Put(key, after));
                }
                (Some(_), None) => changes.push(ObjectChange::Gone(key)),
                (Some(_) | None, _) => {}
            }
        }
    }

    fn winner(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        let path = self.owners.get(key)?.first()?;
        self.files.get(path)?.objects.get(key).cloned()
    }

    fn below(&self, path: &Path) -> Vec<PathBuf> {
        let tail = self.files.range(path.to_path_buf()..);
        tail.map(|(p, _)| p)
            .take_while(|p| p.starts_with(path))
            .cloned()
            .collect()
    }
}

impl Signature {
    fn of(metadata: &fs::Metadata) -> Self {
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        // A clock that stepped back makes the age negative: then nothing is known, so read again.
        let age = SystemTime::now()
            .duration_since(modified)
            .unwrap_or(Duration::ZERO);
        Signature {
            inode: metadata.ino(),
            len: metadata.len(),
            modified,
            racy: age < RACY_AGE_MAX,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reread {
    Always,
    IfDifferent,
}

enum Found {
    Directory(Vec<PathBuf>),
    Manifest,
    Other,
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."))
}

fn read_bounded(path: &Path) -> Result<String, Fault> {
    let file = fs::File::open(path).map_err(|e| io_fault("cannot open it", &e))?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let len = read.map_err(|e| io_fault("cannot read it", &e))?;
    if u64::try_from(len).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(fault(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn fault(message: String) -> Fault {
    Fault {
        line: None,
        field: None,
        message,
    }
}

fn io_fault(what: &str, error: &io::Error) -> Fault {
    fault(format!("{what}: {error}"))
}

const FILES_MAX: usize = 500_000;
/// Ten times the largest mesh that the design speaks of.
const OBJECTS_MAX: usize = 2_000_000;
/// Kubernetes refuses objects above 1.5 MiB; a file may hold several.
const FILE_BYTES_MAX: u64 = 8 << 20;
const DEPTH_MAX: usize = 16;
const PROBLEMS_MAX: usize = 256;
const IGNORED_KINDS_MAX: usize = 256;
/// Coarser than the time stamps of any file system in use.
const RACY_AGE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
