//! Puts what the server knows of its condition into the words of the management API.

use std::sync::Arc;

use tulle_wire::management::{
    ClusterStatus, NodeStatus, PublishingStatus, RemoteStatus, SourceStatus, Spread, ViewStatus,
};

use super::{Management, Services};
use crate::{
    snapshot::{ResourceType, Snapshot},
    source::Problem,
    status,
    world::MeshView,
};

/// One moment of the server.
pub(super) struct Facts<'a> {
    pub(super) management: &'a Management,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) mesh: Arc<MeshView>,
}

impl Facts<'_> {
    pub(super) fn services(&self) -> Services<'_> {
        Services {
            cluster: &self.management.cluster,
            mesh: &self.mesh,
            given: &self.snapshot.directory,
        }
    }

    pub(super) fn nodes(&self) -> Vec<NodeStatus> {
        let expected = self.snapshot.nodes.iter().cloned();
        self.management.nodes.read(expected)
    }

    pub(super) fn status(&self) -> ClusterStatus {
        let board = self.management.status.read();
        let nodes = self.nodes();
        let global = u32::try_from(self.services().global_len()).unwrap_or(u32::MAX);
        let connected = nodes.iter().filter(|node| node.connected);
        let len = |kind| self.snapshot.resources(kind).len();
        ClusterStatus {
            cluster: board.cluster.to_string(),
            cluster_id: board.cluster_id,
            trust_domain: board.trust_domain.to_string(),
            version: board.version.to_owned(),
            ready: board.ready,
            uptime_seconds: board.uptime_seconds,
            publishing: self.publishing(&board.store),
            source: source(&board),
            global_services: Spread::of(connected.map(|_| global)),
            nodes,
            remotes: board.remotes.iter().map(remote).collect(),
            remotes_problems: board.remotes_problems.iter().map(problem).collect(),
            view: ViewStatus {
                revision: self.snapshot.revision,
                services: self.snapshot.directory.services_len(),
                workloads: self.snapshot.directory.workloads_len(),
                policies: len(ResourceType::Authorization),
                trust_domains: len(ResourceType::TrustBundle),
            },
        }
    }

    /// What the service's author may not have meant.
    pub(super) fn warnings_of(&self, namespace: &str, name: &str) -> Vec<String> {
        let object = format!("Service {namespace}/{name}");
        let warnings = self.management.status.read().source.warnings;
        let own = warnings.into_iter().filter(|w| w.object == object);
        own.map(|w| w.message).collect()
    }

    fn publishing(&self, store: &status::StoreStatus) -> PublishingStatus {
        let wish = self.management.publishing.wish();
        PublishingStatus {
            store: store.kind.to_owned(),
            enabled: wish.enabled && self.management.etcd.is_some(),
            connected: store.connected,
            published: store.published,
            keys: store.keys,
            endpoints: self.management.publishing.endpoints(),
            credentials: self.management.peers.kind().to_owned(),
            last_error: store.last_error.clone(),
        }
    }
}

fn source(board: &status::Status) -> SourceStatus {
    let warnings = board.source.warnings.iter();
    let mut problems: Vec<String> = board.source.problems.iter().map(problem).collect();
    problems.extend(board.source.stopped.clone());
    SourceStatus {
        synced: board.source.synced,
        problems,
        warnings: warnings
            .map(|w| format!("{}: {}", w.object, w.message))
            .collect(),
    }
}

fn problem(problem: &Problem) -> String {
    let line = problem
        .line
        .map(|line| format!(":{line}"))
        .unwrap_or_default();
    let field = problem
        .field
        .as_ref()
        .map(|f| format!(" {f}:"))
        .unwrap_or_default();
    format!(
        "{}{line}:{field} {}",
        problem.path.display(),
        problem.message
    )
}

fn remote((name, remote): (&String, &status::RemoteStatus)) -> RemoteStatus {
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let synced = remote.synced.iter();
    let counts = remote.counts.iter();
    RemoteStatus {
        name: name.clone(),
        kind: remote.kind.as_str().to_owned(),
        state: remote.state,
        cluster_id: remote.cluster_id,
        trust_domain: remote.trust_domain.as_ref().map(ToString::to_string),
        endpoints: remote.endpoints.clone(),
        last_error: remote.refused.clone().or_else(|| remote.last_error.clone()),
        heartbeat_age_ms: remote.heartbeat_age_ms,
        reconnections: remote.reconnections,
        synced: synced
            .map(|(kind, whole)| ((*kind).to_owned(), *whole))
            .collect(),
        counts: counts
            .map(|(kind, len)| ((*kind).to_owned(), count(*len)))
            .collect(),
    }
}
