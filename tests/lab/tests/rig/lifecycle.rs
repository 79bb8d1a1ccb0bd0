//! Up, again up, down, and down after the worst.

use std::{fs, path::Path, process::Command};

use tulle_lab::{DownGuard, Lab};

use super::support::{Rig, deployment, eventually, options};

/// What there is of a rig on the machine.
fn traces(rig: &str) -> Vec<String> {
    let mut found = Vec::new();
    let prefix = format!("tl-{rig}-");
    if let Ok(entries) = fs::read_dir("/run/netns") {
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.starts_with(&prefix)));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let parts = [format!("/tulle-lab/{rig}/"), format!("/{prefix}")];
    let is_ours = |line: &&str| parts.iter().any(|part| line.contains(part.as_str()));
    found.extend(mounts.lines().filter(is_ours).map(str::to_owned));
    let cgroups = mounts
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let cgroups = cgroups.filter_map(|line| line.split(' ').nth(1));
    let directories = cgroups.map(|mount| Path::new(mount).join("tulle-lab").join(rig));
    let directories = directories.chain([
        Path::new("/run/tulle-lab").join(rig),
        Path::new("/sys/fs/bpf/tulle-lab").join(rig),
    ]);
    found.extend(
        directories
            .filter(|path| path.exists())
            .map(|path| path.display().to_string()),
    );
    // Processes: whatever runs or was started for the rig has its name in its cgroup's path.
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let status = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if cgroup.contains(&format!("/tulle-lab/{rig}/")) && !status.contains(") Z ") {
            found.push(format!("process {status}"));
        }
    }
    found
}

#[test]
fn down_leaves_nothing() {
    let rig = Rig::up_with("tdown", &["koornacht", "tion"], "");
    rig.apply(tulle_lab::KOORNACHT);
    rig.wait_ready("rebel-base");
    assert!(!traces("tdown").is_empty());
    Lab::down("tdown").unwrap();
    assert_eq!(traces("tdown"), Vec::<String>::new());
    assert!(!Lab::exists("tdown").unwrap());
    Lab::down("tdown").unwrap();
}

#[test]
fn down_leaves_nothing_after_everything_was_killed() {
    let rig = Rig::up("tkill");
    rig.apply(tulle_lab::KOORNACHT);
    rig.wait_ready("rebel-base");
    rig.wait_ready("x-wing");
    // The supervisor first, while it is busy; then some of what it left behind.
    rig.lab.scale("koornacht", "rebel-base", 5).unwrap();
    rig.lab.kill("supervisor").unwrap();
    assert_eq!(rig.lab.process("supervisor").unwrap(), None);
    let pod = rig.only_pod_of_many("x-wing");
    rig.lab.kill(&format!("pod/{pod}")).unwrap();
    Lab::down("tkill").unwrap();
    assert_eq!(traces("tkill"), Vec::<String>::new());
}

#[test]
fn down_removes_what_a_killed_up_has_left() {
    let _guard = DownGuard::fresh("tpart").unwrap();
    // As if `up` had been killed after its first steps: a name without a namespace, a namespace,
    // files, a mount.
    fs::create_dir_all("/run/netns").unwrap();
    fs::write("/run/netns/tl-tpart-koornacht.koornacht-worker", "").unwrap();
    let made = Command::new("ip")
        .args(["netns", "add", "tl-tpart-router"])
        .status()
        .unwrap();
    assert!(made.success());
    fs::create_dir_all("/run/tulle-lab/tpart/koornacht/mnt").unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs", "/run/tulle-lab/tpart/koornacht/mnt"])
        .status()
        .unwrap();
    assert!(mounted.success());
    Lab::down("tpart").unwrap();
    assert_eq!(traces("tpart"), Vec::<String>::new());
}

#[test]
fn up_again_changes_nothing_and_another_file_is_refused() {
    let rig = Rig::up("tagain");
    rig.apply(&deployment("web", 1, "nginx:1", ""));
    rig.wait_ready("web");
    let supervisor = rig.lab.process("supervisor").unwrap();
    let pod = rig.only_pod("web");
    Lab::up(options("tagain", &["koornacht"], "")).unwrap();
    assert_eq!(rig.lab.process("supervisor").unwrap(), supervisor);
    assert_eq!(rig.only_pod("web"), pod);
    let error = Lab::up(options("tagain", &["koornacht"], "stopDelayMillis: 7")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("was built from another lab file"),
        "{error}"
    );
    let error = Lab::up(options("tagain", &["nowhere"], "")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no cluster `nowhere`; it has koornacht, tion"),
        "{error}"
    );
}

#[test]
fn second_cluster_joins_later() {
    let rig = Rig::up("tjoin");
    rig.apply(tulle_lab::KOORNACHT);
    let error = rig.lab.apply_text("tion", tulle_lab::TION).unwrap_err();
    assert!(
        error.to_string().starts_with("cluster tion is not up"),
        "{error}"
    );
    rig.wait_ready("x-wing");
    let before = rig.lab.pods("koornacht", "x-wing").unwrap();
    let lab = Lab::up(options("tjoin", &["tion"], "")).unwrap();
    lab.apply_text("tion", tulle_lab::TION).unwrap();
    lab.wait_ready("tion", "rebel-base", super::support::DEADLINE)
        .unwrap();
    for address in rig.addresses("tion", "rebel-base") {
        let answer = rig.run("deployment/x-wing", &["curl", "-sS", "-m", "5", &address]);
        assert_eq!(
            answer,
            "{\"Cluster\": \"Tion\", \"Planet\": \"Foran Tutha\"}\n"
        );
    }
    assert_eq!(rig.lab.pods("koornacht", "x-wing").unwrap(), before);
}

#[test]
fn cluster_that_was_damaged_is_mended_by_up() {
    let rig = Rig::up("tmend");
    let namespace = "/run/netns/tl-tmend-koornacht.koornacht-worker2";
    assert!(
        Command::new("ip")
            .args(["netns", "del", "tl-tmend-koornacht.koornacht-worker2"])
            .status()
            .unwrap()
            .success()
    );
    assert!(!Path::new(namespace).exists());
    Lab::up(options("tmend", &["koornacht"], "")).unwrap();
    assert!(Path::new(namespace).exists());
    rig.apply(&deployment("web", 2, "nginx:1", ""));
    rig.wait_ready("web");
}

#[test]
fn supervisor_that_was_killed_takes_its_pods_over() {
    let rig = Rig::up("tadopt");
    let probe = "readinessProbe: {httpGet: {port: 80}}";
    rig.apply(&deployment("web", 2, "nginx:1", probe));
    rig.wait_ready("web");
    let before = rig.lab.pods("koornacht", "web").unwrap();
    let processes = |rig: &Rig| {
        let pods = rig.lab.pods("koornacht", "web").unwrap();
        let process = |pod: &tulle_lab::Object| {
            rig.run(&format!("pod/{}", pod.key.name), &["cat", "/run/nginx.pid"])
        };
        pods.iter().map(process).collect::<Vec<_>>()
    };
    let first = processes(&rig);
    rig.lab.kill("supervisor").unwrap();
    // Pods run on, and orders wait for the next supervisor.
    assert_eq!(processes(&rig), first);
    rig.lab.scale("koornacht", "web", 3).unwrap();
    let error = rig.lab.health().unwrap_err().to_string();
    assert_eq!(error, "not healthy: supervisor: not running");
    let fewest = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut fewest = usize::MAX;
            eventually("the third pod is ready", || {
                let now = ready_pods(&rig);
                fewest = fewest.min(now);
                now == 3
            });
            fewest
        });
        rig.lab.start("supervisor").unwrap();
        watcher.join().unwrap()
    });
    assert_eq!(
        fewest, 2,
        "pods that were taken over seemed to be not ready"
    );
    rig.wait_ready("web");
    rig.lab.health().unwrap();
    let after = rig.lab.pods("koornacht", "web").unwrap();
    for old in &before {
        let new = after
            .iter()
            .find(|pod| pod.key == old.key)
            .expect("the pod is still there");
        let restarts = |pod: &tulle_lab::Object| {
            pod.value
                .pointer("/status/containerStatuses/0/restartCount")
                .cloned()
        };
        assert_eq!((new.uid(), restarts(new)), (old.uid(), restarts(old)));
    }
    // An adopted container is watched like any other.
    let name = before[0].key.name.clone();
    rig.lab.kill(&format!("pod/{name}")).unwrap();
    eventually("the container is started again", || {
        rig.field(
            tulle_lab::Kind::Pod,
            &name,
            "/status/containerStatuses/0/restartCount",
        ) == 1
    });
    rig.wait_ready("web");
}

#[test]
fn supervisor_removes_pods_that_were_deleted_while_it_was_dead() {
    let rig = Rig::up("tstray");
    rig.apply(&deployment("web", 2, "nginx:1", ""));
    rig.wait_ready("web");
    rig.lab.kill("supervisor").unwrap();
    // Not by the command but by hand: there is not even an object left that says it should end.
    let manifests = rig.lab.state_directory().join("koornacht/manifests");
    for directory in ["pod", "deployment"] {
        for entry in fs::read_dir(manifests.join(directory)).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    rig.lab.start("supervisor").unwrap();
    rig.apply(&deployment("client", 1, "cilium/json-mock:1", ""));
    rig.wait_ready("client");
    let pods = fs::read_dir("/run/netns").unwrap().flatten();
    let pods = pods.filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .contains("tl-tstray-koornacht.pod.")
    });
    assert_eq!(pods.count(), 1);
}

fn ready_pods(rig: &Rig) -> usize {
    let pods = rig.lab.pods("koornacht", "web").unwrap();
    let ready = |pod: &&tulle_lab::Object| {
        pod.value.pointer("/status/containerStatuses/0/ready") == Some(&true.into())
    };
    pods.iter().filter(ready).count()
}

impl Rig {
    fn only_pod_of_many(&self, deployment: &str) -> String {
        self.lab.pods("koornacht", deployment).unwrap()[0]
            .key
            .name
            .clone()
    }
}
