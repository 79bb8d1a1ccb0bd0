//! The watched directory over real inotify.

use std::fs;

use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};

use super::testing::settings;
use super::*;
use crate::source::{ObjectChange, ObjectKey};

struct Rig {
    directory: TempDir,
    events: mpsc::Receiver<SourceEvent>,
    stop: CancellationToken,
    names: std::collections::BTreeSet<ObjectKey>,
    problems: usize,
}

impl Rig {
    async fn start(prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path());
        let (sender, events) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let source = Box::new(ManifestDirectory::new(directory.path(), settings()));
        tokio::spawn(source.run(sender, stop.clone()));
        let mut rig = Rig {
            directory,
            events,
            stop,
            names: Default::default(),
            problems: 0,
        };
        while !rig.step().await {}
        rig
    }

    /// Takes one event; true at `Synced`.
    async fn step(&mut self) -> bool {
        let event = timeout(Duration::from_secs(10), self.events.recv()).await;
        match event.expect("no event in time").expect("the source ended") {
            SourceEvent::Changes(changes) => {
                for change in changes {
                    match change {
                        ObjectChange::Put(key, _) => self.names.insert(key),
                        ObjectChange::Gone(key) => self.names.remove(&key),
                    };
                }
                false
            }
            SourceEvent::Problems(problems) => {
                self.problems = problems.len();
                false
            }
            SourceEvent::Synced => true,
        }
    }

    async fn wait(&mut self, want: &[&str]) {
        while self
            .names
            .iter()
            .map(|k| k.name.as_str())
            .collect::<Vec<_>>()
            != want
        {
            assert!(!self.step().await, "synced twice");
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
}

/// As kubelets and editors do it.
fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

#[tokio::test]
async fn changes_are_seen_however_they_are_made() {
    let mut rig = Rig::start(|root| fs::write(root.join("a.yaml"), service("a")).unwrap()).await;
    rig.wait(&["a"]).await;
    fs::write(rig.path().join("b.yaml"), service("b")).unwrap();
    rig.wait(&["a", "b"]).await;
    replace(&rig.path().join("b.yaml"), &service("c"));
    rig.wait(&["a", "c"]).await;
    fs::remove_file(rig.path().join("a.yaml")).unwrap();
    rig.wait(&["c"]).await;
    fs::create_dir_all(rig.path().join("x/y/z")).unwrap();
    fs::write(rig.path().join("x/y/z/d.yaml"), service("d")).unwrap();
    rig.wait(&["c", "d"]).await;
    fs::rename(rig.path().join("x"), rig.path().join("moved")).unwrap();
    fs::write(rig.path().join("moved/y/z/e.yaml"), service("e")).unwrap();
    rig.wait(&["c", "d", "e"]).await;
    fs::remove_dir_all(rig.path().join("moved")).unwrap();
    rig.wait(&["c"]).await;
}

#[tokio::test]
async fn burst_of_files_is_seen_whole() {
    let mut rig = Rig::start(|_| ()).await;
    let names: Vec<String> = (0..500).map(|n| format!("s{n:03}")).collect();
    for name in &names {
        replace(&rig.path().join(format!("{name}.yaml")), &service(name));
    }
    let want: Vec<&str> = names.iter().map(String::as_str).collect();
    rig.wait(&want).await;
}

#[tokio::test]
async fn problems_are_told_and_taken_back() {
    let mut rig = Rig::start(|root| fs::write(root.join("a.yaml"), "kind: [").unwrap()).await;
    while rig.problems == 0 {
        rig.step().await;
    }
    replace(&rig.path().join("a.yaml"), &service("a"));
    while rig.problems > 0 || rig.names.is_empty() {
        rig.step().await;
    }
}

#[tokio::test]
async fn missing_directory_is_an_error() {
    let (sender, _events) = mpsc::channel(1);
    let source = Box::new(ManifestDirectory::new(
        Path::new("/nonexistent/manifests"),
        settings(),
    ));
    let error = source
        .run(sender, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/manifests"));
}
