//! What may break while requests go on, and what the clients see of it. Each scenario prints its figures as a line of JSON.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tulle_e2e::{
    command::Tulle,
    curls::{Outcome, now_micros},
    promises::Promises,
};

const CURLS: &str = env!("CARGO_BIN_EXE_curls");
const CLUSTERS: [&str; 2] = ["koornacht", "tion"];
/// The node whose proxy is killed.
const VICTIM: &str = "koornacht-worker";
/// The nodes of the clients; no client depends on the proxy that is killed.
const CLIENTS: [(&str, &str); 2] = [("koornacht", "koornacht-worker2"), ("tion", "tion-worker2")];
const CLIENT: &str = "client";
/// The requests of both clients together, in a second.
const RATE: u32 = 200;
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn requests_go_on_while_parts_fail() -> Result<()> {
    let rig = Rig::up()?;
    let mut promises = Promises::default();
    for (promise, scenario) in SCENARIOS {
        promises.note(promise, scenario(&rig));
    }
    promises.all_kept()
}

type Scenario = fn(&Rig) -> Result<()>;

/// All on one rig, since bringing one up takes longer than most of them.
const SCENARIOS: [(&str, Scenario); 3] = [
    ("scaling to nothing fails no request", scaled_to_nothing),
    ("killed parts fail no request but their own", killed_parts),
    (
        "a cut link is avoided within 3 s, and after the first failure of each node",
        cut_link,
    ),
];

fn scaled_to_nothing(rig: &Rig) -> Result<()> {
    let load = rig.load()?;
    load.run_for(Duration::from_secs(1));
    let at = now_micros();
    rig.scale(0)?;
    load.run_for(Duration::from_secs(3));
    rig.scale(2)?;
    rig.settle()?;
    load.run_for(Duration::from_secs(1));
    let outcomes = load.finish()?;
    let figures = Figures::of(&outcomes, at);
    figures.print("scale koornacht/rebel-base --replicas 0");
    figures.expect_none_failed()
}

/// Each part alone, and each pair.
fn killed_parts(rig: &Rig) -> Result<()> {
    let proxy = format!("{VICTIM}/node-proxy");
    let parts = [
        "koornacht/xds-server",
        "tion/xds-server",
        "koornacht/etcd",
        "tion/etcd",
        &proxy,
    ];
    let mut sets: Vec<Vec<&str>> = parts.iter().map(|part| vec![*part]).collect();
    for (index, a) in parts.iter().enumerate() {
        sets.extend(parts[index + 1..].iter().map(|b| vec![*a, *b]));
    }
    let mut faults = Vec::new();
    for set in sets {
        let name = format!("kill -9 {}", set.join(" and "));
        if let Err(error) = kill(rig, &name, &set).with_context(|| name.clone()) {
            faults.push(format!("{error:#}"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    rig.settle()
}

fn kill(rig: &Rig, name: &str, parts: &[&str]) -> Result<()> {
    let load = rig.load()?;
    load.run_for(Duration::from_millis(700));
    let at = now_micros();
    for part in parts {
        rig.tulle.run(&["lab", "kill", part])?;
    }
    let killed = now_micros();
    load.run_for(Duration::from_millis(1500));
    for part in parts {
        rig.tulle.run(&["lab", "start", part])?;
    }
    load.run_for(Duration::from_millis(700));
    let outcomes = load.finish()?;
    rig.connected()?;
    let figures = Figures::of(&outcomes, at);
    figures.print(name);
    if parts.iter().any(|part| part.ends_with("node-proxy")) {
        // What the killed proxy carried in that moment is lost with it, and nothing else.
        let carried = |o: &&Outcome| o.began <= killed && ends(o) + CLOCK_SLACK_MICROS >= at;
        let failed = outcomes.iter().filter(|o| o.answer.is_err());
        let (lost, others): (Vec<&Outcome>, Vec<&Outcome>) = failed.partition(carried);
        ensure!(
            others.is_empty(),
            "{} requests failed that the killed proxy did not carry: {:?}",
            others.len(),
            others.first()
        );
        let bound = usize::try_from(RATE / 10)?;
        ensure!(
            lost.len() <= bound,
            "{} requests were lost with the proxy",
            lost.len()
        );
        return Ok(());
    }
    figures.expect_none_failed()
}

/// Packets between the clusters vanish. Nobody is told; every request that is begun 3 s later must succeed, and before that every
/// request that is begun on a node after the first one there that noticed.
fn cut_link(rig: &Rig) -> Result<()> {
    let load = rig.load()?;
    load.run_for(Duration::from_secs(1));
    let at = now_micros();
    rig.tulle
        .run(&["lab", "link", "koornacht", "tion", "down"])?;
    load.run_for(Duration::from_secs(8));
    let joined = now_micros();
    rig.tulle.run(&["lab", "link", "koornacht", "tion", "up"])?;
    load.run_for(Duration::from_secs(2));
    let clients = load.finish_each()?;
    rig.settle()?;
    let outcomes = clients.concat();
    let figures = Figures::of(&outcomes, at);
    figures.print("link koornacht tion down");
    for outcomes in &clients {
        none_suffers_after_the_first(outcomes, at, joined)?;
    }
    let late = |o: &&Outcome| o.began > at + CUT_LIMIT_MICROS && o.began < joined;
    let mut failed = outcomes.iter().filter(late).filter(|o| o.answer.is_err());
    if let Some(first) = failed.next() {
        let more = failed.count();
        let after = (first.began - at) / 1000;
        anyhow::bail!(
            "a request begun {after} ms after the cut failed, and {more} others: {first:?}"
        );
    }
    Ok(())
}

/// The requests of one node, after the cut at `at`: whoever is begun after the first that noticed it notices nothing.
fn none_suffers_after_the_first(outcomes: &[Outcome], at: u64, joined: u64) -> Result<()> {
    let suffers = |o: &&Outcome| o.answer.is_err() || o.took >= SUFFERS_FROM;
    let during = outcomes.iter().filter(|o| o.began < joined);
    let suffering: Vec<&Outcome> = during.filter(|o| ends(o) > at).filter(suffers).collect();
    let first = suffering.iter().map(|o| ends(o)).min();
    let first = first.context("no request met the cut link")?;
    let after = suffering.iter().filter(|o| o.began > first + TOLD_MICROS);
    let line = json!({
        "scenario": "link koornacht tion down, one node",
        "firstNoticedMs": (first - at) / 1000, "suffered": suffering.len(),
    });
    eprintln!("{line}");
    let after: Vec<_> = after.collect();
    ensure!(
        after.is_empty(),
        "{} requests suffered that were begun after the first had noticed the cut: {:?}",
        after.len(),
        after.first()
    );
    Ok(())
}

fn ends(outcome: &Outcome) -> u64 {
    let took = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
    outcome.began.saturating_add(took)
}

const CUT_LIMIT_MICROS: u64 = 3_000_000;
/// An endpoint is left for another after 2 s; whoever waited for none is far below.
const SUFFERS_FROM: Duration = Duration::from_secs(1);
/// From a failure to the kernel's tables.
const TOLD_MICROS: u64 = 200_000;
/// Between the end of a process and the reset that its peers read.
const CLOCK_SLACK_MICROS: u64 = 50_000;

struct Figures {
    requests: usize,
    failed: usize,
    errors: Vec<String>,
    first_failure_millis: Option<i64>,
    last_failure_millis: Option<i64>,
    longest: Duration,
    koornacht: usize,
    tion: usize,
}

impl Figures {
    /// Times are told from `at` on.
    fn of(outcomes: &[Outcome], at: u64) -> Figures {
        let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.answer.is_err()).collect();
        let millis = |o: &&Outcome| {
            let begun = i64::try_from(o.began).unwrap_or(i64::MAX);
            (begun - i64::try_from(at).unwrap_or(i64::MAX)) / 1000
        };
        let mut errors: Vec<String> = failed
            .iter()
            .filter_map(|o| o.answer.clone().err())
            .collect();
        errors.sort();
        errors.dedup();
        let from = |name: &str| {
            let answers = outcomes.iter().filter_map(|o| o.answer.as_ref().ok());
            answers.filter(|text| text.contains(name)).count()
        };
        Figures {
            requests: outcomes.len(),
            failed: failed.len(),
            errors,
            first_failure_millis: failed.iter().map(millis).min(),
            last_failure_millis: failed.iter().map(millis).max(),
            longest: outcomes.iter().map(|o| o.took).max().unwrap_or_default(),
            koornacht: from("Koornacht"),
            tion: from("Tion"),
        }
    }

    fn print(&self, scenario: &str) {
        let line = json!({
            "scenario": scenario, "requests": self.requests, "failed": self.failed,
            "firstFailureMs": self.first_failure_millis, "lastFailureMs": self.last_failure_millis,
            "longestMs": (self.longest.as_secs_f64() * 1000.0).round(),
            "answers": {"koornacht": self.koornacht, "tion": self.tion}, "errors": self.errors,
        });
        eprintln!("{line}");
    }

    fn expect_none_failed(&self) -> Result<()> {
        ensure!(
            self.failed == 0,
            "{} of {} requests failed: {:?}",
            self.failed,
            self.requests,
            self.errors
        );
        Ok(())
    }
}

/// Both clusters with the application of the seed, its service global in both.
struct Rig {
    tulle: Tulle,
}

impl Rig {
    fn up() -> Result<Rig> {
        let tulle = Tulle::new("fault")?;
        tulle.up(&["--no-mesh"])?;
        let rig = Rig { tulle };
        for cluster in CLUSTERS {
            rig.on(cluster, &["clustermesh", "enable", "--wait"])?;
        }
        let destination = rig.tulle.context("tion");
        let words = [
            "clustermesh",
            "connect",
            "--destination-context",
            &destination,
            "--wait",
        ];
        rig.on("koornacht", &words)?;
        let story = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/story");
        for cluster in CLUSTERS {
            for file in [
                "deployments".to_owned(),
                cluster.to_owned(),
                "service".to_owned(),
            ] {
                let file = format!("{story}/{file}.yaml");
                rig.tulle.run(&["lab", "apply", cluster, "-f", &file])?;
            }
            let words = ["lab", "annotate", cluster, "service", "rebel-base"];
            let edit = ["service.cilium.io/global=true"];
            rig.tulle.run(&[&words[..], &edit].concat())?;
        }
        for (cluster, node) in CLIENTS {
            rig.create_client(cluster, node)?;
        }
        rig.settle()?;
        Ok(rig)
    }

    /// A pod on the machine's own root: the client program may lie anywhere, below `/tmp` as well.
    fn create_client(&self, cluster: &str, node: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(
            file.path(),
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {CLIENT}}}\nspec:\n  nodeName: {node}\n  containers:\n  - name: main\n    \
                 image: tulle.test/host:1\n    command: [sleep, \"100000\"]\n"
            ),
        )?;
        let path = file.path().to_str().context("a path in UTF-8")?;
        self.tulle.run(&["lab", "apply", cluster, "-f", path])?;
        let pod = format!("pod/{CLIENT}");
        self.tulle.until("the client runs", SETTLE_LIMIT, || {
            self.tulle
                .run(&["lab", "exec", cluster, &pod, "--", "true"])
                .map(drop)
        })
    }

    fn scale(&self, replicas: u32) -> Result<()> {
        let replicas = replicas.to_string();
        let words = [
            "lab",
            "scale",
            "koornacht",
            "deployment",
            "rebel-base",
            "--replicas",
        ];
        self.tulle.run(&[&words[..], &[&replicas]].concat())?;
        Ok(())
    }

    /// Waits until the servers know that everything is as before: pods ready, clusters connected, all four endpoints in use.
    fn connected(&self) -> Result<()> {
        for cluster in CLUSTERS {
            for deployment in ["deployment/rebel-base", "deployment/x-wing"] {
                self.tulle.run(&["lab", "wait", cluster, deployment])?;
            }
            self.on(
                cluster,
                &["clustermesh", "status", "--wait", "--wait-duration", "30s"],
            )?;
            self.tulle
                .until("all four servers are in use", SETTLE_LIMIT, || {
                    let context = self.tulle.context(cluster);
                    let words = ["service", "get", "rebel-base", "--context", &context];
                    let service = self.tulle.json(&words)?;
                    let backends = service["backends"].as_array().context("no backends")?;
                    let used = backends.iter().filter(|b| b["included"] == true).count();
                    ensure!(used == 4, "{used} are in use");
                    Ok(())
                })?;
        }
        Ok(())
    }

    /// Waits until the clients see it as well: both clusters answer, and no request fails.
    fn settle(&self) -> Result<()> {
        self.connected()?;
        for (cluster, _) in CLIENTS {
            self.tulle
                .until("every cluster answers", SETTLE_LIMIT, || {
                    let load = Load::start(self, cluster)?;
                    load.run_for(Duration::from_millis(300));
                    let outcomes = load.finish()?;
                    let figures = Figures::of(&outcomes, 0);
                    figures.expect_none_failed()?;
                    ensure!(
                        figures.koornacht > 0 && figures.tion > 0,
                        "one does not answer"
                    );
                    Ok(())
                })?;
        }
        Ok(())
    }

    fn load(&self) -> Result<Loads> {
        let start = |(cluster, _): (&str, &str)| Load::start(self, cluster);
        Ok(Loads(
            CLIENTS.into_iter().map(start).collect::<Result<_>>()?,
        ))
    }

    fn on(&self, cluster: &str, words: &[&str]) -> Result<String> {
        let context = self.tulle.context(cluster);
        self.tulle.run(&[words, &["--context", &context]].concat())
    }
}

struct Loads(Vec<Load>);

impl Loads {
    fn run_for(&self, time: Duration) {
        for load in self.0.iter().take(1) {
            load.run_for(time);
        }
    }

    fn finish(self) -> Result<Vec<Outcome>> {
        Ok(self.finish_each()?.concat())
    }

    fn finish_each(self) -> Result<Vec<Vec<Outcome>>> {
        self.0.into_iter().map(Load::finish).collect()
    }
}

/// A client in a pod.
struct Load {
    process: Child,
    stdin: ChildStdin,
    lines: JoinHandle<Vec<Value>>,
}

impl Load {
    fn start(rig: &Rig, cluster: &str) -> Result<Load> {
        let client = format!("pod/{CLIENT}");
        let rate = (RATE / 2).to_string();
        let mut process = rig.tulle.start(&[
            "lab",
            "exec",
            cluster,
            &client,
            "-i",
            "--",
            CURLS,
            "ask",
            "rebel-base:80",
            "--rate",
            &rate,
        ])?;
        let stdin = process.stdin.take().context("no standard input")?;
        let stdout = process.stdout.take().context("no standard output")?;
        let lines = std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines
                .filter_map(|line| serde_json::from_str(&line).ok())
                .collect()
        });
        Ok(Load {
            process,
            stdin,
            lines,
        })
    }

    /// Lets the requests go on for a while.
    fn run_for(&self, time: Duration) {
        let until = std::time::Instant::now() + time;
        tulle_lab::wait_until(until, || false);
    }

    /// Ends the client; what became of its requests, in the order in which they ended.
    fn finish(mut self) -> Result<Vec<Outcome>> {
        drop(self.stdin);
        let status = self.process.wait()?;
        ensure!(status.success(), "the client ended with {status}");
        let lines = self.lines.join();
        let lines = lines.map_err(|_| anyhow::anyhow!("the reader of the client broke off"))?;
        ensure!(!lines.is_empty(), "the client made no request");
        let outcomes = lines.iter().map(Outcome::of_json);
        outcomes
            .collect::<Option<_>>()
            .context("a line of the client is not readable")
    }
}
