//! Wires what decides by the rules of policies.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tulle_datapath::Datapath;
use tulle_model::Directory;
use tulle_policy::compiled::{Compiler, CompilerSettings, Limits};

use crate::{
    config::Config,
    kernel_sync::TouchLog,
    pods::PodsView,
    policy::{Learned, NameLearner, PolicyKeeper, PolicyMetrics, PolicyStatus, PolicyView},
    published::{Published, Publisher},
};

/// The task that compiles, and the view of who decides by what it compiled.
pub(super) struct Policies {
    pub(super) keeper: PolicyKeeper,
    pub(super) view: PolicyView,
    /// Where the resolver tells what names were answered with.
    pub(super) learner: Arc<NameLearner>,
}

pub(super) fn policies(
    config: &Config,
    directory: &Published<Directory>,
    pods: Published<PodsView>,
    touched: &Arc<TouchLog>,
    datapath: &Arc<Datapath>,
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
    };
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
    let learner = NameLearner::new(learned, Arc::clone(touched), keeper.status.subscribe());
    Policies {
        keeper,
        view,
        learner: Arc::new(learner),
    }
}
