//! Histories of a directory, and what counts after them.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::source::manifests::testing::settings;

struct Rig {
    directory: TempDir,
    tree: Tree,
    /// The world as a listener has it.
    seen: BTreeMap<ObjectKey, Arc<Object>>,
}

impl Rig {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let tree = Tree::new(directory.path().to_path_buf(), settings());
        Rig {
            directory,
            tree,
            seen: BTreeMap::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        self.refresh(name);
    }

    fn remove(&mut self, name: &str) {
        let path = self.path(name);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self.refresh(name);
    }

    fn refresh(&mut self, name: &str) {
        let mut changes = Vec::new();
        self.tree.refresh(&self.path(name), &mut changes);
        self.take(changes);
    }

    fn refresh_all(&mut self) {
        let mut changes = Vec::new();
        self.tree.refresh_all(&mut changes);
        self.take(changes);
    }

    fn take(&mut self, changes: Vec<ObjectChange>) {
        for change in changes {
            match change {
                ObjectChange::Put(key, object) => {
                    assert_ne!(
                        self.seen.insert(key, Arc::clone(&object)),
                        Some(object),
                        "told twice"
                    );
                }
                ObjectChange::Gone(key) => assert!(self.seen.remove(&key).is_some(), "never told"),
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.seen.keys().map(|k| k.name.clone()).collect()
    }

    fn messages(&self) -> Vec<String> {
        self.tree
            .problems()
            .into_iter()
            .map(|p| p.message)
            .collect()
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

#[test]
fn files_come_change_and_go() {
    let mut rig = Rig::new();
    rig.write("services/a.yaml", &service("a", 1));
    rig.write("services/b.yml", &(service("b", 1) + &service("c", 1)));
    rig.write("services/notes.txt", &service("d", 1));
    rig.write("services/.hidden.yaml", &service("e", 1));
    assert_eq!(rig.names(), ["a", "b", "c"]);
    rig.write("services/b.yml", &service("c", 2));
    assert_eq!(rig.names(), ["a", "c"]);
    rig.remove("services");
    assert_eq!(rig.names(), [""; 0]);
    assert_eq!(rig.tree.objects_len(), 0);
}

#[test]
fn bad_file_keeps_its_last_good_content() {
    let mut rig = Rig::new();
    rig.write("a.yaml", &service("a", 1));
    rig.write("a.yaml", "kind: [");
    assert_eq!(rig.names(), ["a"]);
    assert_eq!(rig.tree.problems().len(), 1);
    rig.write("a.yaml", &service("a", 2));
    assert!(rig.messages().is_empty());
    rig.write("a.yaml", "kind: [");
    rig.remove("a.yaml");
    assert_eq!(rig.names(), [""; 0]);
    assert!(rig.messages().is_empty());
}

#[test]
fn object_of_two_files_is_that_of_the_smaller_path() {
    let mut rig = Rig::new();
    rig.write("b.yaml", &service("x", 2));
    rig.write("a.yaml", &service("x", 1));
    assert_eq!(rig.tree.problems().len(), 1);
    assert_eq!(rig.tree.problems()[0].path, rig.path("b.yaml"));
    assert!(
        rig.messages()[0].contains("a.yaml, which counts"),
        "{:?}",
        rig.messages()
    );
    let of_a = rig.seen.values().next().cloned();
    rig.remove("a.yaml");
    assert_ne!(rig.seen.values().next().cloned(), of_a);
    assert!(rig.messages().is_empty());
    assert_eq!(rig.names(), ["x"]);
}

#[test]
fn oversized_file_is_refused() {
    let mut rig = Rig::new();
    let large = format!(
        "#{}\n",
        "x".repeat(usize::try_from(FILE_BYTES_MAX).unwrap())
    );
    rig.write("a.yaml", &(large + &service("a", 1)));
    assert!(rig.messages()[0].contains("larger than"));
    assert_eq!(rig.names(), [""; 0]);
}

#[test]
fn pipe_and_link_loop_do_not_hang() {
    let mut rig = Rig::new();
    std::os::unix::fs::symlink(rig.path("."), rig.path("loop")).unwrap();
    let status = std::process::Command::new("mkfifo")
        .arg(rig.path("pipe.yaml"))
        .status()
        .unwrap();
    assert!(status.success());
    rig.write("a.yaml", &service("a", 1));
    rig.refresh_all();
    assert_eq!(rig.names(), ["a"]);
}

#[test]
fn links_to_files_are_followed() {
    let mut rig = Rig::new();
    fs::create_dir(rig.path("..data")).unwrap();
    fs::write(rig.path("..data/a.yaml"), service("a", 1)).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", rig.path("a.yaml")).unwrap();
    rig.refresh_all();
    assert_eq!(rig.names(), ["a"]);
}

#[test]
fn unlistable_directory_keeps_what_was_known() {
    let mut rig = Rig::new();
    rig.write("sub/a.yaml", &service("a", 1));
    // Moving the root away is what a broken mount looks like.
    let away = rig.directory.path().with_extension("away");
    fs::rename(rig.directory.path(), &away).unwrap();
    rig.refresh_all();
    assert_eq!(rig.names(), ["a"]);
    assert_eq!(rig.tree.problems().len(), 1);
    fs::rename(&away, rig.directory.path()).unwrap();
    rig.refresh_all();
    assert!(rig.messages().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// After any history, the tree holds what a fresh walk over good files finds.
    #[test]
    fn tree_forgets_its_history(
        steps in prop::collection::vec((0..4usize, prop::collection::btree_map(0..4usize, 1..4u16, 0..3), any::<bool>()), 1..20)
    ) {
        let mut rig = Rig::new();
        for (file, objects, whole) in steps {
            let name = format!("{}/{file}.yaml", file % 2);
            let text: String = objects.iter().map(|(o, port)| service(&format!("s{o}"), *port)).collect();
            if objects.is_empty() && rig.path(&name).exists() {
                fs::remove_file(rig.path(&name)).unwrap();
            } else {
                fs::create_dir_all(rig.path(&name).parent().unwrap()).unwrap();
                fs::write(rig.path(&name), text).unwrap();
            }
            if whole { rig.refresh_all() } else { rig.refresh(&name) }
        }
        rig.refresh_all();
        let mut fresh = Rig { tree: Tree::new(rig.directory.path().to_path_buf(), settings()), directory: rig.directory, seen: BTreeMap::new() };
        fresh.refresh_all();
        prop_assert_eq!(rig.seen, fresh.seen);
        prop_assert_eq!(rig.tree.problems(), fresh.tree.problems());
    }
}
