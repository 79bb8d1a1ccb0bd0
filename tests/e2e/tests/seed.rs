//! The lab that the project was created from, command by command: `tulle lab` in place of kubectl, `tulle clustermesh` in place of
//! cilium, the YAML as it stands there. It ends where its network policies begin.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::command::Tulle;

const CLUSTERS: [&str; 2] = ["koornacht", "tion"];
const KOORNACHT: &str = r#"{"Cluster": "Koornacht", "Planet": "N'Zoth"}"#;
const TION: &str = r#"{"Cluster": "Tion", "Planet": "Foran Tutha"}"#;
/// From a change until every node has it; a busy machine included.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

struct Seed {
    tulle: Tulle,
}

#[test]
fn the_lab_of_the_seed() -> Result<()> {
    let seed = Seed {
        tulle: Tulle::new("seed")?,
    };
    seed.infrastructure()?;
    seed.mesh_is_enabled()?;
    seed.clusters_are_connected()?;
    seed.application_is_deployed()?;
    seed.service_becomes_global()?;
    seed.fault_resilience()?;
    seed.service_is_no_longer_shared()?;
    seed.affinity_local()?;
    seed.affinity_remote_and_removal()?;
    seed.clusters_are_disconnected()
}

impl Seed {
    /// `kind create cluster`, `cilium install`, `kubectl get nodes`, `cilium status --wait`.
    fn infrastructure(&self) -> Result<()> {
        self.tulle.up(&["--no-mesh"])?;
        for cluster in CLUSTERS {
            let nodes = self.lab(&["get", cluster, "nodes"])?;
            for node in [format!("{cluster}-worker"), format!("{cluster}-worker2")] {
                ensure!(nodes.contains(&node), "{nodes}");
            }
            let status = self.on(cluster, &["status", "--wait", "--wait-duration", "20s"])?;
            ensure!(status.contains("ClusterMesh:   disabled"), "{status}");
            ensure!(status.contains("2/2 connected, 2/2 up to date"), "{status}");
        }
        Ok(())
    }

    fn mesh_is_enabled(&self) -> Result<()> {
        // Nobody can be connected before.
        let refused = self.connect_refused()?;
        ensure!(
            refused.contains("is not enabled: run `tulle clustermesh enable"),
            "{refused}"
        );
        for cluster in CLUSTERS {
            let words = ["clustermesh", "enable", "--service-type", "NodePort"];
            let enabled = self.on(cluster, &words)?;
            ensure!(enabled.contains("is enabled"), "{enabled}");
        }
        for (cluster, address) in CLUSTERS.into_iter().zip(["172.18.1.10", "172.18.2.10"]) {
            let status = self.on(cluster, &["clustermesh", "status", "--wait"])?;
            for line in [
                "✅ Cluster access information is available:".to_owned(),
                format!("  - https://{address}:2379"),
                "✅ Xds-server 0.1.0 is ready".to_owned(),
                "🔌 No cluster connected".to_owned(),
                "🔀 Global services: [ min:0 / avg:0.0 / max:0 ]".to_owned(),
            ] {
                ensure!(
                    status.lines().any(|l| l == line),
                    "{line} is not in:\n{status}"
                );
            }
        }
        Ok(())
    }

    fn connect_refused(&self) -> Result<String> {
        let (source, destination) = (self.context("koornacht"), self.context("tion"));
        self.tulle.fails(
            &[
                "clustermesh",
                "connect",
                "--context",
                &source,
                "--destination-context",
                &destination,
            ],
            1,
        )
    }

    fn clusters_are_connected(&self) -> Result<()> {
        let destination = self.context("tion");
        let words = [
            "clustermesh",
            "connect",
            "--destination-context",
            &destination,
        ];
        let connected = self.on("koornacht", &words)?;
        ensure!(
            connected.contains("✅ Connected cluster koornacht and tion!"),
            "{connected}"
        );
        for (cluster, other) in [("koornacht", "tion"), ("tion", "koornacht")] {
            let status = self.on(cluster, &["clustermesh", "status", "--wait"])?;
            ensure!(status.contains(&format!("  - {other}: ready")), "{status}");
            let overview = self.on(cluster, &["status"])?;
            ensure!(overview.contains("1/1 remote clusters ready"), "{overview}");
        }
        // Again changes nothing.
        let again = self.on("koornacht", &words)?;
        ensure!(again.matches("already").count() == 2, "{again}");
        Ok(())
    }

    fn application_is_deployed(&self) -> Result<()> {
        let story = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/story");
        for cluster in CLUSTERS {
            for file in [
                "deployments".to_owned(),
                cluster.to_owned(),
                "service".to_owned(),
            ] {
                self.lab(&["apply", cluster, "-f", &format!("{story}/{file}.yaml")])?;
            }
        }
        for cluster in CLUSTERS {
            for deployment in ["rebel-base", "x-wing"] {
                self.lab(&["wait", cluster, &format!("deployment/{deployment}")])?;
            }
        }
        // The two services know nothing of each other.
        self.answers_are("koornacht", Wanted::Only(KOORNACHT))?;
        self.answers_are("tion", Wanted::Only(TION))?;
        let list = self.on("koornacht", &["service", "list"])?;
        ensure!(list.contains("koornacht:2"), "{list}");
        Ok(())
    }

    fn service_becomes_global(&self) -> Result<()> {
        for cluster in CLUSTERS {
            self.annotate(cluster, "service.cilium.io/global=true")?;
        }
        for cluster in CLUSTERS {
            self.answers_are(cluster, Wanted::Mix)?;
            let used = self.used(cluster)?;
            ensure!(used == [("koornacht", 2), ("tion", 2)], "{used:?}");
            let status = self.on(cluster, &["clustermesh", "status"])?;
            ensure!(
                status.contains("🔀 Global services: [ min:1 / avg:1.0 / max:1 ]"),
                "{status}"
            );
        }
        Ok(())
    }

    fn fault_resilience(&self) -> Result<()> {
        self.scale("koornacht", 0)?;
        for cluster in CLUSTERS {
            self.answers_are(cluster, Wanted::Only(TION))?;
        }
        self.scale("koornacht", 2)?;
        self.lab(&["wait", "koornacht", "deployment/rebel-base"])?;
        for cluster in CLUSTERS {
            self.answers_are(cluster, Wanted::Mix)?;
        }
        Ok(())
    }

    fn service_is_no_longer_shared(&self) -> Result<()> {
        self.annotate("koornacht", "service.cilium.io/shared=false")?;
        self.answers_are("tion", Wanted::Only(TION))?;
        self.answers_are("koornacht", Wanted::Mix)?;
        let text = self.on("tion", &["service", "get", "rebel-base"])?;
        let excluded = text.matches("koornacht does not share the service").count();
        ensure!(excluded == 2, "{text}");
        Ok(())
    }

    fn affinity_local(&self) -> Result<()> {
        self.annotate("koornacht", "service.cilium.io/affinity=local")?;
        self.answers_are("koornacht", Wanted::Only(KOORNACHT))?;
        let text = self.on("koornacht", &["service", "get", "rebel-base"])?;
        ensure!(
            text.contains("global, not shared, affinity local"),
            "{text}"
        );
        ensure!(
            text.matches("affinity local prefers others").count() == 2,
            "{text}"
        );
        self.scale("koornacht", 0)?;
        self.answers_are("koornacht", Wanted::Only(TION))?;
        self.scale("koornacht", 2)?;
        self.lab(&["wait", "koornacht", "deployment/rebel-base"])?;
        self.answers_are("koornacht", Wanted::Only(KOORNACHT))
    }

    fn affinity_remote_and_removal(&self) -> Result<()> {
        self.annotate("koornacht", "service.cilium.io/affinity=remote")?;
        self.answers_are("koornacht", Wanted::Only(TION))?;
        self.annotate("koornacht", "service.cilium.io/affinity-")?;
        self.answers_are("koornacht", Wanted::Mix)?;
        self.annotate("koornacht", "service.cilium.io/shared-")?;
        self.answers_are("tion", Wanted::Mix)
    }

    fn clusters_are_disconnected(&self) -> Result<()> {
        let destination = self.context("tion");
        let words = [
            "clustermesh",
            "disconnect",
            "--destination-context",
            &destination,
        ];
        self.on("koornacht", &words)?;
        self.answers_are("koornacht", Wanted::Only(KOORNACHT))?;
        self.answers_are("tion", Wanted::Only(TION))?;
        for cluster in CLUSTERS {
            let status = self.on(cluster, &["clustermesh", "status", "--wait"])?;
            ensure!(status.contains("🔌 No cluster connected"), "{status}");
            self.on(cluster, &["clustermesh", "disable"])?;
            let context = self.context(cluster);
            let text = self
                .tulle
                .fails(&["clustermesh", "status", "--context", &context], 3)?;
            ensure!(text.contains("❌ Cluster mesh is not enabled"), "{text}");
        }
        Ok(())
    }

    /// `kubectl exec -ti deployments/x-wing -- /bin/sh -c '…'`, until the answers are as wanted. No request may fail.
    fn answers_are(&self, cluster: &str, wanted: Wanted) -> Result<()> {
        let what = format!("from {cluster}: {wanted:?}");
        self.tulle.until(&what, CHANGE_LIMIT, || {
            let answers = self.ask(cluster)?;
            let count = |answer: &str| answers.lines().filter(|line| *line == answer).count();
            let (koornacht, tion) = (count(KOORNACHT), count(TION));
            ensure!(koornacht + tion == REQUESTS, "a request failed:\n{answers}");
            let holds = match wanted {
                Wanted::Only(KOORNACHT) => tion == 0,
                Wanted::Only(_) => koornacht == 0,
                Wanted::Mix => koornacht > 0 && tion > 0,
            };
            ensure!(holds, "{koornacht} answers of koornacht, {tion} of tion");
            Ok(())
        })
    }

    fn ask(&self, cluster: &str) -> Result<String> {
        let script = format!("for i in $(seq 1 {REQUESTS}); do curl -sS rebel-base; done");
        let words = [
            "exec",
            cluster,
            "-ti",
            "deployments/x-wing",
            "--",
            "/bin/sh",
            "-c",
            &script,
        ];
        self.lab(&words)
    }

    /// How many endpoints of each cluster are in use.
    fn used(&self, cluster: &str) -> Result<Vec<(&'static str, u64)>> {
        let context = self.context(cluster);
        let words = ["service", "get", "rebel-base", "--context", &context];
        let service = self.tulle.json(&words)?;
        let backends = service["backends"].as_array().context("no backends")?;
        let mut used = BTreeMap::new();
        for backend in backends.iter().filter(|b| b["included"] == true) {
            let of = CLUSTERS
                .into_iter()
                .find(|name| backend["cluster"] == *name);
            *used
                .entry(of.context("a cluster that is not there")?)
                .or_default() += 1;
        }
        Ok(used.into_iter().collect())
    }

    fn annotate(&self, cluster: &str, edit: &str) -> Result<String> {
        self.lab(&["annotate", cluster, "service", "rebel-base", edit])
    }

    fn scale(&self, cluster: &str, replicas: u32) -> Result<String> {
        let replicas = replicas.to_string();
        self.lab(&[
            "scale",
            cluster,
            "deployment",
            "rebel-base",
            "--replicas",
            &replicas,
        ])
    }

    fn lab(&self, words: &[&str]) -> Result<String> {
        self.tulle.run(&[&["lab"], words].concat())
    }

    /// A command of the operator of a cluster.
    fn on(&self, cluster: &str, words: &[&str]) -> Result<String> {
        let context = self.context(cluster);
        self.tulle.run(&[words, &["--context", &context]].concat())
    }

    fn context(&self, cluster: &str) -> String {
        self.tulle.context(cluster)
    }
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Only(&'static str),
    Mix,
}

/// Four servers share them at random: ten would all go to one cluster twice in a thousand runs, which the next try mends.
const REQUESTS: usize = 10;
