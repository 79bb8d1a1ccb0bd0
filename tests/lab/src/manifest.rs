//! Reads manifests: YAML text → objects that are known to be sound, or every fault with its file,
//! line and field.
//!
//! Pure: nothing is looked up in the cluster and nothing is applied here.

mod fault;
mod locate;
mod pod;
mod service;
mod strict;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use self::fault::{FieldPath, Report};
pub use self::fault::{ManifestFault, ReadManifestError};
pub(crate) use self::pod::container_port;
use crate::{
    config::LabConfig,
    kind::Kind,
    object::{Object, ObjectKey},
};

/// A text with manifests, and the name it has in errors.
#[derive(Debug, Clone)]
pub struct ManifestText {
    /// The file's name.
    pub file: String,
    /// Its text: any number of YAML documents.
    pub text: String,
}

/// An object with the place it was read from.
#[derive(Debug, Clone)]
pub(crate) struct ReadObject {
    pub(crate) object: Object,
    pub(crate) source: usize,
    pub(crate) document: usize,
}

/// Reads all documents of all texts.
///
/// # Errors
/// With every fault that was found; then no object is returned.
pub(crate) fn read(
    config: &LabConfig,
    texts: &[ManifestText],
) -> Result<Vec<ReadObject>, ReadManifestError> {
    let mut report = Report::new(texts);
    let mut objects: Vec<ReadObject> = Vec::new();
    let mut seen: BTreeMap<ObjectKey, (usize, usize)> = BTreeMap::new();
    for (source, text) in texts.iter().enumerate() {
        for (document, value) in documents(source, text, &mut report) {
            let place = (source, document);
            let Some(object) = read_object(config, text, value, place, &mut report) else {
                continue;
            };
            if let Some(&first) = seen.get(&object.key) {
                let name = FieldPath::root().key("metadata").key("name");
                let where_first = report.line_of(first, &name);
                report.add(
                    place,
                    &name,
                    format!("{} is there twice, first {where_first}", object.key),
                );
                continue;
            }
            seen.insert(object.key.clone(), place);
            objects.push(ReadObject {
                object,
                source,
                document,
            });
        }
    }
    if report.is_empty() {
        Ok(objects)
    } else {
        Err(report.into_error())
    }
}

/// Builds the error for a fault that only the cluster's state shows (an unknown namespace, say).
pub(crate) fn fault_at(
    texts: &[ManifestText],
    object: &ReadObject,
    field: &[&str],
    message: String,
) -> ReadManifestError {
    let mut report = Report::new(texts);
    let path = field
        .iter()
        .fold(FieldPath::root(), |path, key| path.key(key));
    report.add((object.source, object.document), &path, message);
    report.into_error()
}

fn documents(source: usize, text: &ManifestText, report: &mut Report<'_>) -> Vec<(usize, Value)> {
    let mut values = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(&text.text).enumerate() {
        if index >= DOCUMENTS_MAX {
            report.add(
                (source, index),
                &FieldPath::root(),
                format!("more than {DOCUMENTS_MAX} documents"),
            );
            break;
        }
        // This type refuses a key that is there twice, the one of serde_json does not.
        match serde_yaml_ng::Value::deserialize(document) {
            Ok(serde_yaml_ng::Value::Null) => {}
            Ok(value) => match serde_json::to_value(value) {
                Ok(value) => values.push((index, value)),
                Err(error) => report.add((source, index), &FieldPath::root(), error.to_string()),
            },
            Err(error) => {
                // After a syntax error the parser has lost its place: what follows is not worth
                // reading.
                report.add_syntax(source, &error);
                break;
            }
        }
    }
    values
}

fn read_object(
    config: &LabConfig,
    text: &ManifestText,
    value: Value,
    place: (usize, usize),
    report: &mut Report<'_>,
) -> Option<Object> {
    let before = report.len();
    let root = FieldPath::root();
    let kind = read_kind(&value, place, report)?;
    check_metadata(kind, &value, place, report);
    strict::check(kind, &text.text, &value, place, report);
    if report.len() > before {
        return None;
    }
    let object = Object::from_value(value)?;
    match kind {
        Kind::Deployment => pod::check_deployment(config, &object, place, report),
        Kind::Pod => {
            if let Some(pod) = object.view::<k8s_openapi::api::core::v1::Pod>() {
                let spec = pod.spec.unwrap_or_default();
                pod::check_spec(config, &spec, &root.key("spec"), place, report);
            }
        }
        Kind::Service => service::check(&object, place, report),
        Kind::Namespace
        | Kind::Node
        | Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::EndpointSlice
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::NetworkPolicy
        | Kind::CiliumNetworkPolicy
        | Kind::CiliumClusterwideNetworkPolicy => {}
    }
    (report.len() == before).then_some(object)
}

fn read_kind(value: &Value, place: (usize, usize), report: &mut Report<'_>) -> Option<Kind> {
    let root = FieldPath::root();
    let Some(word) = value.get("kind").and_then(Value::as_str) else {
        report.add(place, &root, "`kind` is missing".to_owned());
        return None;
    };
    let Some(kind) = Kind::from_manifest(word) else {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.manifest_name()).collect();
        let message = format!("unknown kind `{word}`, the lab knows {}", known.join(", "));
        report.add(place, &root.key("kind"), message);
        return None;
    };
    let version = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    let istio_beta = kind.group() == "security.istio.io" && number == "v1beta1";
    if group != kind.group() || (number != kind.version() && !istio_beta) {
        let expected = if kind.group().is_empty() {
            kind.version().to_owned()
        } else {
            format!("{}/{}", kind.group(), kind.version())
        };
        let message = format!("`{version}` is not the version of {kind}, expected `{expected}`");
        report.add(place, &root.key("apiVersion"), message);
        return None;
    }
    Some(kind)
}

fn check_metadata(kind: Kind, value: &Value, place: (usize, usize), report: &mut Report<'_>) {
    let path = FieldPath::root().key("metadata");
    let metadata = value.get("metadata");
    let Some(name) = metadata.and_then(|m| m.get("name")).and_then(Value::as_str) else {
        report.add(place, &path, "`name` is missing".to_owned());
        return;
    };
    // Pods, services and namespaces become DNS labels and parts of file names.
    if !is_dns_label(name) {
        let message = format!("`{name}` is not a name of at most {NAME_LEN_MAX} of a-z, 0-9 and -");
        report.add(place, &path.key("name"), message);
    }
    let namespace = metadata
        .and_then(|m| m.get("namespace"))
        .and_then(Value::as_str);
    match namespace {
        Some(namespace) if !kind.is_namespaced() => {
            let message = format!("{kind} lives in no namespace, but `{namespace}` is given");
            report.add(place, &path.key("namespace"), message);
        }
        Some(namespace) if !is_dns_label(namespace) => {
            let message = format!("`{namespace}` is not a namespace's name");
            report.add(place, &path.key("namespace"), message);
        }
        _ => {}
    }
}

/// Whether `name` may be a DNS label.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= NAME_LEN_MAX
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
}

const NAME_LEN_MAX: usize = 63;
/// A text with more documents is refused: it is not a manifest somebody wrote for a lab.
const DOCUMENTS_MAX: usize = 10_000;
