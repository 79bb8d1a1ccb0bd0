//! Changes a cluster's objects on a user's order: apply, delete, annotate, label, scale.
//!
//! An order is checked whole before the first object is written.

mod addresses;
mod merge;

use std::{
    collections::BTreeSet,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use thiserror::Error;

use self::addresses::{AllocateError, ServiceAddresses};
use crate::{
    api::{ApiError, ClusterApi},
    config::{ClusterConfig, LabConfig},
    kind::Kind,
    manifest::{self, ManifestText, ReadManifestError, ReadObject},
    object::{DEFAULT_NAMESPACE, Object, ObjectKey},
    random,
};

/// An order could not be carried out; nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The manifests have faults.
    #[error(transparent)]
    Manifest(#[from] ReadManifestError),
    /// The cluster's objects could not be read or written.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No such object.
    #[error("{} \"{}\" not found", key.kind.plural(), key.name)]
    NotFound {
        /// The object.
        key: ObjectKey,
    },
    /// The order makes no sense for this kind.
    #[error("cannot {action} a {kind}")]
    WrongKind {
        /// What was ordered.
        action: &'static str,
        /// The kind.
        kind: Kind,
    },
    /// A `key=value` or `key-` of the command line.
    #[error("`{text}` is neither `key=value` nor `key-`")]
    BadChange {
        /// The argument.
        text: String,
    },
}

/// What an order did to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is different.
    Configured,
    /// It was so already.
    Unchanged,
    /// It is gone, or on its way.
    Deleted,
    /// Its annotations are different.
    Annotated,
    /// Its labels are different.
    Labeled,
    /// Its number of replicas was set.
    Scaled,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Created => "created",
            Change::Configured => "configured",
            Change::Unchanged => "unchanged",
            Change::Deleted => "deleted",
            Change::Annotated => "annotated",
            Change::Labeled => "labeled",
            Change::Scaled => "scaled",
        })
    }
}

/// One object that an order was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The object.
    pub key: ObjectKey,
    /// What happened to it.
    pub change: Change,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.change)
    }
}

/// Makes the cluster's objects as the manifests say; all of them or none.
pub(crate) fn apply(
    config: &LabConfig,
    cluster: &ClusterConfig,
    api: &ClusterApi,
    texts: &[ManifestText],
) -> Result<Vec<Changed>, ChangeError> {
    let objects = manifest::read(config, texts)?;
    let _lock = api.lock()?;
    check_namespaces(api, texts, &objects)?;
    let mut addresses = ServiceAddresses::taken(cluster, &api.list(Kind::Service)?);
    let mut planned = Vec::with_capacity(objects.len());
    for read in &objects {
        let (object, change) = plan(api, texts, read, &mut addresses)?;
        planned.push((object, change));
    }
    let mut changed = Vec::with_capacity(planned.len());
    for (object, change) in planned {
        if change != Change::Unchanged {
            api.write(&object)?;
        }
        changed.push(Changed {
            key: object.key,
            change,
        });
    }
    Ok(changed)
}

fn check_namespaces(
    api: &ClusterApi,
    texts: &[ManifestText],
    objects: &[ReadObject],
) -> Result<(), ChangeError> {
    let mut known: BTreeSet<String> = api
        .list(Kind::Namespace)?
        .into_iter()
        .map(|object| object.key.name)
        .collect();
    known.extend(
        objects
            .iter()
            .filter(|read| read.object.key.kind == Kind::Namespace)
            .map(|read| read.object.key.name.clone()),
    );
    for read in objects {
        let namespace = &read.object.key.namespace;
        if !namespace.is_empty() && !known.contains(namespace) {
            let message = format!("there is no namespace `{namespace}`");
            let field = ["metadata", "namespace"];
            return Err(manifest::fault_at(texts, read, &field, message).into());
        }
    }
    Ok(())
}

/// What an applied object becomes.
fn plan(
    api: &ClusterApi,
    texts: &[ManifestText],
    read: &ReadObject,
    addresses: &mut ServiceAddresses,
) -> Result<(Object, Change), ChangeError> {
    let key = &read.object.key;
    let applied = without_server_fields(&read.object);
    let live = api.get(key)?;
    let mut object = match &live {
        Some(live) => {
            let last = live
                .text(&["metadata", "annotations", LAST_APPLIED])
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or(Value::Null);
            let value = merge::three_way(&last, &live.value, &applied.value);
            check_immutable(texts, read, live, &value)?;
            Object {
                key: key.clone(),
                value,
            }
        }
        None => {
            let mut object = applied.clone();
            object.set(&["metadata", "uid"], json!(random::uuid()));
            object.set(&["metadata", "creationTimestamp"], json!(timestamp()));
            object
        }
    };
    object.set(
        &["metadata", "annotations", LAST_APPLIED],
        json!(applied.value.to_string()),
    );
    if key.kind == Kind::Service {
        addresses.fill(&mut object).map_err(|error| {
            let AllocateError { field, message } = error;
            manifest::fault_at(texts, read, &["spec", field], message)
        })?;
    }
    let change = match &live {
        None => Change::Created,
        Some(live) if live.value == object.value => Change::Unchanged,
        Some(_) => Change::Configured,
    };
    Ok((object, change))
}

/// The manifest as the user means it: with its namespace, without what only the server writes.
fn without_server_fields(object: &Object) -> Object {
    let mut object = object.clone();
    if object.key.kind.is_namespaced() {
        object.set(&["metadata", "namespace"], json!(object.key.namespace));
    }
    if let Value::Object(map) = &mut object.value
        && !matches!(object.key.kind, Kind::EndpointSlice)
    {
        map.remove("status");
    }
    let metadata = object.map_at(&["metadata"]);
    for field in [
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "managedFields",
        "generation",
    ] {
        metadata.remove(field);
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
    }
    object
}

fn check_immutable(
    texts: &[ManifestText],
    read: &ReadObject,
    live: &Object,
    new: &Value,
) -> Result<(), ReadManifestError> {
    let field: &[&str] = match live.key.kind {
        Kind::Deployment => &["spec", "selector"],
        Kind::Pod => &["spec"],
        _ => return Ok(()),
    };
    let path = field.iter().try_fold(new, |value, key| value.get(key));
    if path == live.field(field) {
        return Ok(());
    }
    let message = format!("of {} cannot be changed; delete it first", live.key);
    Err(manifest::fault_at(texts, read, field, message))
}

/// Deletes an object. A pod is asked to end; what belongs to a deployment or namespace goes with
/// it.
pub(crate) fn delete(api: &ClusterApi, key: &ObjectKey) -> Result<Changed, ChangeError> {
    let _lock = api.lock()?;
    let not_found = || ChangeError::NotFound { key: key.clone() };
    let mut object = api.get(key)?.ok_or_else(not_found)?;
    match key.kind {
        Kind::Node => {
            return Err(ChangeError::WrongKind {
                action: "delete",
                kind: key.kind,
            });
        }
        Kind::Pod => mark_deleted(api, &mut object)?,
        Kind::Namespace => delete_namespace(api, &key.name)?,
        _ => {
            api.remove(key)?;
        }
    }
    Ok(Changed {
        key: key.clone(),
        change: Change::Deleted,
    })
}

fn delete_namespace(api: &ClusterApi, namespace: &str) -> Result<(), ChangeError> {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_namespaced()) {
        for mut object in api.list(kind)? {
            if object.key.namespace != namespace {
                continue;
            }
            if kind == Kind::Pod {
                mark_deleted(api, &mut object)?;
            } else {
                api.remove(&object.key)?;
            }
        }
    }
    api.remove(&ObjectKey::new(Kind::Namespace, "", namespace))?;
    Ok(())
}

/// Notes that a pod shall end; the kubelet of the lab does the rest. The caller holds the lock.
pub(crate) fn mark_deleted(api: &ClusterApi, pod: &mut Object) -> Result<(), ApiError> {
    if pod.field(&["metadata", "deletionTimestamp"]).is_some() {
        return Ok(());
    }
    pod.set(&["metadata", "deletionTimestamp"], json!(timestamp()));
    api.write(pod)
}

/// Sets and removes annotations or labels: `key=value` or `key-`.
pub(crate) fn edit_map(
    api: &ClusterApi,
    key: &ObjectKey,
    map: &'static str,
    edits: &[String],
) -> Result<Changed, ChangeError> {
    let edits = edits
        .iter()
        .map(|text| parse_edit(text))
        .collect::<Result<Vec<_>, _>>()?;
    let _lock = api.lock()?;
    let mut object = api
        .get(key)?
        .ok_or_else(|| ChangeError::NotFound { key: key.clone() })?;
    let before = object.value.clone();
    for (name, value) in edits {
        let entries = object.map_at(&["metadata", map]);
        match value {
            Some(value) => drop(entries.insert(name.to_owned(), json!(value))),
            None => drop(entries.remove(name)),
        }
    }
    if object.value != before {
        api.write(&object)?;
    }
    let change = if map == "labels" {
        Change::Labeled
    } else {
        Change::Annotated
    };
    Ok(Changed {
        key: key.clone(),
        change,
    })
}

fn parse_edit(text: &str) -> Result<(&str, Option<&str>), ChangeError> {
    let bad = || ChangeError::BadChange {
        text: text.to_owned(),
    };
    let edit = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text.strip_suffix('-').ok_or_else(bad)?, None),
    };
    if edit.0.is_empty() || edit.0.contains(char::is_whitespace) {
        Err(bad())
    } else {
        Ok(edit)
    }
}

/// Sets a deployment's number of replicas.
pub(crate) fn scale(
    api: &ClusterApi,
    key: &ObjectKey,
    replicas: u32,
) -> Result<Changed, ChangeError> {
    if key.kind != Kind::Deployment {
        return Err(ChangeError::WrongKind {
            action: "scale",
            kind: key.kind,
        });
    }
    let _lock = api.lock()?;
    let mut object = api
        .get(key)?
        .ok_or_else(|| ChangeError::NotFound { key: key.clone() })?;
    object.set(&["spec", "replicas"], json!(replicas));
    api.write(&object)?;
    Ok(Changed {
        key: key.clone(),
        change: Change::Scaled,
    })
}

/// Writes the objects that every cluster starts with; those that exist are left alone.
pub(crate) fn create_initial(
    config: &LabConfig,
    cluster: &ClusterConfig,
    api: &ClusterApi,
) -> Result<(), ApiError> {
    let _lock = api.lock()?;
    let mut objects = Vec::new();
    for namespace in [DEFAULT_NAMESPACE, "kube-system", "tulle-system"] {
        let labels = json!({"kubernetes.io/metadata.name": namespace});
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels},
        }));
        objects.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        }));
    }
    objects.extend(cluster.nodes.iter().map(|node| node_object(cluster, node)));
    if config.cluster_dns {
        objects.extend(dns_objects(cluster));
    }
    for value in objects {
        let Some(mut object) = Object::from_value(value) else {
            continue;
        };
        if api.get(&object.key)?.is_none() {
            object.set(&["metadata", "uid"], json!(random::uuid()));
            object.set(&["metadata", "creationTimestamp"], json!(timestamp()));
            api.write(&object)?;
        }
    }
    Ok(())
}

/// The cluster's name server, as a cluster has it: policies select its pods. It answers what a node proxy does not know by itself.
fn dns_objects(cluster: &ClusterConfig) -> [Value; 2] {
    let labels = json!({"k8s-app": "kube-dns"});
    let metadata = json!({"name": "kube-dns", "namespace": "kube-system", "labels": labels});
    let address = cluster.dns().to_string();
    let port =
        |name, protocol| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "selector": labels,
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    let command = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--pid-file",
        "--user=root",
    ];
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{
                    "name": "dnsmasq", "image": "tulle.test/host:1", "command": command,
                }]},
            },
        },
    });
    [service, deployment]
}

fn node_object(cluster: &ClusterConfig, node: &crate::config::NodeConfig) -> Value {
    let mut labels = node.labels.clone();
    labels.insert("kubernetes.io/hostname".to_owned(), node.name.clone());
    let address = |address: String| json!({"type": "InternalIP", "address": address});
    let pod_subnet = format!("{}/24", cluster.pod_address(node, 0));
    let pod_subnet_v6 = format!("{}/64", cluster.pod_address_v6(node, 0));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": pod_subnet, "podCIDRs": [pod_subnet, pod_subnet_v6]},
        "status": {
            "addresses": [
                address(cluster.node_address(node).to_string()),
                address(cluster.node_address_v6(node).to_string()),
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "the lab's supervisor runs the node"}],
        },
    })
}

/// Now, as Kubernetes writes it.
pub(crate) fn timestamp() -> String {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let now = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    now.strftime("%FT%TZ").to_string()
}

/// Where `kubectl apply` keeps what was applied last, and so does the lab.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
