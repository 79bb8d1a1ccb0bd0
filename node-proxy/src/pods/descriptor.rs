//! What the CNI plugin says about one pod of this node.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use tulle_model::{SpiffeId, TrustDomain};

/// One pod, as its file in the pod directory describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDescriptor {
    /// Unique on this node for the pod's whole life; a restarted pod of the same name has another.
    pub uid: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The service account that the pod runs as.
    pub service_account: String,
    /// The pod's addresses, at most one of each family is usual.
    pub addresses: Vec<IpAddr>,
    /// The file that holds the pod's network namespace.
    pub netns: PathBuf,
    /// The resolvers that the pod would ask without a mesh.
    #[serde(default)]
    pub nameservers: Vec<IpAddr>,
    /// The pod's DNS search list.
    #[serde(default)]
    pub search: Vec<String>,
    /// Whether its applications' sockets may enter the sockmap (the annotation `mesh.tulle.io/sockmap`).
    #[serde(default)]
    pub sockmap: PodSockmap,
}

/// What a pod says of the sockmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSockmap {
    /// As the node's mode has it (`--sockmap`).
    #[default]
    Auto,
    /// Not this pod's.
    Off,
}

impl PodDescriptor {
    /// What the pod can prove, in the trust domain of its cluster.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: self.namespace.clone().into(),
            service_account: self.service_account.clone().into(),
        }
    }
}
