//! Endpoint selectors, and what Cilium adds to them.

use tulle_model::{ClusterName, LabelKey, LabelSource, Operator, Selector};

use crate::read::{
    DefaultCluster, LABEL_KEY, Labels, Node, ReadPolicyError, ReadSettings, is_label_key,
    read_labels,
};

/// What a selector of far ends means where it leaves something out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The policy's namespace; empty = it is of the whole cluster.
    namespace: &'a str,
    /// `None` = every cluster.
    cluster: Option<&'a ClusterName>,
    /// The policy picks workloads without labels, whose far ends may lie in no namespace either.
    of_initializing: bool,
}

impl<'a> Scope<'a> {
    pub(super) fn of(subject: &Selector, namespace: &'a str, settings: &'a ReadSettings) -> Self {
        let is_init = |key: &LabelKey| key.source == LabelSource::Reserved && key.name == "init";
        Scope {
            namespace,
            cluster: match settings.default_cluster {
                DefaultCluster::Any => None,
                DefaultCluster::Local => Some(&settings.cluster),
            },
            of_initializing: subject.requirements.iter().any(|r| is_init(&r.key)),
        }
    }

    /// Reads a selector of far ends.
    ///
    /// Left alone is what names a reserved label. Else it means the policy's namespace, unless it speaks of namespaces; from
    /// a policy of the whole cluster, whatever has a namespace, so that `{}` is no node and nobody from outside.
    pub(super) fn read_peer(&self, node: &Node<'_>) -> Result<Selector, ReadPolicyError> {
        let mut labels = read_labels(node, read_key)?;
        if labels.any_key(|key| key.source == LabelSource::Reserved) {
            return Ok(labels.into_selector());
        }
        let names_cluster = labels.names(Selector::CLUSTER);
        if !labels.names(Selector::NAMESPACE) {
            let by_labels = |key: &LabelKey| key.name.starts_with(Selector::NAMESPACE_LABELS);
            if self.namespace.is_empty() {
                if !self.of_initializing {
                    labels.need(LabelSource::K8s, Selector::NAMESPACE, Operator::Exists);
                }
            } else if !labels.any_key(by_labels) {
                labels.need_value(Selector::NAMESPACE, self.namespace);
            }
        }
        if let Some(cluster) = self.cluster.filter(|_| !names_cluster) {
            labels.need_value(Selector::CLUSTER, cluster.as_str());
        }
        Ok(labels.into_selector())
    }
}

/// Reads the selector of a policy's workloads, and the namespace that it names in vain, if it does.
///
/// A policy in a namespace picks there and nowhere else, as in Cilium, which writes its own namespace over another.
pub(super) fn read_subject(
    node: &Node<'_>,
    namespace: &str,
) -> Result<(Selector, Option<String>), ReadPolicyError> {
    let mut labels = read_labels(node, read_key)?;
    if namespace.is_empty() {
        return Ok((labels.into_selector(), None));
    }
    let mut overruled = None;
    labels.requirements.retain(|requirement| {
        let Operator::In(values) = &requirement.operator else {
            return true;
        };
        let names_it = requirement.key.name == Selector::NAMESPACE
            && requirement.key.source != LabelSource::Reserved;
        if names_it && !values.contains(namespace) {
            overruled = values.first().cloned();
        }
        !names_it
    });
    labels.need_value(Selector::NAMESPACE, namespace);
    Ok((labels.into_selector(), overruled))
}

/// A selector of labels of services, to which nothing is added.
pub(super) fn read_service_labels(node: &Node<'_>) -> Result<Selector, ReadPolicyError> {
    read_labels(node, read_key).map(Labels::into_selector)
}

/// `k8s:app`, `any:app`, `reserved:host`; without a source, whoever gave the label.
fn read_key(text: &str) -> Result<LabelKey, &'static str> {
    let (source, name) = match text.split_once(':') {
        None => (LabelSource::Any, text),
        Some(("k8s", name)) => (LabelSource::K8s, name),
        Some(("any", name)) => (LabelSource::Any, name),
        Some(("reserved", name)) => {
            return if RESERVED.contains(&name) {
                Ok(LabelKey {
                    source: LabelSource::Reserved,
                    name: name.to_owned(),
                })
            } else {
                Err(
                    "host, remote-node, world, world-ipv4, world-ipv6, kube-apiserver, ingress, init, health or unmanaged behind reserved:",
                )
            };
        }
        Some(_) => return Err("one of the sources k8s, any and reserved before the colon"),
    };
    // What stands behind these may itself be a key with a slash.
    let bare = name
        .strip_prefix(Selector::NAMESPACE_LABELS)
        .unwrap_or(name);
    if is_label_key(bare) {
        Ok(LabelKey {
            source,
            name: name.to_owned(),
        })
    } else {
        Err(LABEL_KEY)
    }
}

/// The labels that the mesh gives to what is no workload with labels.
const RESERVED: [&str; 10] = [
    "host",
    "remote-node",
    "world",
    "world-ipv4",
    "world-ipv6",
    "kube-apiserver",
    "ingress",
    "init",
    "health",
    "unmanaged",
];
