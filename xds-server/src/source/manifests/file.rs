//! One manifest file: bytes in, objects or one clear fault out. Reads no file itself.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::Deserializer;
use tulle_policy::ReadSettings;

use crate::{
    policy_source::SourcePolicy,
    source::{Object, ObjectKey, ObjectKind},
};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// Objects by name.
    pub(super) objects: BTreeMap<ObjectKey, Arc<Object>>,
    /// Kinds that the mesh does not read.
    pub(super) ignored: Vec<String>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: Option<usize>,
    pub(super) field: Option<String>,
    pub(super) message: String,
}

/// Parses a file of one or several YAML documents. One bad document makes the file bad: half a file is never applied.
pub(super) fn parse_manifest(text: &str, settings: &ReadSettings) -> Result<Manifest, Fault> {
    // The first pass reads the kinds only, because a typed parse from the text (not from a tree) is what knows lines.
    let mut heads = Vec::new();
    for document in Deserializer::from_str(text) {
        if heads.len() >= DOCUMENTS_MAX {
            return Err(fault(format!(
                "more than {DOCUMENTS_MAX} documents in one file"
            )));
        }
        heads.push(Option::<Head>::deserialize(document).map_err(|e| yaml_fault(&e))?);
    }
    let mut manifest = Manifest::default();
    for (document, head) in Deserializer::from_str(text).zip(heads) {
        let Some(head) = head else { continue };
        let (Some(version), Some(kind)) = (&head.api_version, &head.kind) else {
            return Err(fault("a document has no apiVersion or no kind".to_owned()));
        };
        let Some(kind) = known_kind(version, kind) else {
            manifest.ignored.push(format!("{version} {kind}"));
            continue;
        };
        let key = object_key(kind, &head)?;
        let object = parse_object(kind, document, settings).map_err(|f| Fault {
            message: format!("{key}: {}", f.message),
            ..f
        })?;
        if manifest.objects.contains_key(&key) {
            return Err(fault(format!("{key} is defined twice in this file")));
        }
        manifest.objects.insert(key, Arc::new(object));
    }
    Ok(manifest)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

fn known_kind(version: &str, kind: &str) -> Option<ObjectKind> {
    Some(match (version, kind) {
        ("v1", "Namespace") => ObjectKind::Namespace,
        ("v1", "Node") => ObjectKind::Node,
        ("v1", "ServiceAccount") => ObjectKind::ServiceAccount,
        ("v1", "Pod") => ObjectKind::Pod,
        ("v1", "Service") => ObjectKind::Service,
        ("discovery.k8s.io/v1", "EndpointSlice") => ObjectKind::EndpointSlice,
        ("security.istio.io/v1" | "security.istio.io/v1beta1", "AuthorizationPolicy") => {
            ObjectKind::AuthorizationPolicy
        }
        ("security.istio.io/v1" | "security.istio.io/v1beta1", "PeerAuthentication") => {
            ObjectKind::PeerAuthentication
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => ObjectKind::NetworkPolicy,
        ("cilium.io/v2", "CiliumNetworkPolicy") => ObjectKind::CiliumNetworkPolicy,
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy") => {
            ObjectKind::CiliumClusterwideNetworkPolicy
        }
        _ => return None,
    })
}

/// Names are checked as Kubernetes checks them, because they become parts of identities, keys and resource names.
fn object_key(kind: ObjectKind, head: &Head) -> Result<ObjectKey, Fault> {
    let name = head.metadata.name.clone().unwrap_or_default();
    let namespace = match kind {
        ObjectKind::Namespace | ObjectKind::Node | ObjectKind::CiliumClusterwideNetworkPolicy => {
            String::new()
        }
        ObjectKind::ServiceAccount
        | ObjectKind::Pod
        | ObjectKind::Service
        | ObjectKind::EndpointSlice
        | ObjectKind::AuthorizationPolicy
        | ObjectKind::PeerAuthentication
        | ObjectKind::NetworkPolicy
        | ObjectKind::CiliumNetworkPolicy => match &head.metadata.namespace {
            Some(namespace) if is_dns_name(namespace) => namespace.clone(),
            Some(namespace) => {
                return Err(field_fault(
                    "metadata.namespace",
                    format!("{kind} namespace {namespace:?} is not a DNS name"),
                ));
            }
            None => "default".to_owned(),
        },
    };
    if is_dns_name(&name) {
        Ok(ObjectKey {
            kind,
            namespace,
            name,
        })
    } else {
        Err(field_fault(
            "metadata.name",
            format!("{kind} name {name:?} is not a DNS name"),
        ))
    }
}

fn is_dns_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= DNS_NAME_LEN_MAX
        && name.bytes().all(allowed)
        && edge(name.bytes().next())
        && edge(name.bytes().next_back())
}

fn parse_object(
    kind: ObjectKind,
    document: Deserializer<'_>,
    settings: &ReadSettings,
) -> Result<Object, Fault> {
    Ok(match kind {
        ObjectKind::Namespace => Object::Namespace(typed::<Namespace>(document)?),
        ObjectKind::Node => Object::Node(typed::<Node>(document)?),
        ObjectKind::ServiceAccount => Object::ServiceAccount(typed::<ServiceAccount>(document)?),
        ObjectKind::Pod => Object::Pod(typed::<Pod>(document)?),
        ObjectKind::Service => Object::Service(typed::<Service>(document)?),
        ObjectKind::EndpointSlice => Object::EndpointSlice(typed::<EndpointSlice>(document)?),
        ObjectKind::AuthorizationPolicy
        | ObjectKind::PeerAuthentication
        | ObjectKind::NetworkPolicy
        | ObjectKind::CiliumNetworkPolicy
        | ObjectKind::CiliumClusterwideNetworkPolicy => {
            let tree = typed::<serde_json::Value>(document)?;
            let policy = SourcePolicy::parse(kind, &tree, settings).map_err(|e| Fault {
                line: None,
                field: e.field_path().map(str::to_owned),
                message: e.to_string(),
            })?;
            Object::Policy(Box::new(policy))
        }
    })
}

fn typed<T: DeserializeOwned>(document: Deserializer<'_>) -> Result<Box<T>, Fault> {
    T::deserialize(document)
        .map(Box::new)
        .map_err(|e| yaml_fault(&e))
}

fn fault(message: String) -> Fault {
    Fault {
        line: None,
        field: None,
        message,
    }
}

fn field_fault(field: &str, message: String) -> Fault {
    Fault {
        line: None,
        field: Some(field.to_owned()),
        message,
    }
}

/// The parser writes the field's path before the first colon, when it knows one.
fn yaml_fault(error: &serde_yaml_ng::Error) -> Fault {
    let text: String = error.to_string().chars().take(MESSAGE_LEN_MAX).collect();
    let field = text
        .split_once(": ")
        .map(|(path, _)| path)
        .filter(|path| !path.contains(char::is_whitespace) && !path.is_empty())
        .map(str::to_owned);
    Fault {
        line: error.location().map(|l| l.line()),
        field,
        message: text,
    }
}

const DOCUMENTS_MAX: usize = 10_000;
/// RFC 1123 subdomain, as Kubernetes limits it.
const DNS_NAME_LEN_MAX: usize = 253;
const MESSAGE_LEN_MAX: usize = 512;

#[cfg(test)]
mod tests;
