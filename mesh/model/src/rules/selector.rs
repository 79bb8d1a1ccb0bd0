//! Selectors over labels that have a source.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Requirements that must all hold; none = everything that has labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector {
    /// All of them must hold.
    pub requirements: Vec<Requirement>,
}

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Which label.
    pub key: LabelKey,
    /// What must be so.
    pub operator: Operator,
}

/// The name of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelKey {
    /// Who gave the label.
    pub source: LabelSource,
    /// The label's key.
    pub name: String,
}

/// Who gave a label (the part before the colon in `k8s:app`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LabelSource {
    /// Whoever did.
    Any,
    /// Kubernetes: the pod's labels, and what is derived from its namespace, service account and cluster.
    K8s,
    /// The mesh itself: `reserved:host`, `reserved:world` and so on.
    Reserved,
}

/// What must be so of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operator {
    /// It is there, with one of these values.
    In(BTreeSet<String>),
    /// It is not there, or has none of these values.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// The label that holds a workload's namespace.
    pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The label that holds a workload's cluster.
    pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
    /// The label that holds a workload's service account.
    pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
    /// What the labels of a workload's namespace begin with.
    pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";

    /// Whether it holds for what `labels` says of each key.
    pub fn matches<'a>(&self, labels: impl Fn(&LabelKey) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}
