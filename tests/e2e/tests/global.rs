//! How a service that is shared by two clusters chooses, seen by programs in pods: spill-over, steady choices, endpoints that are
//! leaving, and names.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::{
    promises::Promises,
    rig::{READY_DEADLINE, Rig},
};
use tulle_lab::{Kind, ObjectKey};

/// Two servers in each cluster, on its two nodes.
const SERVERS: [(&str, &str, &str); 4] = [
    ("koornacht", "koornacht-worker", "k1"),
    ("koornacht", "koornacht-worker2", "k2"),
    ("tion", "tion-worker", "t1"),
    ("tion", "tion-worker2", "t2"),
];
/// Clients in koornacht, on both nodes.
const CLIENTS: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];
/// From a change until every node has it; a busy machine included.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn what_two_clusters_share_is_chosen_by_the_rules() -> Result<()> {
    let scene = Scene::up()?;
    let mut promises = Promises::default();
    for (promise, check) in PROMISES {
        promises.note(promise, check(&scene));
    }
    promises.all_kept()
}

type Check = fn(&Scene) -> Result<()>;

/// Each has a service of its own; the servers are the same.
const PROMISES: [(&str, Check); 5] = [
    (
        "a sick place gives up a share of its connections, and takes it back",
        spill_over,
    ),
    (
        "Maglev: a client keeps its server, whatever becomes of the others",
        maglev,
    ),
    (
        "session affinity holds across clusters, and moves when the server leaves",
        session_affinity,
    ),
    (
        "a server that is leaving keeps its connections, and serves new ones only if nobody else does",
        terminating,
    ),
    (
        "a headless service has the pods of all clusters, and names for those of each",
        names,
    ),
];

/// Of two servers one is sick: 50 percent of at least 70. The place keeps 50 of the 80 percent at which it would be well again.
fn spill_over(scene: &Scene) -> Result<()> {
    let annotation = "mesh.tulle.io/failover: '{order: [koornacht, tion], spillAt: 70}'";
    let service = scene.service("spill", annotation, "")?;
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    service.until_answers_are("c0", &["k1", "k2"])?;
    service.slices(&[("k1", READY), ("k2", SICK), ("t1", READY), ("t2", READY)])?;
    service.until_answers_are("c0", &["k1", "t1", "t2"])?;
    let answers = service.ask("c0", 400)?;
    let own = answers.iter().filter(|name| *name == "k1").count();
    // 250 of 400 are to be expected, and five standard deviations are 48.
    ensure!((200..=300).contains(&own), "{own} of 400 stayed");
    service.slices(&[("k1", SICK), ("k2", SICK), ("t1", READY), ("t2", READY)])?;
    service.until_answers_are("c0", &["t1", "t2"])?;
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    service.until_answers_are("c0", &["k1", "k2"])
}

fn maglev(scene: &Scene) -> Result<()> {
    // Chosen at random first: then it shows when each node knows all four, and nobody moves because one was late.
    let service = scene.service("steady", "", "")?;
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    for client in ["c0", "c1"] {
        service.until_answers_are(client, &["k1", "k2", "t1", "t2"])?;
    }
    scene.apply_service("steady", "service.cilium.io/lb-algorithm: maglev", "")?;
    let before = service.until_steady(|chosen| {
        let used: std::collections::BTreeSet<&String> = chosen.values().collect();
        used.len() > 1
    })?;
    let gone = before["c0"].clone();
    let others = |name: &str| if name == gone { SICK } else { READY };
    service.slices(&["k1", "k2", "t1", "t2"].map(|name| (name, others(name))))?;
    let without = service.until_steady(|chosen| chosen.values().all(|name| *name != gone))?;
    for (client, name) in &before {
        ensure!(
            *name == gone || without[client] == *name,
            "{client} was moved from {name} to {} when {gone} left: {before:?}, and then {without:?}",
            without[client]
        );
    }
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    let after = service.until_steady(|chosen| chosen["c0"] == gone)?;
    ensure!(after == before, "{before:?}, and then {after:?}");
    Ok(())
}

fn session_affinity(scene: &Scene) -> Result<()> {
    let spec = "  sessionAffinity: ClientIP\n";
    let service = scene.service("sticky", "", spec)?;
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    let before = service.until_steady(|_| true)?;
    ensure!(
        before.values().any(|name| *name != before["c0"]),
        "all six clients drew {}",
        before["c0"]
    );
    let gone = before["c0"].clone();
    let others = |name: &str| if name == gone { SICK } else { READY };
    service.slices(&["k1", "k2", "t1", "t2"].map(|name| (name, others(name))))?;
    let without = service.until_steady(|chosen| chosen.values().all(|name| *name != gone))?;
    for (client, name) in &before {
        ensure!(
            *name == gone || without[client] == *name,
            "{client} was moved from {name} although only {gone} left"
        );
    }
    // Its new server is its server, also when the first one is back.
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    let free = service.until_steady(|_| true)?;
    ensure!(free == without, "{without:?}, and then {free:?}");
    Ok(())
}

fn terminating(scene: &Scene) -> Result<()> {
    let service = scene.service("leaving", "", "")?;
    service.slices(&[("k1", SICK), ("k2", SICK), ("t1", READY), ("t2", SICK)])?;
    service.until_answers_are("c0", &["t1"])?;
    let marker = scene.marker();
    let marker_text = marker.to_string_lossy().into_owned();
    thread::scope(|scope| {
        let held =
            scope.spawn(|| service.client("c0", &["hold", &service.address, "9001", &marker_text]));
        scene.rig.wait_for("the connection", READY_DEADLINE, || {
            Ok(marker.exists() || held.is_finished())
        })?;
        // Nobody else serves: it still gets new connections.
        service.slices(&[("k1", SICK), ("k2", SICK), ("t1", LEAVING), ("t2", SICK)])?;
        service.until_leaving("t1")?;
        service.until_answers_are("c1", &["t1"])?;
        // A sound one of any cluster is preferred.
        service.slices(&[("k1", SICK), ("k2", SICK), ("t1", LEAVING), ("t2", READY)])?;
        service.until_answers_are("c1", &["t2"])?;
        service.slices(&[("k1", READY), ("k2", SICK), ("t1", LEAVING), ("t2", SICK)])?;
        service.until_answers_are("c1", &["k1"])?;
        fs::remove_file(&marker)?;
        let answer = held
            .join()
            .map_err(|_| anyhow::anyhow!("the client's thread broke off"))??;
        ensure!(answer.trim() == "t1", "the held connection: {answer}");
        Ok(())
    })
}

fn names(scene: &Scene) -> Result<()> {
    let service = scene.service("crew", "", "  clusterIP: None\n")?;
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", READY)])?;
    let address = |names: &[&str]| -> String {
        let mut found: Vec<&str> = names.iter().map(|name| &*scene.addresses[*name]).collect();
        found.sort_unstable();
        found.join(" ")
    };
    let expect = |rows: &[(&str, String)]| -> Result<()> {
        let asked: Vec<String> = rows
            .iter()
            .map(|(prefix, _)| format!("{prefix}crew.default.svc.cluster.local."))
            .collect();
        let mut words = vec!["names"];
        words.extend(asked.iter().map(String::as_str));
        let expected: Vec<&str> = rows.iter().map(|(_, addresses)| &**addresses).collect();
        for client in ["c0", "c1"] {
            scene.rig.wait_for("the names", CHANGE_LIMIT, || {
                let text = service.client(client, &words)?;
                let found: Vec<&str> = text.lines().collect();
                ensure!(
                    found == expected,
                    "{asked:?} have {found:?}, not {expected:?}"
                );
                Ok(true)
            })?;
        }
        Ok(())
    };
    let none = || "no -2".to_owned();
    expect(&[
        ("", address(&["k1", "k2", "t1", "t2"])),
        ("koornacht.", address(&["k1", "k2"])),
        ("tion.", address(&["t1", "t2"])),
        ("t1.", address(&["t1"])),
        ("t1.tion.", address(&["t1"])),
        ("t1.koornacht.", none()),
        ("nowhere.", none()),
    ])?;
    service.slices(&[("k1", READY), ("k2", READY), ("t1", READY), ("t2", SICK)])?;
    expect(&[
        ("", address(&["k1", "k2", "t1"])),
        ("tion.", address(&["t1"])),
        ("t1.tion.", address(&["t1"])),
    ])?;
    Ok(())
}

/// The conditions of an endpoint.
const READY: &str = "ready: true, serving: true, terminating: false";
const SICK: &str = "ready: false, serving: false, terminating: false";
const LEAVING: &str = "ready: false, serving: true, terminating: true";

struct Scene {
    rig: Rig,
    /// Of the servers, by name.
    addresses: BTreeMap<&'static str, String>,
}

impl Scene {
    fn up() -> Result<Scene> {
        let rig = Rig::up("globl", &[])?;
        for (cluster, node, name) in SERVERS {
            let server = pod(name, node, &[PYTHON, "-c", SERVER, name])?;
            rig.lab.apply_text(cluster, &server)?;
        }
        for (client, node) in CLIENTS.into_iter().zip(
            ["koornacht-worker", "koornacht-worker2"]
                .into_iter()
                .cycle(),
        ) {
            let client = pod(client, node, &["sleep", "100000"])?;
            rig.lab.apply_text("koornacht", &client)?;
        }
        let all = SERVERS
            .into_iter()
            .map(|(cluster, _, name)| (cluster, name));
        let all = all.chain(CLIENTS.into_iter().map(|name| ("koornacht", name)));
        for (cluster, name) in all {
            let key = ObjectKey::new(Kind::Pod, "default", name);
            rig.lab.wait_pod_ready(cluster, &key, READY_DEADLINE)?;
        }
        let mut addresses = BTreeMap::new();
        for (cluster, _, name) in SERVERS {
            let address = rig.address(cluster, &format!("pod/{name}"), false)?;
            addresses.insert(name, address.to_string());
        }
        Ok(Scene { rig, addresses })
    }

    /// A global service of both clusters, without endpoints so far.
    fn service(
        &self,
        name: &'static str,
        annotation: &str,
        spec: &str,
    ) -> Result<SharedService<'_>> {
        self.apply_service(name, annotation, spec)?;
        let key = ObjectKey::new(Kind::Service, "default", name);
        let object = self
            .rig
            .lab
            .api("koornacht")?
            .get(&key)?
            .context("no such service")?;
        let address = object.value.pointer("/spec/clusterIP");
        Ok(SharedService {
            scene: self,
            name,
            address: address
                .and_then(|a| a.as_str())
                .unwrap_or("None")
                .to_owned(),
        })
    }

    fn apply_service(&self, name: &str, annotation: &str, spec: &str) -> Result<()> {
        let manifest = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations:\n    service.cilium.io/global: \"true\"\n    {annotation}\n\
             spec:\n{spec}  ports:\n  - {{name: tcp9001, port: 9001}}\n"
        );
        for cluster in CLUSTERS {
            self.rig.lab.apply_text(cluster, &manifest)?;
        }
        Ok(())
    }

    fn marker(&self) -> std::path::PathBuf {
        let directory = std::env::temp_dir();
        Path::new(&directory).join(format!("tulle-e2e-global-{}", std::process::id()))
    }
}

fn pod(name: &str, node: &str, command: &[&str]) -> Result<String> {
    let command = serde_json::to_string(command)?;
    Ok(format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  containers:\n  - name: main\n    \
         image: tulle.test/host:1\n    command: {command}\n"
    ))
}

struct SharedService<'a> {
    scene: &'a Scene,
    name: &'static str,
    address: String,
}

/// Goes with its endpoints, also after a broken promise: a pod is as sick as the worst of its slices, for all services.
impl Drop for SharedService<'_> {
    fn drop(&mut self) {
        let slice = format!("{}-1", self.name);
        for cluster in CLUSTERS {
            for key in [
                ObjectKey::new(Kind::EndpointSlice, "default", &slice),
                ObjectKey::new(Kind::Service, "default", self.name),
            ] {
                if let Err(error) = self.scene.rig.lab.delete(cluster, &key) {
                    eprintln!("{cluster} keeps {key:?}: {error}");
                }
            }
        }
    }
}

impl SharedService<'_> {
    /// Its endpoints in both clusters, with their conditions.
    fn slices(&self, endpoints: &[(&str, &str)]) -> Result<()> {
        for cluster in CLUSTERS {
            let name = self.name;
            let mut text = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
                 labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports:\n- {{name: tcp9001, port: 9001}}\nendpoints:\n"
            );
            let own = SERVERS.into_iter().filter(|(home, ..)| *home == cluster);
            for (_, node, server) in own {
                let Some((_, conditions)) = endpoints.iter().find(|(name, _)| *name == server)
                else {
                    continue;
                };
                let address = &self.scene.addresses[server];
                writeln!(
                    text,
                    "- {{addresses: [{address}], nodeName: {node}, hostname: {server}, conditions: {{{conditions}}}, \
                     targetRef: {{kind: Pod, name: {server}, namespace: default}}}}"
                )?;
            }
            self.scene.rig.lab.apply_text(cluster, &text)?;
        }
        Ok(())
    }

    /// Waits until these and no others answer a client.
    fn until_answers_are(&self, client: &str, expected: &[&str]) -> Result<()> {
        let what = format!("{} answer {client}", expected.join(", "));
        self.scene.rig.wait_for(&what, CHANGE_LIMIT, || {
            let mut found = self.ask(client, 30)?;
            found.sort_unstable();
            found.dedup();
            ensure!(found == expected, "{found:?} answer");
            Ok(true)
        })
    }

    /// Waits until every client has one server that it keeps, and the condition holds; who has whom.
    fn until_steady(
        &self,
        holds: impl Fn(&BTreeMap<&'static str, String>) -> bool,
    ) -> Result<BTreeMap<&'static str, String>> {
        let mut chosen = BTreeMap::new();
        self.scene
            .rig
            .wait_for("a steady choice", CHANGE_LIMIT, || {
                chosen.clear();
                for client in CLIENTS {
                    let mut answers = self.ask(client, 10)?;
                    answers.dedup();
                    ensure!(answers.len() == 1, "{client} met {answers:?}");
                    chosen.extend(answers.pop().map(|name| (client, name)));
                }
                ensure!(holds(&chosen), "{chosen:?}");
                Ok(true)
            })?;
        Ok(chosen)
    }

    /// Waits until the node of c1 knows that a server is leaving.
    fn until_leaving(&self, server: &str) -> Result<()> {
        let uid = format!("tion//Pod/default/{server}");
        self.scene
            .rig
            .wait_for(&format!("{server} is leaving"), CHANGE_LIMIT, || {
                let dump = self.scene.rig.dump("koornacht-worker2")?;
                let workloads = dump["workloads"].as_array().context("no workloads")?;
                let found = workloads
                    .iter()
                    .find(|w| w["uid"] == *uid)
                    .context("not there")?;
                ensure!(found["health"] == "Terminating", "{}", found["health"]);
                Ok(true)
            })
    }

    /// Who answers so many connections, in their order.
    fn ask(&self, client: &str, count: usize) -> Result<Vec<String>> {
        let count = count.to_string();
        let text = self.client(client, &["ask", &self.address, "9001", &count])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn client(&self, client: &str, words: &[&str]) -> Result<String> {
        let command = [&["timeout", "60", PYTHON, "-c", CLIENT], words].concat();
        self.scene
            .rig
            .run("koornacht", &format!("pod/{client}"), &command)
    }
}

const CLUSTERS: [&str; 2] = ["koornacht", "tion"];
/// Debian's, whatever else a developer has in the path.
const PYTHON: &str = "/usr/bin/python3";
const CLIENT: &str = include_str!("global/client.py");
const SERVER: &str = include_str!("global/server.py");
