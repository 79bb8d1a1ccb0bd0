//! Where a load runs: a rig, a path in it, and the proxies on that path.

use std::{
    fmt,
    net::SocketAddr,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Settings,
    proxy::{Holdings, Proxy},
    stage::{Stage, finish},
};

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    SameNode,
    TwoNodes,
    TwoClusters,
}

/// All paths, in the order of the table.
pub(super) const PATHS: [Path; 3] = [Path::SameNode, Path::TwoNodes, Path::TwoClusters];
/// Those within one cluster.
pub(super) const IN_CLUSTER: [Path; 2] = [Path::SameNode, Path::TwoNodes];
/// The one that most is asked about.
pub(super) const BETWEEN_NODES: [Path; 1] = [Path::TwoNodes];

/// One path of one rig.
pub(super) struct Place<'a> {
    pub(super) settings: &'a Settings,
    pub(super) stage: &'a Stage,
    pub(super) path: Path,
}

/// What a load printed, and what the proxies on its path used for it.
pub(super) struct Outcome {
    pub(super) answer: Value,
    /// Processor time of all proxies on the path together; nothing where there are none.
    pub(super) spent: Option<Duration>,
}

impl<'a> Place<'a> {
    pub(super) fn new(settings: &'a Settings, stage: &'a Stage, path: Path) -> Place<'a> {
        Place {
            settings,
            stage,
            path,
        }
    }

    /// The proxies of the path: the client's, then the server's if that is another one; none for direct TCP.
    pub(super) fn proxies(&self) -> Result<Vec<Proxy>> {
        self.stage.proxies(self.path)
    }

    /// What the proxies of the path hold.
    pub(super) fn holdings(&self) -> Result<Vec<Holdings>> {
        let proxies = self.proxies()?;
        proxies
            .iter()
            .map(|proxy| proxy.holdings(self.stage))
            .collect()
    }

    /// Runs a load for the usual time.
    pub(super) fn load(&self, word: &str, more: &[&str]) -> Result<Outcome> {
        let length = self.settings.length.as_secs_f64().to_string();
        self.load_exactly(
            word,
            &[more, &["--seconds", &length]].concat(),
            self.settings.length,
        )
    }

    /// Runs a load that is over after about `length`.
    pub(super) fn load_exactly(
        &self,
        word: &str,
        more: &[&str],
        length: Duration,
    ) -> Result<Outcome> {
        self.attend(word, length, || self.start(word, more))
    }

    /// Runs a load against another server than the path's.
    pub(super) fn load_at(&self, word: &str, server: SocketAddr, more: &[&str]) -> Result<Outcome> {
        let (server, length) = (server.to_string(), self.settings.length);
        let seconds = length.as_secs_f64().to_string();
        let arguments = [&[word, &server], more, &["--seconds", &seconds]].concat();
        self.attend(word, length, || {
            self.stage.start_load(self.settings, &arguments)
        })
    }

    /// Starts a load against the path's server.
    pub(super) fn start(&self, word: &str, more: &[&str]) -> Result<Child> {
        let server = self.stage.server(self.path)?.to_string();
        self.stage
            .start_load(self.settings, &[&[word, &server], more].concat())
    }

    fn attend(
        &self,
        word: &str,
        length: Duration,
        start: impl FnOnce() -> Result<Child>,
    ) -> Result<Outcome> {
        let proxies = self.proxies()?;
        let before = processor_time(&proxies)?;
        let output = finish(start()?, length + LOAD_OVERTIME).with_context(|| word.to_owned())?;
        let spent = processor_time(&proxies)?.saturating_sub(before);
        let answer = serde_json::from_slice(&output.stdout).with_context(|| word.to_owned())?;
        Ok(Outcome {
            answer,
            spent: (!proxies.is_empty()).then_some(spent),
        })
    }

    /// Waits until something holds that the mesh has to learn first.
    pub(super) fn wait_for(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let mut last = Ok(false);
        tulle_lab::wait_until(Instant::now() + LEARN_LIMIT, || {
            last = condition();
            matches!(last, Ok(true) | Err(_))
        });
        ensure!(last?, "not within {LEARN_LIMIT:?}: {what}");
        Ok(())
    }

    /// Waits until the mesh is done with a large change: what it does with that would be counted with the load that comes next.
    pub(super) fn settle(&self) -> Result<()> {
        let mut busy = self.proxies()?;
        busy.push(self.stage.xds_server()?);
        self.wait_for("the mesh is done with its objects", || {
            let before = processor_time(&busy)?;
            self.rest(LOOK);
            Ok(processor_time(&busy)?.saturating_sub(before) < LOOK / 10)
        })
    }

    /// Does nothing for a while.
    pub(super) fn rest(&self, time: Duration) {
        tulle_lab::wait_until(Instant::now() + time, || false);
    }
}

impl Outcome {
    /// A number of the load's answer, which must be a useful one: a load that did nothing is no figure of zero.
    pub(super) fn number(&self, field: &str) -> Result<f64> {
        number(&self.answer, field)
    }

    /// Processor milliseconds per thousand of what the load counted.
    pub(super) fn millis_per_thousand(&self) -> Result<Option<f64>> {
        let count = self.number("count")?;
        let millis = self.spent.map(|spent| spent.as_secs_f64() * 1e3);
        Ok(millis.map(|millis| millis / (count / 1e3)))
    }
}

pub(super) fn number(answer: &Value, field: &str) -> Result<f64> {
    let value = answer.get(field).and_then(Value::as_f64);
    let value = value.with_context(|| format!("no `{field}` in {answer}"))?;
    ensure!(
        value.is_finite() && value > 0.0,
        "`{field}` is {value} in {answer}"
    );
    Ok(value)
}

fn processor_time(proxies: &[Proxy]) -> Result<Duration> {
    proxies.iter().map(Proxy::processor_time).sum()
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Path::SameNode => "same node",
            Path::TwoNodes => "two nodes",
            Path::TwoClusters => "two clusters",
        })
    }
}

/// How much longer than its own time a load may take, until all it has sent has arrived.
const LOAD_OVERTIME: Duration = Duration::from_secs(30);
/// For so long the mesh must have had little to do.
const LOOK: Duration = Duration::from_secs(1);
/// Ten thousand objects are a lot for one change.
const LEARN_LIMIT: Duration = Duration::from_secs(60);
