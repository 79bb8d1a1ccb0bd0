//! Files with several policies, as people keep them.
//!
//! A fault in one document does not hide those of the others: each has its own result. Keys that stand twice in one object are
//! refused, as by `kubectl`; the last one would otherwise win in silence.

use serde::Deserialize;
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

use super::{PolicyKind, ReadPolicyError, ReadRules, ReadSettings};
use crate::{
    istio::{ConvertedPolicy, PeerAuthentication, ROOT_NAMESPACE, read_authorization_policy},
    read_cilium_policy, read_network_policy,
};

/// A policy of any language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadPolicy {
    /// Of Cilium or of Kubernetes.
    Rules(ReadRules),
    /// Of Istio.
    Authorization(ConvertedPolicy),
    /// Of Istio: where plain text is refused.
    PeerAuthentication(PeerAuthentication),
}

impl ReadPolicy {
    /// What the author should know.
    pub fn warnings(&self) -> &[String] {
        match self {
            ReadPolicy::Rules(read) => &read.warnings,
            ReadPolicy::Authorization(converted) => &converted.warnings,
            ReadPolicy::PeerAuthentication(_) => &[],
        }
    }
}

/// Reads all documents of a file. The number of each is its place in the file, from 1; empty documents have a place and no result.
///
/// A file that is too large, or has too many documents, ends with an error in the place where reading stopped.
pub fn read_policy_file(
    text: &str,
    settings: &ReadSettings,
) -> Vec<(usize, Result<ReadPolicy, ReadPolicyError>)> {
    if text.len() > FILE_LEN_MAX {
        let fault = format!(
            "the file has {} bytes, expected at most {FILE_LEN_MAX}",
            text.len()
        );
        return vec![(1, Err(ReadPolicyError::document(fault)))];
    }
    let mut results = Vec::new();
    for (i, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let number = i + 1;
        if i >= DOCUMENTS_MAX {
            let fault = format!("the file has more than {DOCUMENTS_MAX} documents");
            results.push((number, Err(ReadPolicyError::document(fault))));
            break;
        }
        match Yaml::deserialize(document).map_err(ReadPolicyError::document) {
            Ok(Yaml::Null) => {}
            Ok(value) => {
                let read = to_json(value).and_then(|value| read_policy(&value, settings));
                results.push((number, read));
            }
            // Behind a broken document nobody knows where the next begins.
            Err(error) => {
                results.push((number, Err(error)));
                break;
            }
        }
    }
    results
}

/// Reads one object of any of the languages.
///
/// # Errors
///
/// The object is no policy, breaks the rules of its kind, or asks for what the mesh cannot do.
pub fn read_policy(
    manifest: &Value,
    settings: &ReadSettings,
) -> Result<ReadPolicy, ReadPolicyError> {
    let text = |name: &str| manifest.get(name).and_then(Value::as_str).unwrap_or("");
    match PolicyKind::of(text("apiVersion"), text("kind")) {
        // The first reader also says what is no policy at all.
        None
        | Some(PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy) => {
            read_cilium_policy(manifest, settings).map(ReadPolicy::Rules)
        }
        Some(PolicyKind::NetworkPolicy) => {
            read_network_policy(manifest, settings).map(ReadPolicy::Rules)
        }
        Some(PolicyKind::AuthorizationPolicy) => {
            read_authorization_policy(manifest, ROOT_NAMESPACE).map(ReadPolicy::Authorization)
        }
        Some(PolicyKind::PeerAuthentication) => {
            PeerAuthentication::read(manifest).map(ReadPolicy::PeerAuthentication)
        }
    }
}

/// JSON has neither tags nor keys that are no texts, and neither has Kubernetes.
fn to_json(mut value: Yaml) -> Result<Value, ReadPolicyError> {
    value.apply_merge().map_err(ReadPolicyError::document)?;
    let mut values_left = VALUES_MAX;
    convert(value, &mut values_left)
}

fn convert(value: Yaml, values_left: &mut usize) -> Result<Value, ReadPolicyError> {
    *values_left = values_left.checked_sub(1).ok_or_else(|| {
        ReadPolicyError::document(format!("it unfolds to more than {VALUES_MAX} values"))
    })?;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(value) => Value::String(value),
        Yaml::Number(number) => {
            let number = number
                .as_u64()
                .map(Value::from)
                .or_else(|| number.as_i64().map(Value::from))
                .or_else(|| number.as_f64().map(Value::from));
            number.unwrap_or(Value::Null)
        }
        Yaml::Sequence(items) => {
            let items = items.into_iter().map(|item| convert(item, values_left));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(fields) => {
            let fields = fields.into_iter().map(|(key, value)| match key {
                Yaml::String(key) => Ok((key, convert(value, values_left)?)),
                other => Err(ReadPolicyError::document(format!(
                    "the key {other:?} is no text"
                ))),
            });
            Value::Object(fields.collect::<Result<_, _>>()?)
        }
        Yaml::Tagged(tagged) => {
            let fault = format!("the tag {} has no meaning here", tagged.tag);
            return Err(ReadPolicyError::document(fault));
        }
    })
}

/// An object in etcd has at most 1.5 MiB; a file may have several.
const FILE_LEN_MAX: usize = 8 * 1024 * 1024;
/// As many policies as a large cluster has.
const DOCUMENTS_MAX: usize = 10_000;
/// Aliases repeat what they stand for; this many values are more than any policy has.
const VALUES_MAX: usize = 1_000_000;

#[cfg(test)]
mod tests;
