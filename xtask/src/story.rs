//! The story of the lab in six steps, each checked.
//!
//! It decides what each step must show. Everything is done as a user would: by `tulle lab`, and by `curl` inside a pod.

mod answers;
mod load;
mod mutual_tls;
mod wiretap;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    answers::{Answers, Tally},
    load::Load,
};
use crate::{lab::driver::Lab, process::poll_until, say, workspace::Workspace};

const KOORNACHT: &str = "koornacht";
const TION: &str = "tion";
const SERVICE: &str = "rebel-base";
const CLIENT: &str = "x-wing";

/// From ready pods to the first answer: the news must reach the nodes, and a certificate must be signed.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// From a change in one cluster until the other one's requests show it.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// Four servers share the requests at random: this many all go to one cluster once in a million runs.
const REQUESTS_FOR_A_MIX: usize = 20;
const REQUESTS: usize = 10;

type Step = (&'static str, fn(&Story) -> Result<()>);

const STEPS: [Step; 6] = [
    (
        "koornacht alone: every answer is koornacht's",
        Story::koornacht_alone,
    ),
    (
        "tion joins: nothing changes, no service is global yet",
        Story::tion_joins,
    ),
    (
        "both services become global: a mix from either cluster",
        Story::services_become_global,
    ),
    (
        "koornacht's servers go and come back: no request fails",
        Story::servers_go_and_come_back,
    ),
    (
        "between the clusters there is mutual TLS, and nothing else",
        Story::link_shows_nothing,
    ),
    (
        "servers of the control plane fail: requests go on",
        Story::control_plane_fails,
    ),
];

/// Plays every step; stops at the first that does not hold.
pub(crate) fn play(workspace: &Workspace, lab: &Lab) -> Result<()> {
    let story = Story {
        lab: lab.clone(),
        files: workspace.root().join("xtask/story"),
        scratch: workspace.target().join("story"),
    };
    for (number, (title, step)) in STEPS.iter().enumerate() {
        let number = number + 1;
        say::heading(format_args!("step {number} of {}: {title}", STEPS.len()));
        let started = Instant::now();
        step(&story).with_context(|| format!("step {number} did not hold: {title}"))?;
        say::held(title, started.elapsed());
    }
    Ok(())
}

struct Story {
    lab: Lab,
    /// The manifests of the story.
    files: PathBuf,
    /// Where a step may leave files for somebody who wants to look.
    scratch: PathBuf,
}

impl Story {
    fn koornacht_alone(&self) -> Result<()> {
        self.lab.up(KOORNACHT)?;
        self.deploy(KOORNACHT)?;
        let answers = self.ask(KOORNACHT, REQUESTS)?;
        answers.show(KOORNACHT);
        answers.expect("only Koornacht", Tally::only_koornacht)
    }

    fn tion_joins(&self) -> Result<()> {
        self.lab.up(TION)?;
        self.deploy(TION)?;
        let own = self.ask(TION, REQUESTS)?;
        own.show(TION);
        own.expect("only Tion", Tally::only_tion)?;
        let answers = self.ask(KOORNACHT, REQUESTS)?;
        answers.show(KOORNACHT);
        answers.expect("only Koornacht", Tally::only_koornacht)
    }

    fn services_become_global(&self) -> Result<()> {
        for cluster in [KOORNACHT, TION] {
            self.lab
                .annotate(cluster, SERVICE, "service.cilium.io/global=true")?;
        }
        for cluster in [KOORNACHT, TION] {
            self.ask_until(cluster, "a mix of both", Tally::is_mix)?;
        }
        Ok(())
    }

    fn servers_go_and_come_back(&self) -> Result<()> {
        let loads = self.start_loads()?;
        self.lab.scale(KOORNACHT, SERVICE, 0)?;
        for cluster in [KOORNACHT, TION] {
            self.ask_until(cluster, "only Tion", Tally::only_tion)?;
        }
        self.lab.scale(KOORNACHT, SERVICE, 2)?;
        for cluster in [KOORNACHT, TION] {
            self.ask_until(cluster, "a mix of both", Tally::is_mix)?;
        }
        stop_loads(loads)
    }

    fn link_shows_nothing(&self) -> Result<()> {
        mutual_tls::requests_cannot_be_read(self)?;
        mutual_tls::certificates_are_the_workloads(self)?;
        mutual_tls::strangers_get_nothing(self)
    }

    fn control_plane_fails(&self) -> Result<()> {
        let loads = self.start_loads()?;
        self.lab.component("kill", "koornacht/xds-server")?;
        for cluster in [KOORNACHT, TION] {
            self.ask_until(cluster, "a mix of both", Tally::is_mix)?;
        }
        self.lab.component("start", "koornacht/xds-server")?;
        self.lab
            .annotate(KOORNACHT, SERVICE, "service.cilium.io/affinity=local")?;
        self.ask_until(
            KOORNACHT,
            "only Koornacht, by the new affinity",
            Tally::only_koornacht,
        )?;
        self.lab
            .annotate(KOORNACHT, SERVICE, "service.cilium.io/affinity-")?;
        self.ask_until(KOORNACHT, "a mix of both", Tally::is_mix)?;

        self.lab.component("stop", "tion/etcd")?;
        // Koornacht may keep to its own servers now, since it hears nothing from tion; but nothing may fail.
        for cluster in [KOORNACHT, TION] {
            let answers = self.ask(cluster, REQUESTS)?;
            answers.show(cluster);
        }
        self.lab.component("start", "tion/etcd")?;
        self.ask_until(
            KOORNACHT,
            "a mix of both, with tion's etcd back",
            Tally::is_mix,
        )?;
        stop_loads(loads)
    }

    /// Applies the story's manifests to a cluster and waits for the first answer.
    fn deploy(&self, cluster: &str) -> Result<()> {
        for file in [
            format!("{cluster}.yaml"),
            "deployments.yaml".into(),
            "service.yaml".into(),
        ] {
            self.lab.apply(cluster, &self.files.join(file))?;
        }
        for deployment in [SERVICE, CLIENT] {
            self.lab.wait(cluster, deployment)?;
        }
        let mut last = String::new();
        let ready = poll_until(READY_LIMIT, || match self.try_ask(cluster, 1) {
            Ok(answers) if answers.failed() == 0 => Ok(Some(())),
            Ok(answers) => {
                last = answers.to_string();
                Ok(None)
            }
            Err(error) => Err(error),
        })?;
        ready
            .with_context(|| format!("no answer in {cluster} within {READY_LIMIT:?}; last: {last}"))
    }

    /// Asks until the answers are as expected; a request that fails is never waited for.
    fn ask_until(
        &self,
        cluster: &str,
        expected: &str,
        holds: impl Fn(Tally) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        let mut last = None;
        let held = poll_until(CHANGE_LIMIT, || {
            let answers = self.ask(cluster, REQUESTS_FOR_A_MIX)?;
            let holds = holds(answers.tally());
            last = Some(answers);
            Ok(holds.then_some(()))
        })?;
        if let Some(answers) = &last {
            answers.show(cluster);
        }
        if held.is_none() {
            bail!("from {cluster}, expected {expected} within {CHANGE_LIMIT:?}");
        }
        say::held(
            format_args!("from {cluster}: {expected}"),
            started.elapsed(),
        );
        Ok(())
    }

    /// Asks the service from a client in `cluster`; every request must be answered.
    fn ask(&self, cluster: &str, requests: usize) -> Result<Answers> {
        let answers = self.try_ask(cluster, requests)?;
        ensure!(
            answers.failed() == 0,
            "requests from {cluster} failed:\n{answers}"
        );
        Ok(answers)
    }

    fn try_ask(&self, cluster: &str, requests: usize) -> Result<Answers> {
        let script = format!(
            "for i in $(seq 1 {requests}); do curl -sS --max-time 5 {SERVICE} 2>&1 || echo \"curl ended with $?\"; done"
        );
        let text = self.lab.shell(cluster, CLIENT, &script).output()?;
        let answers = Answers::read(&text);
        ensure!(
            answers.len() >= requests,
            "{requests} requests, but only {} answers",
            answers.len()
        );
        Ok(answers)
    }

    fn start_loads(&self) -> Result<Vec<(&'static str, Load)>> {
        [KOORNACHT, TION]
            .into_iter()
            .map(|cluster| Ok((cluster, Load::start(&self.lab, cluster, CLIENT, SERVICE)?)))
            .collect()
    }
}

/// Ends the loads; not one of their requests may have failed.
fn stop_loads(loads: Vec<(&'static str, Load)>) -> Result<()> {
    for (cluster, load) in loads {
        let answers = load.stop()?;
        say::line(format_args!(
            "   meanwhile from {cluster}: {}",
            answers.tally()
        ));
        ensure!(
            answers.failed() == 0,
            "requests from {cluster} failed:\n{}",
            answers.failures()
        );
        ensure!(
            answers.len() >= REQUESTS,
            "the load from {cluster} made only {} requests",
            answers.len()
        );
    }
    Ok(())
}
