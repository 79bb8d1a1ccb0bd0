//! Holds a manifest against the Kubernetes type of its kind: a field of the wrong type or an
//! unknown field is a fault, as it is for `kubectl apply`.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::fault::{FieldPath, Report};
use crate::kind::Kind;

pub(super) fn check(
    kind: Kind,
    text: &str,
    value: &Value,
    place: (usize, usize),
    report: &mut Report<'_>,
) {
    match kind {
        Kind::Namespace => check_as::<Namespace>(text, value, place, report),
        Kind::Node => check_as::<Node>(text, value, place, report),
        Kind::ServiceAccount => check_as::<ServiceAccount>(text, value, place, report),
        Kind::ConfigMap => check_as::<ConfigMap>(text, value, place, report),
        Kind::Service => check_as::<Service>(text, value, place, report),
        Kind::Deployment => check_as::<Deployment>(text, value, place, report),
        Kind::Pod => check_as::<Pod>(text, value, place, report),
        Kind::EndpointSlice => check_as::<EndpointSlice>(text, value, place, report),
        // Their grammar belongs to the server that compiles them.
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::NetworkPolicy
        | Kind::CiliumNetworkPolicy
        | Kind::CiliumClusterwideNetworkPolicy => {}
    }
}

fn check_as<T: DeserializeOwned + Serialize>(
    text: &str,
    value: &Value,
    place: (usize, usize),
    report: &mut Report<'_>,
) {
    let typed = match T::deserialize(value) {
        Ok(typed) => typed,
        Err(_) => match read_again(text, place.1) {
            Some(Ok(typed)) => typed,
            Some(Err(error)) => return report.add_syntax(place.0, &error),
            None => return,
        },
    };
    // What the type knows comes out again; what does not come out, it does not know.
    let known = serde_json::to_value(&typed).unwrap_or(Value::Null);
    report_unknown(value, &known, &FieldPath::root(), place, report);
}

/// Reads one document from its text, which knows two things that the value does not: the line of a fault, and that a plain `1` may be meant as
/// a text. Only for documents that need one of them: what stands before the document is read as well, so doing this for each of many takes the
/// square of their number.
fn read_again<T: DeserializeOwned>(
    text: &str,
    document: usize,
) -> Option<Result<T, serde_yaml_ng::Error>> {
    let reader = serde_yaml_ng::Deserializer::from_str(text).nth(document)?;
    Some(T::deserialize(reader))
}

fn report_unknown(
    given: &Value,
    known: &Value,
    path: &FieldPath,
    place: (usize, usize),
    report: &mut Report<'_>,
) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                match known.get(key) {
                    Some(known) => report_unknown(value, known, &path.key(key), place, report),
                    None if is_empty(value) => {}
                    None => report.add(place, &path.key(key), "unknown field".to_owned()),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                report_unknown(given, known, &path.index(index), place, report);
            }
        }
        _ => {}
    }
}

/// An absent field and an empty one are the same to the type, so an empty one cannot be judged.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
