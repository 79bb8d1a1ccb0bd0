//! The policies of the lab that the project was created from, as they stand there, applied as it says.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::command::Tulle;

const CLUSTERS: [&str; 2] = ["koornacht", "tion"];
const KOORNACHT: &str = r#"{"Cluster": "Koornacht", "Planet": "N'Zoth"}"#;
const TION: &str = r#"{"Cluster": "Tion", "Planet": "Foran Tutha"}"#;
/// From a change until every node has it; a busy machine included.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);
/// What `curl` says when its time is over: the connection was dropped, not refused.
const TIMED_OUT: &str = "curl: (28)";

struct Seed(Tulle);

#[test]
fn the_policies_of_the_seed() -> Result<()> {
    let seed = Seed(Tulle::new("sdpol")?);
    seed.0.up(&[])?;
    seed.deploy()?;
    seed.answers(10, |koornacht, tion, _| {
        koornacht > 0 && tion > 0 && koornacht + tion == 10
    })?;
    for cluster in CLUSTERS {
        seed.apply(cluster, "default-deny")?;
    }
    seed.answers(REFUSED_TRIES, |_, _, timed_out| timed_out == REFUSED_TRIES)?;
    seed.apply("koornacht", "x-wing-to-rebel-base")?;
    // Only half of what is needed; and nobody may come through for a moment either.
    seed.stays_closed()?;
    seed.apply("koornacht", "rebel-base-from-x-wing")?;
    seed.answers(10, |koornacht, tion, timed_out| {
        koornacht > 0 && tion == 0 && koornacht + timed_out == 10
    })?;
    seed.apply("tion", "rebel-base-from-x-wing")?;
    seed.answers(10, |koornacht, tion, _| {
        koornacht > 0 && tion > 0 && koornacht + tion == 10
    })?;
    // The policies speak of koornacht's x-wing, not of tion's.
    let others = seed.ask("tion", REFUSED_TRIES)?;
    ensure!(
        others.matches(TIMED_OUT).count() == REFUSED_TRIES,
        "{others}"
    );
    Ok(())
}

impl Seed {
    fn deploy(&self) -> Result<()> {
        let story = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/story");
        for cluster in CLUSTERS {
            for file in ["deployments", cluster, "service"] {
                let file = format!("{story}/{file}.yaml");
                self.0.run(&["lab", "apply", cluster, "-f", &file])?;
            }
            let words = ["lab", "annotate", cluster, "service", "rebel-base"];
            self.0
                .run(&[&words[..], &["service.cilium.io/global=true"]].concat())?;
        }
        for cluster in CLUSTERS {
            for deployment in ["deployment/rebel-base", "deployment/x-wing"] {
                self.0.run(&["lab", "wait", cluster, deployment])?;
            }
        }
        Ok(())
    }

    fn apply(&self, cluster: &str, policy: &str) -> Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy");
        let file = format!("{folder}/{policy}.yaml");
        self.0.run(&["lab", "apply", cluster, "-f", &file])?;
        Ok(())
    }

    /// `kubectl exec -ti deployments/x-wing`, until the answers of koornacht, those of tion, and the timeouts are as wanted.
    fn answers(&self, requests: usize, wanted: impl Fn(usize, usize, usize) -> bool) -> Result<()> {
        self.0.until("the answers", CHANGE_LIMIT * 2, || {
            let text = self.ask("koornacht", requests)?;
            let count = |part: &str| text.matches(part).count();
            ensure!(
                wanted(count(KOORNACHT), count(TION), count(TIMED_OUT)),
                "{text}"
            );
            Ok(())
        })
    }

    /// For longer than a policy takes to every node.
    fn stays_closed(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let text = self.ask("koornacht", 2)?;
            ensure!(text.matches(TIMED_OUT).count() == 2, "{text}");
        }
        Ok(())
    }

    fn ask(&self, cluster: &str, requests: usize) -> Result<String> {
        let script = format!(
            "for i in $(seq 1 {requests}); do curl -sS --max-time 1 rebel-base 2>&1; done; true"
        );
        let words = [
            "lab",
            "exec",
            cluster,
            "-ti",
            "deployments/x-wing",
            "--",
            "/bin/sh",
            "-c",
            &script,
        ];
        self.0
            .run(&words)
            .with_context(|| format!("asking from {cluster}"))
    }
}

/// Each takes a second.
const REFUSED_TRIES: usize = 4;
