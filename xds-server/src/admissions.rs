//! Who may come into the mesh: names, ids and trust domains that belong to one cluster each. Pure.

use std::collections::BTreeMap;

use tulle_model::{ClusterId, ClusterName, TrustBundle, TrustDomain};

use crate::{layout::ClusterInfo, remotes::RemoteIdentity};

/// The clusters that were taken in, the own one among them.
#[derive(Debug)]
pub(crate) struct Admissions {
    own: ClusterName,
    members: BTreeMap<ClusterName, Member>,
}

#[derive(Debug)]
struct Member {
    id: ClusterId,
    trust_domain: TrustDomain,
    roots: Option<String>,
}

impl Admissions {
    /// A mesh of one cluster.
    pub(crate) fn new(info: &ClusterInfo, bundle: &TrustBundle) -> Self {
        let own = Member {
            id: info.id,
            trust_domain: info.trust_domain.clone(),
            roots: Some(bundle.roots_pem.clone()),
        };
        Admissions {
            own: info.name.clone(),
            members: BTreeMap::from([(info.name.clone(), own)]),
        }
    }

    /// Takes a cluster in, or says in one sentence why not. Who is in already stays, whatever it was refused for.
    pub(crate) fn admit(&mut self, new: &RemoteIdentity) -> Result<(), String> {
        if new.name == self.own {
            return Err(self.refusal(new, &self.own, "name", &new.name));
        }
        let roots = new.bundle.as_ref().map(|b| b.roots_pem.clone());
        for (name, member) in self.members.iter().filter(|(name, _)| **name != new.name) {
            if member.id == new.id {
                return Err(self.refusal(new, name, "id", &new.id));
            }
            // Whoever can add a root to a domain can be anybody in it.
            if member.trust_domain == new.trust_domain && member.roots != roots {
                return Err(format!(
                    "cluster {} (id {}) is refused: cluster {name} has the same trust domain {} with other roots; give each cluster its own trust domain, or both the same roots",
                    new.name, new.id, new.trust_domain
                ));
            }
        }
        if new
            .bundle
            .as_ref()
            .is_some_and(|b| b.trust_domain != new.trust_domain)
        {
            return Err(format!(
                "cluster {} (id {}) is refused: its roots are for another trust domain than its own, {}",
                new.name, new.id, new.trust_domain
            ));
        }
        let member = Member {
            id: new.id,
            trust_domain: new.trust_domain.clone(),
            roots,
        };
        self.members.insert(new.name.clone(), member);
        Ok(())
    }

    /// A cluster is no longer configured.
    pub(crate) fn remove(&mut self, cluster: &ClusterName) {
        if *cluster != self.own {
            self.members.remove(cluster);
        }
    }

    fn refusal(
        &self,
        new: &RemoteIdentity,
        name: &ClusterName,
        what: &str,
        value: &dyn std::fmt::Display,
    ) -> String {
        let id = self.members.get(name).map_or(new.id, |m| m.id);
        format!(
            "cluster {} (id {}) is refused: cluster {name} (id {id}) has the same {what} {value}; names and ids must differ in a mesh",
            new.name, new.id
        )
    }
}

#[cfg(test)]
mod tests;
