//! Wires what decides by the rules of policies.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tulle_datapath::Datapath;
use tulle_model::Directory;
use tulle_policy::compiled::{Compiler, CompilerSettings, Limits};

use super::{Stops, named};
use crate::{
    config::Config,
    dns::{NameKeeper, NameLimits},
    kernel_sync::TouchLog,
    metrics::DnsMetrics,
    pods::PodsView,
    policy::{
        CompiledNames, Learned, NameLearner, PolicyKeeper, PolicyMetrics, PolicyStatus, PolicyView,
        RecentVerdicts, Rechecker, VerdictListener,
    },
    published::{Published, Publisher},
};

/// The tasks that compile and follow up, and the view of who decides by what was compiled.
pub(super) struct Policies {
    pub(super) tasks: PolicyTasks,
    pub(super) view: PolicyView,
    /// What the pods' resolvers ask, and tell what names were answered with.
    pub(super) names: Arc<NameKeeper>,
}

/// What runs as long as the process.
pub(super) struct PolicyTasks {
    pub(super) keeper: PolicyKeeper,
    rechecker: Rechecker,
    listener: VerdictListener,
}

impl PolicyTasks {
    pub(super) fn spawn(self, stop: &Stops, tasks: &mut JoinSet<&'static str>) {
        let rules = self.keeper.run(stop.tables.clone());
        tasks.spawn(named("the rules of policies", rules));
        let standing = self.rechecker.run(stop.tables.clone());
        tasks.spawn(named("the end of denied connections", standing));
        let verdicts = self.listener.run(stop.everything.clone());
        tasks.spawn(named("the kernel's verdicts", verdicts));
    }
}

pub(super) fn policies(
    config: &Config,
    directory: &Published<Directory>,
    pods: Published<PodsView>,
    touched: &Arc<TouchLog>,
    datapath: &Arc<Datapath>,
    dns: &Arc<DnsMetrics>,
    registry: &mut Registry,
) -> Policies {
    let metrics = Arc::new(PolicyMetrics::default());
    metrics.register(registry);
    let nothing = Compiler::new(CompilerSettings {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        limits: Limits::default(),
    });
    let compiled = Publisher::from_arc(nothing.policy());
    let learned = Publisher::new(Learned::default());
    let view = PolicyView {
        compiled: compiled.subscribe(),
        directory: directory.clone(),
        metrics: Arc::clone(&metrics),
        recent: Arc::new(RecentVerdicts::default()),
    };
    let pods_seen = pods.clone();
    let keeper = PolicyKeeper {
        directory: directory.clone(),
        pods,
        learned: learned.subscribe(),
        touched: Arc::clone(touched),
        tables: Arc::<Datapath>::clone(datapath),
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        compiled,
        status: Publisher::new(PolicyStatus::default()),
        metrics,
    };
    let rechecker = Rechecker {
        status: keeper.status.subscribe(),
        view: view.clone(),
        pods: pods_seen,
        connections: Arc::<Datapath>::clone(datapath),
        cluster: config.cluster.clone(),
    };
    let listener = VerdictListener {
        view: view.clone(),
        events: datapath.take_verdict_events(),
    };
    let learner = NameLearner::new(learned, Arc::clone(touched), keeper.status.subscribe());
    let rules = CompiledNames {
        view: view.clone(),
        learner: Arc::new(learner),
    };
    let names = NameKeeper::new(
        Arc::new(rules),
        directory.clone(),
        Arc::clone(dns),
        config.state.as_deref().map(beside),
        NameLimits {
            ttl_min: config.names_ttl_min,
            ..NameLimits::default()
        },
    );
    Policies {
        tasks: PolicyTasks {
            keeper,
            rechecker,
            listener,
        },
        view,
        names: Arc::new(names),
    }
}

/// Learned names lie beside the saved view.
fn beside(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".names");
    path.into()
}
