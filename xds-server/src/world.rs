//! The one owner of the mesh's state: takes what the source and the other clusters tell, gives snapshots to the streams and
//! the own cluster's state to the store.
//!
//! Everything that is waiting is taken in before a snapshot is made, so a burst costs one snapshot.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    admissions::Admissions,
    catalog::{Catalog, CatalogSettings},
    cilium::{CiliumExport, NodeFacts},
    layout::{self, ClusterInfo, Slices},
    merge::{Merge, RefuseRemoteError, Remote, SILENT_AFTER},
    metrics::Metrics,
    remotes::{Admission, RemoteEvent, RemoteIdentity},
    snapshot::{ResourceType, Snapshot},
    source::{Object, ObjectChange, ObjectKind, SourceEvent},
    status::StatusBoard,
};

/// The own cluster's state as the store shall hold it: values by key.
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
    /// To the store in Cilium's layout, if that is wanted.
    pub cilium_state: Option<watch::Sender<OwnState>>,
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
    /// The prefix of the own keys.
    prefix: String,
    slices: Slices,
    cilium: Option<(CiliumExport, OwnState)>,
    admissions: Admissions,
    /// The last sign of life of clusters that count as silent, and when it came.
    returning: HashMap<ClusterName, (u64, Duration)>,
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
            prefix: layout::prefix(&info.name),
            slices: Slices::default(),
            cilium: outputs.cilium_state.as_ref().map(|_| {
                let export = CiliumExport::new(&info.name, info.id.value());
                (export, OwnState::default())
            }),
            admissions: Admissions::new(&info, &bundle),
            returning: HashMap::new(),
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
                self.export_nodes(&changes);
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
                if let Some((_, state)) = &mut self.cilium {
                    state.complete = true;
                }
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
                self.admissions.remove(&cluster);
                self.snapshot.unheard.remove(&cluster);
                let changes = self.merge.remove_remote(&cluster);
                self.show(changes);
                self.changed = true;
            }
            RemoteEvent::Admit { identity, reply } => {
                let verdict = self.admit(&identity);
                // Whoever asked may be gone: its configuration was removed meanwhile.
                drop(reply.send(verdict));
            }
            RemoteEvent::Changes {
                cluster,
                changes,
                heartbeat,
                complete,
                turn,
            } => {
                self.handle_remote_changes(&cluster, changes);
                if complete {
                    self.changed |= self.snapshot.unheard.remove(&cluster).is_some();
                    self.outputs
                        .status
                        .update_remote(&cluster, |r| r.complete = true);
                }
                self.beat(&cluster, heartbeat);
                drop(turn);
            }
        }
    }

    fn handle_remote_changes(&mut self, cluster: &ClusterName, changes: Vec<Change>) {
        for change in changes {
            match self.merge.handle_remote(cluster, change) {
                Ok(changes) => self.show(changes),
                Err(error) => self.note_refusal(cluster, &error),
            }
        }
    }

    fn admit(&mut self, identity: &RemoteIdentity) -> Result<Admission, String> {
        self.admissions.admit(identity)?;
        let (name, domain) = (&identity.name, &identity.trust_domain);
        let known = self.merge.remotes().get(name);
        let fresh = known.is_none_or(|r| r.trust_domain() != domain);
        let changes = self.merge.add_remote(name.clone(), domain.clone());
        self.show(changes);
        Ok(Admission { fresh })
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
            let age = remote.last_beat().map(|at| now.saturating_sub(at));
            let age = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            let (workloads, services) = (
                remote.state().workloads_len(),
                remote.state().services_len(),
            );
            let demoted = remote.is_silent();
            self.outputs.status.update_remote(name, |r| {
                r.heartbeat_age_ms = age;
                r.demoted = demoted;
                r.counts.insert("endpoints", workloads);
                r.counts.insert("services", services);
            });
        }
    }

    /// One value that is new to us may be old: a cluster that was silent is back with the second.
    fn beat(&mut self, cluster: &ClusterName, heartbeat: Option<u64>) {
        let Some(value) = heartbeat else { return };
        let now = self.started.elapsed();
        let silent = self
            .merge
            .remotes()
            .get(cluster)
            .is_some_and(Remote::is_silent);
        if silent {
            let last = self.returning.insert(cluster.clone(), (value, now));
            let lives = last.is_some_and(|(before, at)| {
                before != value && now.saturating_sub(at) < SILENT_AFTER
            });
            if !lives {
                return;
            }
            self.returning.remove(cluster);
        }
        let changes = self.merge.handle_heartbeat(cluster, value, now);
        if silent {
            tracing::info!(%cluster, workloads = changes.len(), "the cluster is heard; its workloads are used");
        }
        self.show(changes);
    }

    /// What the mesh itself does not need to know of nodes.
    fn export_nodes(&mut self, changes: &[ObjectChange]) {
        let Some((export, _)) = &mut self.cilium else {
            return;
        };
        let local = self.merge.local();
        for change in changes {
            match change {
                ObjectChange::Put(key, object) => {
                    if let Object::Node(node) = &**object {
                        export.handle_node(&key.name, Some(NodeFacts::of(node)), local);
                    }
                }
                ObjectChange::Gone(key) if key.kind == ObjectKind::Node => {
                    export.handle_node(&key.name, None, local);
                }
                ObjectChange::Gone(_) => {}
            }
        }
        self.changed = true;
    }

    fn apply_local(&mut self, facts: Vec<Change>) {
        for fact in facts {
            if let Some((export, _)) = &mut self.cilium {
                export.handle(&fact, self.merge.local());
            }
            self.store_fact(&fact);
            let changes = self.merge.handle_local(fact);
            self.show(changes);
        }
    }

    /// Other clusters need workloads, global services and roots; policies are each cluster's own.
    fn store_fact(&mut self, fact: &Change) {
        match fact {
            Change::Workload(workload) => {
                let old = self.merge.local().workload(&workload.uid);
                self.slices.put(old.map(|old| &**old), workload);
            }
            Change::WorkloadGone(uid) => {
                if let Some(old) = self.merge.local().workload(uid) {
                    self.slices.remove(old);
                }
            }
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
            Change::Policy(_) | Change::PolicyGone(_) | Change::Rules(_) | Change::RulesGone(_) => {
            }
        }
    }

    fn set_entry(&mut self, key: &str, value: Bytes) {
        let key = format!("{}{key}", self.prefix);
        if self.own_state.entries.get(key.as_str()) != Some(&value) {
            self.own_state.entries.insert(Arc::from(key), value);
            self.changed = true;
        }
    }

    fn remove_entry(&mut self, key: &str) {
        let key = format!("{}{key}", self.prefix);
        self.changed |= self.own_state.entries.remove(key.as_str()).is_some();
    }

    /// Each slice that changed is encoded once, however many of its workloads did.
    fn store_slices(&mut self) {
        for (key, value) in self.slices.take_changed() {
            match value {
                Some(value) => self.set_entry(&key, value),
                None => self.remove_entry(&key),
            }
        }
    }

    fn publish_cilium(&mut self) {
        let Some(((export, state), sender)) =
            self.cilium.as_mut().zip(self.outputs.cilium_state.as_ref())
        else {
            return;
        };
        for (key, value) in export.take_changed(self.merge.local()) {
            match value {
                Some(value) => drop(state.entries.insert(Arc::from(key), value)),
                None => drop(state.entries.remove(key.as_str())),
            }
        }
        sender.send_replace(state.clone());
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
        self.outputs.status.update_remote(cluster, |r| {
            r.refusals += 1;
            r.note_error(&text);
        });
        if self.refusals.len() < REFUSALS_LEN_MAX && self.refusals.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.store_slices();
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
        self.publish_cilium();
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
