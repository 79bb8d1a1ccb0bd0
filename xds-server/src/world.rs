//! The one owner of the mesh's state: takes what the source and the other clusters tell, gives snapshots to the streams and
//! the own cluster's state to the store.
//!
//! Everything that is waiting is taken in before a snapshot is made, so a burst costs one snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use imbl::OrdMap;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tulle_model::{Change, ClusterName, Directory, TrustBundle};

use crate::{
    catalog::{Catalog, CatalogSettings},
    layout::{self, ClusterInfo},
    merge::{Merge, RefuseRemoteError, Remote},
    metrics::Metrics,
    remotes::RemoteEvent,
    snapshot::{ResourceType, Snapshot},
    source::SourceEvent,
    status::StatusBoard,
};

/// The own cluster's state as the store shall hold it: values by key, the cluster's prefix left out.
#[derive(Debug, Clone, Default)]
pub struct OwnState {
    /// The source has delivered everything: what is not here may be deleted.
    pub complete: bool,
    /// The keys and their values.
    pub entries: OrdMap<Arc<str>, Bytes>,
}

/// What is known of every cluster, before it is merged to what the nodes are given.
#[derive(Debug, Clone, Default)]
pub struct MeshView {
    /// The own cluster.
    pub own: Directory,
    /// The others by name.
    pub remotes: BTreeMap<ClusterName, RemoteView>,
}

/// What is known of another cluster.
#[derive(Debug, Clone)]
pub struct RemoteView {
    /// As it describes itself.
    pub state: Directory,
    /// Its heartbeat stands still.
    pub silent: bool,
}

/// Where the world's results go.
#[derive(Debug)]
pub struct Outputs {
    /// To the streams and the certificate authority.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// To whoever explains the snapshots.
    pub mesh: watch::Sender<Arc<MeshView>>,
    /// To the store.
    pub own_state: watch::Sender<OwnState>,
    /// To the operator.
    pub status: Arc<StatusBoard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// See the module's text.
#[derive(Debug)]
pub struct World {
    info: ClusterInfo,
    catalog: Catalog,
    merge: Merge,
    snapshot: Snapshot,
    own_state: OwnState,
    /// The remote clusters that were taken in, with what they say of themselves.
    admitted: std::collections::BTreeMap<ClusterName, ClusterInfo>,
    refusals: BTreeSet<String>,
    outputs: Outputs,
    started: Instant,
    changed: bool,
}

impl World {
    /// The world of one cluster that knows nothing yet but its own roots.
    pub fn new(info: ClusterInfo, bundle: TrustBundle, outputs: Outputs) -> Self {
        let settings = CatalogSettings {
            cluster: info.name.clone(),
            trust_domain: info.trust_domain.clone(),
            namespaces_global: true,
        };
        let mut world = World {
            catalog: Catalog::new(settings),
            merge: Merge::new(info.name.clone()),
            snapshot: Snapshot::default(),
            own_state: OwnState::default(),
            admitted: std::collections::BTreeMap::new(),
            refusals: BTreeSet::new(),
            outputs,
            started: Instant::now(),
            changed: false,
            info,
        };
        world.set_entry(layout::INFO, layout::encode(&world.info));
        world.apply_local(vec![Change::Bundle(Arc::new(bundle))]);
        world
    }

    /// Says whether services may be global in namespaces that do not say; they may if this is not called.
    pub fn with_namespaces_global(mut self, namespaces_global: bool) -> Self {
        self.catalog = Catalog::new(CatalogSettings {
            cluster: self.info.name.clone(),
            trust_domain: self.info.trust_domain.clone(),
            namespaces_global,
        });
        self
    }

    /// Runs until `stop`.
    pub async fn run(
        mut self,
        mut source: mpsc::Receiver<SourceEvent>,
        mut remotes: mpsc::Receiver<RemoteEvent>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! { // Cancel-safe: an event is received whole or not at all.
                () = stop.cancelled() => return,
                Some(event) = source.recv() => self.handle_source(event),
                Some(event) = remotes.recv() => self.handle_remote(event),
                _ = ticks.tick() => self.handle_tick(),
            }
            self.drain(&mut source, &mut remotes);
            self.publish();
        }
    }

    fn drain(
        &mut self,
        source: &mut mpsc::Receiver<SourceEvent>,
        remotes: &mut mpsc::Receiver<RemoteEvent>,
    ) {
        for _ in 0..DRAIN_LEN_MAX {
            if let Ok(event) = source.try_recv() {
                self.handle_source(event);
            } else if let Ok(event) = remotes.try_recv() {
                self.handle_remote(event);
            } else {
                return;
            }
        }
    }

    fn handle_source(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => {
                let facts = self.catalog.apply(changes);
                self.apply_local(facts);
                self.snapshot.placements = self.catalog.placements().clone();
                self.snapshot.nodes = self.catalog.node_names().clone();
                self.changed = true;
                let warnings = self.catalog.warnings();
                self.outputs.status.update(|s| s.source.warnings = warnings);
            }
            SourceEvent::Problems(problems) => {
                self.outputs.status.update(|s| s.source.problems = problems);
            }
            SourceEvent::Synced => {
                self.snapshot.ready = true;
                self.own_state.complete = true;
                self.changed = true;
                self.outputs.status.update(|s| {
                    s.source.synced = true;
                    s.ready = true;
                });
                tracing::info!("the source is read; clients are answered from now on");
            }
        }
    }

    fn handle_remote(&mut self, event: RemoteEvent) {
        match event {
            RemoteEvent::Configured { cluster } => {
                self.snapshot.unheard.insert(cluster);
                self.changed = true;
            }
            RemoteEvent::Removed { cluster } => {
                self.admitted.remove(&cluster);
                self.snapshot.unheard.remove(&cluster);
                let changes = self.merge.remove_remote(&cluster);
                self.show(changes);
                self.changed = true;
            }
            RemoteEvent::Admit { info, reply } => {
                let verdict = self.admit(&info);
                // Whoever asked may be gone: its configuration was removed meanwhile.
                drop(reply.send(verdict));
            }
            RemoteEvent::State {
                cluster,
                state,
                complete,
                heartbeat,
            } => {
                let (changes, refused) = if complete {
                    self.merge.handle_resync(&cluster, &state)
                } else {
                    self.merge.handle_partial(&cluster, &state)
                };
                self.show(changes);
                refused.iter().for_each(|e| self.note_refusal(&cluster, e));
                self.beat(&cluster, heartbeat);
                if complete {
                    self.changed |= self.snapshot.unheard.remove(&cluster).is_some();
                    self.outputs
                        .status
                        .update_remote(&cluster, |r| r.synced = true);
                }
            }
            RemoteEvent::Changes {
                cluster,
                changes,
                heartbeat,
            } => {
                for change in changes {
                    match self.merge.handle_remote(&cluster, change) {
                        Ok(changes) => self.show(changes),
                        Err(error) => self.note_refusal(&cluster, &error),
                    }
                }
                self.beat(&cluster, heartbeat);
            }
        }
    }

    /// Two clusters of one name or id never connect.
    fn admit(&mut self, info: &ClusterInfo) -> Result<(), String> {
        let taken = |other: &ClusterInfo| {
            let (name, id) = (&info.name, info.id);
            let same_name = other.name == *name;
            (same_name || other.id == id).then(|| {
                let what = if same_name { format!("name {name}") } else { format!("id {id}") };
                format!(
                    "cluster {name} (id {id}) is refused: cluster {} (id {}) has the same {what}; names and ids must differ in a mesh",
                    other.name, other.id
                )
            })
        };
        let others = self
            .admitted
            .values()
            .filter(|other| other.name != info.name);
        if let Some(refusal) = [&self.info].into_iter().chain(others).find_map(taken) {
            return Err(refusal);
        }
        let changes = self
            .merge
            .add_remote(info.name.clone(), info.trust_domain.clone());
        self.show(changes);
        self.admitted.insert(info.name.clone(), info.clone());
        Ok(())
    }

    fn handle_tick(&mut self) {
        let now = self.started.elapsed();
        let changes = self.merge.handle_tick(now);
        if !changes.is_empty() {
            tracing::warn!(
                workloads = changes.len(),
                "a remote cluster is silent; its workloads are used last"
            );
        }
        self.show(changes);
        for (name, remote) in self.merge.remotes() {
            let age = remote
                .last_beat()
                .map(|at| now.saturating_sub(at).as_secs_f64());
            let (workloads, services) = (
                remote.state().workloads_len(),
                remote.state().services_len(),
            );
            let demoted = remote.is_silent();
            self.outputs.status.update_remote(name, |r| {
                r.heartbeat_age_seconds = age;
                r.demoted = demoted;
                r.workloads = workloads;
                r.services = services;
            });
        }
    }

    fn beat(&mut self, cluster: &ClusterName, heartbeat: Option<u64>) {
        let Some(value) = heartbeat else { return };
        let changes = self
            .merge
            .handle_heartbeat(cluster, value, self.started.elapsed());
        if !changes.is_empty() {
            tracing::info!(%cluster, workloads = changes.len(), "the cluster is heard; its workloads are used again");
        }
        self.show(changes);
    }

    fn apply_local(&mut self, facts: Vec<Change>) {
        for fact in facts {
            self.store_fact(&fact);
            let changes = self.merge.handle_local(fact);
            self.show(changes);
        }
    }

    /// Other clusters need workloads, global services and roots; policies are each cluster's own.
    fn store_fact(&mut self, fact: &Change) {
        match fact {
            Change::Workload(workload) => {
                self.set_entry(
                    &layout::workload_key(&workload.uid),
                    layout::encode(&**workload),
                );
            }
            Change::WorkloadGone(uid) => self.remove_entry(&layout::workload_key(uid)),
            Change::Service(service) if service.sharing.global => {
                self.set_entry(
                    &layout::service_key(&service.key()),
                    layout::encode(&**service),
                );
            }
            Change::Service(service) => self.remove_entry(&layout::service_key(&service.key())),
            Change::ServiceGone(key) => self.remove_entry(&layout::service_key(key)),
            Change::Bundle(bundle) => self.set_entry(layout::BUNDLE, layout::encode(&**bundle)),
            Change::BundleGone(_) => self.remove_entry(layout::BUNDLE),
            Change::Policy(_) | Change::PolicyGone(_) => {}
        }
    }

    fn set_entry(&mut self, key: &str, value: Bytes) {
        if self.own_state.entries.get(key) != Some(&value) {
            self.own_state.entries.insert(Arc::from(key), value);
            self.changed = true;
        }
    }

    fn remove_entry(&mut self, key: &str) {
        self.changed |= self.own_state.entries.remove(key).is_some();
    }

    fn show(&mut self, changes: Vec<Change>) {
        self.changed |= !changes.is_empty();
        for change in changes {
            self.snapshot.apply(change);
        }
    }

    fn note_refusal(&mut self, cluster: &ClusterName, error: &RefuseRemoteError) {
        self.outputs.metrics.remote_refusals.inc();
        let text = error.to_string();
        self.outputs
            .status
            .update_remote(cluster, |r| r.last_error = Some(text.clone()));
        if self.refusals.len() < REFUSALS_LEN_MAX && self.refusals.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.snapshot.revision += 1;
        self.outputs.metrics.snapshots.inc();
        let len = |kind| self.snapshot.resources(kind).len();
        let (addresses, policies) = (len(ResourceType::Address), len(ResourceType::Authorization));
        let (bundles, revision) = (len(ResourceType::TrustBundle), self.snapshot.revision);
        self.outputs.status.update(|s| {
            s.view = crate::status::ViewStatus {
                revision,
                addresses,
                policies,
                bundles,
            };
        });
        self.outputs
            .snapshots
            .send_replace(Arc::new(self.snapshot.clone()));
        self.outputs.own_state.send_replace(self.own_state.clone());
        self.outputs.mesh.send_replace(Arc::new(self.mesh_view()));
    }

    /// Directories share what did not change, so this costs a few pointers for each cluster.
    fn mesh_view(&self) -> MeshView {
        let view = |(name, remote): (&ClusterName, &Remote)| {
            let state = remote.state().clone();
            let silent = remote.is_silent();
            (name.clone(), RemoteView { state, silent })
        };
        MeshView {
            own: self.merge.local().clone(),
            remotes: self.merge.remotes().iter().map(view).collect(),
        }
    }
}

/// How late silence may be noticed.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// Enough to swallow a burst; few enough that the streams are served in between.
const DRAIN_LEN_MAX: usize = 1024;
/// Different refusals that are logged; all are counted.
const REFUSALS_LEN_MAX: usize = 256;
