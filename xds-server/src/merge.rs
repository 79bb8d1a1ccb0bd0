//! Makes one view of the own cluster and of the other clusters: a pure structure, fed with changes and the time.
//!
//! The rules (global services):
//! - A remote workload serves a service here only if the service is global in both clusters and shared in the remote one.
//! - The own cluster's object is the service: addresses, ports, session affinity, policies and order of failover of the others'
//!   objects count in their own clusters only. Ports of the two belong together by name and protocol, else by number.
//! - A remote workload that serves nothing here is still in the view: its identity is what policy and tunnels need.
//! - Remote services never enter the view, so their addresses are not exported and a service that exists only elsewhere is not made.
//! - A silent cluster's workloads are demoted, not removed; they are removed only by the cluster itself, or with its configuration.
//!
//! **Invariant:** the view is what `merge` computes from the same states from scratch (`incremental_equals_from_scratch`), and
//! so it depends on the states only, not on the order in which they came (`tests/histories.rs`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tulle_model::{
    Change, ClusterName, Directory, NamespacedName, TrustBundle, TrustDomain, Workload, WorkloadUid,
};

pub use self::rules::merge;
use self::rules::{bundle_of, merged_workload, same_for_remotes};

mod rules;

/// The own cluster, the others, and the view that they make.
#[derive(Debug, Clone)]
pub struct Merge {
    cluster: ClusterName,
    local: Directory,
    remotes: BTreeMap<ClusterName, Remote>,
    view: Directory,
}

/// What is known of another cluster.
#[derive(Debug, Clone)]
pub struct Remote {
    trust_domain: TrustDomain,
    state: Directory,
    heartbeat: Option<u64>,
    last_beat: Option<Duration>,
    silent: bool,
}

/// Something that came from another cluster and cannot be true there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefuseRemoteError {
    /// The cluster speaks for another.
    #[error("cluster {cluster} published the workload {uid}, which is not its own")]
    ForeignWorkload {
        /// Who published it.
        cluster: ClusterName,
        /// What.
        uid: WorkloadUid,
    },
    /// The cluster published roots for a domain that is not its own, or that somebody else holds with other roots.
    #[error("cluster {cluster} published roots for {trust_domain}, which it does not own")]
    ForeignBundle {
        /// Who published them.
        cluster: ClusterName,
        /// For which domain.
        trust_domain: TrustDomain,
    },
    /// More than a cluster can have.
    #[error("cluster {cluster} published more than {max} {what}; the rest is not taken in")]
    TooMany {
        /// Who.
        cluster: ClusterName,
        /// Of what.
        what: &'static str,
        /// How many are taken in.
        max: usize,
    },
    /// Nothing is known of the cluster.
    #[error("cluster {cluster} is not connected")]
    Unknown {
        /// Who.
        cluster: ClusterName,
    },
}

impl Merge {
    /// A mesh of one empty cluster.
    pub fn new(cluster: ClusterName) -> Self {
        Merge {
            cluster,
            local: Directory::default(),
            remotes: BTreeMap::new(),
            view: Directory::default(),
        }
    }

    /// What the nodes of the own cluster should know.
    pub fn view(&self) -> &Directory {
        &self.view
    }

    /// The own cluster's state.
    pub fn local(&self) -> &Directory {
        &self.local
    }

    /// The other clusters by name.
    pub fn remotes(&self) -> &BTreeMap<ClusterName, Remote> {
        &self.remotes
    }

    /// The own cluster changed. Answers with what that changes in the view.
    pub fn handle_local(&mut self, change: Change) -> Vec<Change> {
        let mut out = Vec::new();
        match &change {
            Change::Service(service) => {
                let key = service.key();
                let before = self.local.service(&key).cloned();
                self.local.apply(change.clone());
                self.show(change, &mut out);
                let same = before.is_some_and(|b| same_for_remotes(&b, self.local.service(&key)));
                if !same {
                    self.merge_service(&key, &mut out);
                }
            }
            Change::ServiceGone(key) => {
                let key = key.clone();
                self.local.apply(change.clone());
                self.show(change, &mut out);
                self.merge_service(&key, &mut out);
            }
            Change::Bundle(bundle) => {
                let domain = bundle.trust_domain.clone();
                self.local.apply(change);
                self.show_bundle(&domain, &mut out);
            }
            Change::BundleGone(domain) => {
                let domain = domain.clone();
                self.local.apply(change);
                self.show_bundle(&domain, &mut out);
            }
            Change::Workload(_)
            | Change::WorkloadGone(_)
            | Change::Policy(_)
            | Change::PolicyGone(_)
            | Change::Rules(_)
            | Change::RulesGone(_) => {
                self.local.apply(change.clone());
                self.show(change, &mut out);
            }
        }
        debug_assert!(self.invariants_hold());
        out
    }

    /// Another cluster is connected; it starts without a heartbeat, so it counts as silent until its first.
    pub fn add_remote(&mut self, cluster: ClusterName, trust_domain: TrustDomain) -> Vec<Change> {
        let mut out = Vec::new();
        match self.remotes.get_mut(&cluster) {
            // A cluster that moved to another trust domain starts afresh: its old workloads prove nothing now.
            Some(known) if known.trust_domain != trust_domain => out = self.remove_remote(&cluster),
            Some(_) => return out,
            None => {}
        }
        let remote = Remote {
            trust_domain,
            state: Directory::default(),
            heartbeat: None,
            last_beat: None,
            silent: true,
        };
        self.remotes.insert(cluster, remote);
        out
    }

    /// Another cluster is no longer configured: all that came from it goes.
    pub fn remove_remote(&mut self, cluster: &ClusterName) -> Vec<Change> {
        let mut out = Vec::new();
        let Some(remote) = self.remotes.remove(cluster) else {
            return out;
        };
        for workload in remote.state.workloads() {
            self.show(Change::WorkloadGone(workload.uid.clone()), &mut out);
        }
        self.show_bundle(&remote.trust_domain, &mut out);
        debug_assert!(self.invariants_hold());
        out
    }

    /// One thing of another cluster changed.
    ///
    /// # Errors
    ///
    /// When the cluster speaks of what is not its own; nothing is changed then.
    pub fn handle_remote(
        &mut self,
        cluster: &ClusterName,
        change: Change,
    ) -> Result<Vec<Change>, RefuseRemoteError> {
        self.check(cluster, &change)?;
        let mut out = Vec::new();
        let Some(remote) = self.remotes.get_mut(cluster) else {
            return Ok(out);
        };
        remote.state.apply(change.clone());
        match change {
            Change::Workload(workload) => self.merge_workload(cluster, &workload, &mut out),
            Change::WorkloadGone(_) => self.show(change, &mut out),
            Change::Bundle(bundle) => self.show_bundle(&bundle.trust_domain, &mut out),
            Change::BundleGone(domain) => self.show_bundle(&domain, &mut out),
            Change::Service(service) => self.merge_service_of(cluster, &service.key(), &mut out),
            Change::ServiceGone(key) => self.merge_service_of(cluster, &key, &mut out),
            // Policies are each cluster's own.
            Change::Policy(_) | Change::PolicyGone(_) | Change::Rules(_) | Change::RulesGone(_) => {
            }
        }
        debug_assert!(self.invariants_hold());
        Ok(out)
    }

    /// The heartbeat of another cluster was read. Only a *new* value is a sign of life.
    pub fn handle_heartbeat(
        &mut self,
        cluster: &ClusterName,
        value: u64,
        now: Duration,
    ) -> Vec<Change> {
        let Some(remote) = self.remotes.get_mut(cluster) else {
            return Vec::new();
        };
        if remote.heartbeat == Some(value) {
            return Vec::new();
        }
        remote.heartbeat = Some(value);
        remote.last_beat = Some(now);
        self.set_silent(cluster, false)
    }

    /// Time has passed: clusters whose heartbeat stands still are demoted.
    pub fn handle_tick(&mut self, now: Duration) -> Vec<Change> {
        let silent = |r: &Remote| {
            r.last_beat
                .is_none_or(|at| now.saturating_sub(at) >= SILENT_AFTER)
        };
        let newly: Vec<ClusterName> = self
            .remotes
            .iter()
            .filter(|(_, r)| !r.silent && silent(r))
            .map(|(name, _)| name.clone())
            .collect();
        newly
            .iter()
            .flat_map(|cluster| self.set_silent(cluster, true))
            .collect()
    }

    fn set_silent(&mut self, cluster: &ClusterName, silent: bool) -> Vec<Change> {
        let mut out = Vec::new();
        let Some(remote) = self.remotes.get_mut(cluster) else {
            return out;
        };
        if remote.silent == silent {
            return out;
        }
        remote.silent = silent;
        let workloads: Vec<Arc<Workload>> = remote.state.workloads().cloned().collect();
        for workload in workloads {
            self.merge_workload(cluster, &workload, &mut out);
        }
        debug_assert!(self.invariants_hold());
        out
    }

    /// A service's sharing or ports changed here: every remote endpoint of it may have changed.
    fn merge_service(&mut self, key: &NamespacedName, out: &mut Vec<Change>) {
        let clusters: Vec<ClusterName> = self.remotes.keys().cloned().collect();
        for cluster in clusters {
            self.merge_service_of(&cluster, key, out);
        }
    }

    fn merge_service_of(
        &mut self,
        cluster: &ClusterName,
        key: &NamespacedName,
        out: &mut Vec<Change>,
    ) {
        let Some(remote) = self.remotes.get(cluster) else {
            return;
        };
        let endpoints: Vec<Arc<Workload>> = remote.state.endpoints(key).cloned().collect();
        for workload in endpoints {
            self.merge_workload(cluster, &workload, out);
        }
    }

    fn merge_workload(
        &mut self,
        cluster: &ClusterName,
        workload: &Arc<Workload>,
        out: &mut Vec<Change>,
    ) {
        let Some(remote) = self.remotes.get(cluster) else {
            return;
        };
        let merged = merged_workload(&self.local, remote, workload);
        if self.view.workload(&merged.uid) != Some(&merged) {
            self.show(Change::Workload(merged), out);
        }
    }

    /// Tells the roots of a domain anew, if they are others now.
    fn show_bundle(&mut self, domain: &TrustDomain, out: &mut Vec<Change>) {
        let now = bundle_of(&self.local, &self.remotes, domain);
        let shown = self
            .view
            .bundles()
            .find(|b| b.trust_domain == *domain)
            .cloned();
        match now {
            Some(bundle) if shown.as_ref() != Some(&bundle) => {
                self.show(Change::Bundle(bundle), out)
            }
            None if shown.is_some() => self.show(Change::BundleGone(domain.clone()), out),
            Some(_) | None => {}
        }
    }

    fn show(&mut self, change: Change, out: &mut Vec<Change>) {
        self.view.apply(change.clone());
        out.push(change);
    }

    fn check(&self, cluster: &ClusterName, change: &Change) -> Result<(), RefuseRemoteError> {
        let unknown = || RefuseRemoteError::Unknown {
            cluster: cluster.clone(),
        };
        let remote = self.remotes.get(cluster).ok_or_else(unknown)?;
        let foreign = |uid: &WorkloadUid| RefuseRemoteError::ForeignWorkload {
            cluster: cluster.clone(),
            uid: uid.clone(),
        };
        let room = |len: usize, what, max| {
            let full = RefuseRemoteError::TooMany {
                cluster: cluster.clone(),
                what,
                max,
            };
            if len < max { Ok(()) } else { Err(full) }
        };
        let owns = |uid: &WorkloadUid| uid.0.split('/').next() == Some(cluster.as_str());
        match change {
            Change::Workload(w) => {
                let own =
                    owns(&w.uid) && w.cluster == *cluster && w.trust_domain == remote.trust_domain;
                let new = remote.state.workload(&w.uid).is_none();
                match own {
                    true if new => room(remote.state.workloads_len(), "workloads", WORKLOADS_MAX),
                    true => Ok(()),
                    false => Err(foreign(&w.uid)),
                }
            }
            Change::WorkloadGone(uid) => {
                if owns(uid) {
                    Ok(())
                } else {
                    Err(foreign(uid))
                }
            }
            Change::Bundle(bundle) => self.check_bundle(cluster, remote, bundle),
            Change::Service(s) if remote.state.service(&s.key()).is_none() => {
                room(remote.state.services_len(), "services", SERVICES_MAX)
            }
            Change::BundleGone(_)
            | Change::Service(_)
            | Change::ServiceGone(_)
            | Change::Policy(_)
            | Change::PolicyGone(_)
            | Change::Rules(_)
            | Change::RulesGone(_) => Ok(()),
        }
    }

    /// A domain that is also the own one must have the own roots: whoever could add a root could be anybody in it.
    fn check_bundle(
        &self,
        cluster: &ClusterName,
        remote: &Remote,
        bundle: &TrustBundle,
    ) -> Result<(), RefuseRemoteError> {
        let domain = &bundle.trust_domain;
        let own = self.local.bundles().find(|b| b.trust_domain == *domain);
        let clash = own.is_some_and(|b| b.roots_pem != bundle.roots_pem);
        if *domain != remote.trust_domain || clash {
            return Err(RefuseRemoteError::ForeignBundle {
                cluster: cluster.clone(),
                trust_domain: domain.clone(),
            });
        }
        Ok(())
    }

    /// Cheap enough for every call in a debug build only in small meshes, so large ones are left to the property test.
    fn invariants_hold(&self) -> bool {
        let small = self
            .view
            .workloads()
            .take(INVARIANT_WORKLOADS_MAX + 1)
            .count();
        small > INVARIANT_WORKLOADS_MAX
            || self.view.workloads().all(|w| {
                w.cluster == self.cluster
                    || self
                        .remotes
                        .get(&w.cluster)
                        .is_some_and(|r| r.state.workload(&w.uid).is_some())
            })
    }
}

impl Remote {
    /// The cluster as it describes itself.
    pub fn state(&self) -> &Directory {
        &self.state
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its heartbeat stands still.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// When its heartbeat last moved.
    pub fn last_beat(&self) -> Option<Duration> {
        self.last_beat
    }
}

/// Five heartbeats. With the time to notice and to tell, a silent cluster is demoted within 3 s.
pub const SILENT_AFTER: Duration = Duration::from_millis(2500);
/// Ten times the largest mesh that the design speaks of.
const WORKLOADS_MAX: usize = 1_000_000;
const SERVICES_MAX: usize = 100_000;
const INVARIANT_WORKLOADS_MAX: usize = 64;

#[cfg(test)]
mod tests;
