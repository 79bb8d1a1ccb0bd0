//! Shows objects as `kubectl get` does.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use serde_json::Value;

use crate::{
    api::{ApiError, ClusterApi},
    error::LabError,
    exec,
    kind::Kind,
    object::{DEFAULT_NAMESPACE, Object, ObjectKey},
    supervisor::is_ready,
    table::Table,
};

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// A table.
    Table,
    /// A table with more columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// One `kind/name` per line.
    Name,
}

pub(crate) fn get(
    api: &ClusterApi,
    kind: &str,
    name: Option<&str>,
    namespace: Option<&str>,
    format: OutputFormat,
) -> Result<String, LabError> {
    let unknown = || LabError::UnknownKind {
        name: kind.to_owned(),
        known: Kind::ALL
            .iter()
            .map(|kind| kind.plural().to_owned())
            .chain(["endpoints".to_owned()])
            .collect(),
    };
    let endpoints = matches!(kind, "endpoints" | "ep");
    let kind = if endpoints {
        Kind::Service
    } else {
        Kind::from_argument(kind).ok_or_else(unknown)?
    };
    let mut objects = api.list(kind)?;
    let all = namespace == Some(ALL_NAMESPACES);
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    objects.retain(|object| all || !kind.is_namespaced() || object.key.namespace == namespace);
    if let Some(name) = name {
        objects.retain(|object| object.key.name == name);
        if objects.is_empty() {
            let key = ObjectKey::new(kind, namespace, name);
            return Err(crate::apply::ChangeError::NotFound { key }.into());
        }
    }
    let slices = api.list(Kind::EndpointSlice)?;
    match format {
        OutputFormat::Name => Ok(objects
            .iter()
            .map(|object| format!("{}\n", object.key))
            .collect()),
        OutputFormat::Yaml | OutputFormat::Json => Ok(print_values(&objects, name, format)),
        OutputFormat::Table | OutputFormat::Wide if objects.is_empty() && all => {
            Ok("No resources found\n".to_owned())
        }
        OutputFormat::Table | OutputFormat::Wide if objects.is_empty() => {
            Ok(format!("No resources found in {namespace} namespace.\n"))
        }
        OutputFormat::Table | OutputFormat::Wide => {
            let wide = format == OutputFormat::Wide;
            let mut table = Table::default();
            for object in &objects {
                let mut row = if endpoints {
                    vec![
                        ("NAME", object.key.name.clone()),
                        ("ENDPOINTS", ready_endpoints(&slices, object)),
                        ("AGE", age(object)),
                    ]
                } else {
                    row(api, object, wide)?
                };
                if all && kind.is_namespaced() {
                    row.insert(0, ("NAMESPACE", object.key.namespace.clone()));
                }
                table.add(row);
            }
            Ok(table.print())
        }
    }
}

fn print_values(objects: &[Object], name: Option<&str>, format: OutputFormat) -> String {
    let values: Vec<&Value> = objects.iter().map(|object| &object.value).collect();
    let value = match (name, values.as_slice()) {
        (Some(_), [one]) => (*one).clone(),
        _ => serde_json::json!({"apiVersion": "v1", "kind": "List", "items": values}),
    };
    if format == OutputFormat::Json {
        format!(
            "{}\n",
            serde_json::to_string_pretty(&value).unwrap_or_default()
        )
    } else {
        serde_yaml_ng::to_string(&value).unwrap_or_default()
    }
}

type Row = Vec<(&'static str, String)>;

fn row(api: &ClusterApi, object: &Object, wide: bool) -> Result<Row, ApiError> {
    let name = ("NAME", object.key.name.clone());
    let mut row = match object.key.kind {
        Kind::Pod => return Ok(pod_row(object, wide)),
        Kind::Service => return Ok(service_row(object, wide)),
        Kind::Deployment => {
            let pods = exec::pods_of(api, &object.key.namespace, &object.key.name)?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let wanted = wanted_replicas(object);
            vec![
                name,
                ("READY", format!("{ready}/{wanted}")),
                ("UP-TO-DATE", pods.len().to_string()),
                ("AVAILABLE", ready.to_string()),
            ]
        }
        Kind::ConfigMap => {
            let map = object.view::<ConfigMap>().unwrap_or_default();
            let count = map.data.map_or(0, |data| data.len())
                + map.binary_data.map_or(0, |data| data.len());
            vec![name, ("DATA", count.to_string())]
        }
        Kind::EndpointSlice => {
            let slice = object.view::<EndpointSlice>();
            let (family, endpoints) = slice
                .map(|slice| (slice.address_type, slice.endpoints))
                .unwrap_or_default();
            let addresses: Vec<String> = endpoints
                .into_iter()
                .flat_map(|endpoint| endpoint.addresses)
                .collect();
            vec![
                name,
                ("ADDRESSTYPE", family),
                ("ENDPOINTS", shorten(&addresses)),
            ]
        }
        Kind::Namespace => vec![name, ("STATUS", "Active".to_owned())],
        Kind::Node => {
            let addresses = object
                .field(&["status", "addresses"])
                .and_then(Value::as_array);
            let first = addresses.and_then(|list| list.first()?.get("address")?.as_str());
            let address = first.unwrap_or("<none>").to_owned();
            vec![
                name,
                ("STATUS", "Ready".to_owned()),
                ("INTERNAL-IP", address),
            ]
        }
        Kind::ServiceAccount
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::NetworkPolicy
        | Kind::CiliumNetworkPolicy
        | Kind::CiliumClusterwideNetworkPolicy => vec![name],
    };
    row.push(("AGE", age(object)));
    Ok(row)
}

fn pod_row(pod: &Object, wide: bool) -> Row {
    let statuses = pod
        .field(&["status", "containerStatuses"])
        .and_then(Value::as_array);
    let statuses: Vec<&Value> = statuses.into_iter().flatten().collect();
    let ready = statuses
        .iter()
        .filter(|status| status.get("ready").and_then(Value::as_bool) == Some(true))
        .count();
    let restarts: u64 = statuses
        .iter()
        .filter_map(|status| status.get("restartCount").and_then(Value::as_u64))
        .sum();
    let count = pod
        .field(&["spec", "containers"])
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let mut row = vec![
        ("NAME", pod.key.name.clone()),
        ("READY", format!("{ready}/{count}")),
        ("STATUS", pod_status(pod, &statuses)),
        ("RESTARTS", restarts.to_string()),
        ("AGE", age(pod)),
    ];
    if wide {
        let text = |path: &[&str]| pod.text(path).unwrap_or("<none>").to_owned();
        row.push(("IP", text(&["status", "podIP"])));
        row.push(("NODE", text(&["spec", "nodeName"])));
    }
    row
}

/// A pod's state in one word, as kubectl shows it.
pub(crate) fn pod_status(pod: &Object, statuses: &[&Value]) -> String {
    if pod.field(&["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating".to_owned();
    }
    let reason = statuses.iter().find_map(|status| {
        let state = status.get("state")?;
        let part = state.get("waiting").or_else(|| state.get("terminated"))?;
        part.get("reason")?.as_str()
    });
    let trouble = pod.text(&["status", "reason"]);
    let phase = pod.text(&["status", "phase"]).unwrap_or("Pending");
    trouble.or(reason).unwrap_or(phase).to_owned()
}

fn service_row(service: &Object, wide: bool) -> Row {
    let spec = service
        .view::<Service>()
        .and_then(|service| service.spec)
        .unwrap_or_default();
    let ports: Vec<String> = spec
        .ports
        .iter()
        .flatten()
        .map(|port| {
            format!(
                "{}/{}",
                port.port,
                port.protocol.as_deref().unwrap_or("TCP")
            )
        })
        .collect();
    let ports = if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    };
    let mut row = vec![
        ("NAME", service.key.name.clone()),
        ("TYPE", "ClusterIP".to_owned()),
        ("CLUSTER-IP", spec.cluster_ips.unwrap_or_default().join(",")),
        ("EXTERNAL-IP", "<none>".to_owned()),
        ("PORT(S)", ports),
        ("AGE", age(service)),
    ];
    if wide {
        let selector = spec.selector.unwrap_or_default();
        let selector: Vec<String> = selector
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        row.push(("SELECTOR", selector.join(",")));
    }
    row
}

/// The ready endpoints of a service, as `kubectl get endpoints` shows them.
fn ready_endpoints(slices: &[Object], service: &Object) -> String {
    let mut found = Vec::new();
    for slice in slices {
        let own = slice.key.namespace == service.key.namespace
            && slice
                .labels()
                .any(|label| label == ("kubernetes.io/service-name", service.key.name.as_str()));
        let Some(view) = slice.view::<EndpointSlice>().filter(|_| own) else {
            continue;
        };
        let ports: Vec<i32> = view
            .ports
            .iter()
            .flatten()
            .filter_map(|port| port.port)
            .collect();
        for endpoint in view.endpoints {
            let ready = endpoint.conditions.and_then(|conditions| conditions.ready);
            if ready == Some(false) {
                continue;
            }
            for address in &endpoint.addresses {
                let address = match address.contains(':') {
                    true => format!("[{address}]"),
                    false => address.clone(),
                };
                match ports.is_empty() {
                    true => found.push(address),
                    false => found.extend(ports.iter().map(|port| format!("{address}:{port}"))),
                }
            }
        }
    }
    shorten(&found)
}

fn shorten(list: &[String]) -> String {
    match list {
        [] => "<none>".to_owned(),
        [some @ .., _] if some.len() >= LISTED_MAX => {
            let more = list.len() - LISTED_MAX;
            format!("{} + {more} more...", list[..LISTED_MAX].join(","))
        }
        all => all.join(","),
    }
}

fn age(object: &Object) -> String {
    let created = object
        .text(&["metadata", "creationTimestamp"])
        .and_then(|text| text.parse::<Timestamp>().ok())
        .map(|created| created.as_second());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let seconds = created.map(|created| i64::try_from(now).unwrap_or(i64::MAX) - created);
    match seconds {
        None => "<unknown>".to_owned(),
        Some(seconds) if seconds < 120 => format!("{}s", seconds.max(0)),
        Some(seconds) if seconds < 7200 => format!("{}m", seconds / 60),
        Some(seconds) if seconds < 172_800 => format!("{}h", seconds / 3600),
        Some(seconds) => format!("{}d", seconds / 86_400),
    }
}

/// The number of pods that a deployment wants.
pub(crate) fn wanted_replicas(deployment: &Object) -> usize {
    let wanted = deployment
        .field(&["spec", "replicas"])
        .and_then(Value::as_u64)
        .unwrap_or(1);
    usize::try_from(wanted).unwrap_or(usize::MAX)
}

/// Stands for every namespace.
pub const ALL_NAMESPACES: &str = "*";
const LISTED_MAX: usize = 3;
