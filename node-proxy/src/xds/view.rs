//! The view and what the protocol remembers of it: pure, no I/O, no clock.

mod version;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use imbl::{HashMap, OrdMap};
use serde::Serialize;
use tulle_model::{
    Change, ClusterName, Directory, NamespacedName, RulesKey, SmallMap, Text, TrustDomain,
    Workload, WorkloadUid,
};
use tulle_wire::{
    DecodeResourceError, DecodedAddress, decode_address, decode_authorization, decode_bundle,
    decode_rules, type_url,
    xds::{DeltaDiscoveryResponse, Resource},
};

use crate::kernel_sync::Touched;
use version::Version;

/// The types that are subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceKind {
    /// Workloads and services.
    Address,
    /// Policies.
    Authorization,
    /// Rules that policies of that type have no room for.
    Rules,
    /// Roots of trust domains.
    TrustBundle,
}

impl ResourceKind {
    /// All of them, in the order in which they are asked for: what protects comes before what is protected.
    pub const ALL: [ResourceKind; 4] = [
        ResourceKind::TrustBundle,
        ResourceKind::Authorization,
        ResourceKind::Rules,
        ResourceKind::Address,
    ];

    /// The name of the type on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceKind::Address => type_url::ADDRESS,
            ResourceKind::Authorization => type_url::AUTHORIZATION,
            ResourceKind::Rules => type_url::RULES,
            ResourceKind::TrustBundle => type_url::TRUST_BUNDLE,
        }
    }

    /// The name of the type in metrics.
    pub fn label(self) -> &'static str {
        match self {
            ResourceKind::Address => "address",
            ResourceKind::Authorization => "authorization",
            ResourceKind::Rules => "rules",
            ResourceKind::TrustBundle => "trust_bundle",
        }
    }

    /// The type of that name on the wire.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// The directory with the versions that the server gave its resources. Clones share what did not change.
///
/// **Invariant:** `versions` names exactly the resources that were accepted and not removed since (property test
/// `versions_name_what_is_held`).
#[derive(Debug, Clone, Default)]
pub struct View {
    directory: Directory,
    versions: OrdMap<(ResourceKind, Arc<str>), Version>,
    counts: BTreeMap<ResourceKind, usize>,
    /// What the last workload of each namespace said of it; each says it anew, and all shall share one copy.
    namespaces: HashMap<(ClusterName, Text), Arc<SmallMap<Text, Text>>>,
}

/// What a response did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Applied {
    /// Resources that are new or different.
    pub(crate) accepted: usize,
    /// Resources that are gone.
    pub(crate) removed: usize,
    /// Resources that were refused, by name.
    pub(crate) refused: Vec<Refused>,
    /// What has to be computed again.
    pub(crate) touched: Touched,
}

/// One resource that was refused.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) reason: RefuseResourceError,
}

impl View {
    /// The mesh.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How many resources are held.
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// How many resources of a type are held.
    pub fn count(&self, kind: ResourceKind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether both are snapshots of the same moment; cheap, may say no for equal ones.
    pub(crate) fn is_same(&self, other: &View) -> bool {
        self.versions.ptr_eq(&other.versions)
    }

    /// Names and versions of all resources of a type.
    pub fn versions(&self, kind: ResourceKind) -> impl Iterator<Item = (&str, &str)> {
        let start = (kind, Arc::from(""));
        self.versions
            .range(start..)
            .take_while(move |((of, _), _)| *of == kind)
            .map(|((_, name), version)| (&**name, version.as_str()))
    }

    /// The same view with versions that no server knows, so that everything is sent again (and what is gone is removed).
    pub(crate) fn without_versions(mut self) -> Self {
        let keys: Vec<_> = self.versions.keys().cloned().collect();
        self.versions = keys
            .into_iter()
            .map(|key| (key, Version::from("")))
            .collect();
        self
    }

    /// Applies what is good of a response and names what is not.
    ///
    /// A name that is both removed and present is present: the server means the later of the two.
    pub(crate) fn apply(
        &mut self,
        kind: ResourceKind,
        response: &DeltaDiscoveryResponse,
    ) -> Applied {
        let mut applied = Applied::default();
        for name in &response.removed_resources {
            if self.remove(kind, name, &mut applied.touched) {
                applied.removed += 1;
            }
        }
        let mut seen = HashSet::new();
        for resource in &response.resources {
            let result = if seen.insert(resource.name.as_str()) {
                self.put(kind, resource, &mut applied.touched)
            } else {
                Err(RefuseResourceError::Twice)
            };
            match result {
                Ok(()) => applied.accepted += 1,
                Err(reason) => applied.refused.push(Refused {
                    name: shorten(&resource.name),
                    reason,
                }),
            }
        }
        applied
    }

    fn put(
        &mut self,
        kind: ResourceKind,
        resource: &Resource,
        touched: &mut Touched,
    ) -> Result<(), RefuseResourceError> {
        if resource.name.is_empty() || resource.name.len() > NAME_LEN_MAX {
            return Err(RefuseResourceError::Name);
        }
        if resource.version.len() > VERSION_LEN_MAX {
            return Err(RefuseResourceError::Version);
        }
        let body = resource
            .resource
            .as_ref()
            .ok_or(RefuseResourceError::NoContent)?;
        if body.type_url != kind.type_url() {
            return Err(RefuseResourceError::OtherType {
                found: shorten(&body.type_url),
            });
        }
        let (mut change, own_name) = decode(kind, &body.value)?;
        if *own_name != *resource.name {
            return Err(RefuseResourceError::OtherName {
                found: shorten(&own_name),
            });
        }
        // A workload's name is its uid: both are one text.
        let key = (kind, own_name);
        if self.versions.len() >= RESOURCES_MAX && !self.versions.contains_key(&key) {
            return Err(RefuseResourceError::TooMany);
        }
        if let Change::Workload(workload) = &mut change
            && let Some(workload) = Arc::get_mut(workload)
        {
            self.share_namespace(workload);
        }
        touched.note(&self.directory, &change);
        self.directory.apply(change);
        let old = self
            .versions
            .insert(key, Version::from(resource.version.as_str()));
        if old.is_none() {
            *self.counts.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    /// Exchanges the labels of a workload's namespace for the copy that others have.
    fn share_namespace(&mut self, workload: &mut Workload) {
        let key = (workload.cluster.clone(), workload.namespace.clone());
        let labels = &mut workload.namespace_labels;
        match self.namespaces.get(&key) {
            Some(held) if *held == *labels => *labels = Arc::clone(held),
            _ => {
                // Namespaces that are gone go with the others; whoever comes next begins anew.
                if self.namespaces.len() >= NAMESPACES_MAX {
                    self.namespaces.clear();
                }
                self.namespaces.insert(key, Arc::clone(labels));
            }
        }
    }

    fn remove(&mut self, kind: ResourceKind, name: &str, touched: &mut Touched) -> bool {
        if self.versions.remove(&(kind, Arc::from(name))).is_none() {
            return false;
        }
        if let Some(count) = self.counts.get_mut(&kind) {
            *count = count.saturating_sub(1);
        }
        if let Some(change) = self.removal(kind, name) {
            touched.note(&self.directory, &change);
            self.directory.apply(change);
        }
        true
    }

    /// The change that removes what was accepted under `name`.
    fn removal(&self, kind: ResourceKind, name: &str) -> Option<Change> {
        match kind {
            ResourceKind::Address => {
                let uid = WorkloadUid(name.into());
                if self.directory.workload(&uid).is_some() {
                    return Some(Change::WorkloadGone(uid));
                }
                name.parse::<NamespacedName>().ok().map(Change::ServiceGone)
            }
            ResourceKind::Authorization => {
                name.parse::<NamespacedName>().ok().map(Change::PolicyGone)
            }
            ResourceKind::Rules => name.parse::<RulesKey>().ok().map(Change::RulesGone),
            ResourceKind::TrustBundle => name.parse::<TrustDomain>().ok().map(Change::BundleGone),
        }
    }

    /// Names and versions in the form of a first request.
    pub(crate) fn initial_versions(&self, kind: ResourceKind) -> BTreeMap<String, String> {
        self.versions(kind)
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect()
    }
}

/// The change that a resource means, and the name that it has by its own content.
fn decode(kind: ResourceKind, bytes: &[u8]) -> Result<(Change, Arc<str>), RefuseResourceError> {
    Ok(match kind {
        ResourceKind::Address => match decode_address(bytes)? {
            DecodedAddress::Workload(workload) => {
                let name = Arc::clone(&workload.uid.0);
                (Change::Workload(Arc::new(workload)), name)
            }
            DecodedAddress::Service(service) => {
                let name = service.key().to_string().into();
                (Change::Service(Arc::new(service)), name)
            }
        },
        ResourceKind::Authorization => {
            let policy = decode_authorization(bytes)?;
            let name = policy.key().to_string().into();
            (Change::Policy(Arc::new(policy)), name)
        }
        ResourceKind::Rules => {
            let rules = decode_rules(bytes)?;
            let name = rules.key().to_string().into();
            (Change::Rules(Arc::new(rules)), name)
        }
        ResourceKind::TrustBundle => {
            let bundle = decode_bundle(bytes)?;
            let name = bundle.trust_domain.to_string();
            (Change::Bundle(Arc::new(bundle)), name.into())
        }
    })
}

/// Why a resource is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RefuseResourceError {
    /// No name, or one that nothing can have.
    #[error("the name must have 1–{NAME_LEN_MAX} bytes")]
    Name,
    /// A version that would fill every reconnect.
    #[error("the version has more than {VERSION_LEN_MAX} bytes")]
    Version,
    /// A resource without content.
    #[error("the resource has no content")]
    NoContent,
    /// Another type than the response's.
    #[error("the content is of type {found:?}")]
    OtherType {
        /// What was found.
        found: String,
    },
    /// The content calls itself something else.
    #[error("the content is named {found:?}")]
    OtherName {
        /// What was found.
        found: String,
    },
    /// The response holds the name twice.
    #[error("the response holds this name twice")]
    Twice,
    /// No room.
    #[error("there are {RESOURCES_MAX} resources already")]
    TooMany,
    /// The content cannot be understood.
    #[error("{0}")]
    Decode(#[from] DecodeResourceError),
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN_LEN_MAX).collect()
}

/// Ten times the mesh that is designed for (100,000 endpoints).
const RESOURCES_MAX: usize = 1_000_000;
/// More than a mesh of 255 clusters has at one time.
const NAMESPACES_MAX: usize = 1 << 16;
/// Two DNS names and a few labels.
const NAME_LEN_MAX: usize = 1024;
/// Ours have 16 bytes, a SHA-256 in hex has 64.
const VERSION_LEN_MAX: usize = 256;
/// What of a foreign name goes into errors and logs.
const SHOWN_LEN_MAX: usize = 200;

#[cfg(test)]
mod tests;
