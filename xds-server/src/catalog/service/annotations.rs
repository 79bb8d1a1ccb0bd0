//! What annotations say of a service.

use std::collections::BTreeMap;

use serde::Deserialize;
use tulle_model::{Affinity, Algorithm, Failover, FailoverTarget, Sharing};

use super::shorten;

/// Reads the sharing of a service from its annotations, in both spellings; the newer wins.
///
/// Booleans are Cilium's: `true` in any case is true, everything else is false.
pub(in crate::catalog) fn sharing_of(
    annotations: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Sharing {
    let global = flag(
        annotations,
        "service.cilium.io/global",
        "io.cilium/global-service",
        warnings,
    );
    let shared = flag(
        annotations,
        "service.cilium.io/shared",
        "io.cilium/shared-service",
        warnings,
    );
    let affinity_key = "service.cilium.io/affinity";
    let affinity = value(annotations, affinity_key, "io.cilium/service-affinity");
    let affinity = match affinity.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "none") => Affinity::None,
        Some("local" | "local-cluster") => Affinity::Local,
        Some("remote") => Affinity::Remote,
        Some("local-node") => Affinity::LocalNode,
        Some(other) => {
            let found = shorten(other);
            warnings.push(format!(
                "annotation {affinity_key} has the unknown value {found:?}, taken as none: expected none, local, remote or local-node"
            ));
            Affinity::None
        }
    };
    let global = global.unwrap_or(false);
    Sharing {
        global,
        shared: global && shared.unwrap_or(true),
        affinity,
    }
}

fn value<'a>(annotations: &'a BTreeMap<String, String>, new: &str, old: &str) -> Option<&'a str> {
    annotations
        .get(new)
        .or_else(|| annotations.get(old))
        .map(|v| v.trim())
}

fn flag(
    annotations: &BTreeMap<String, String>,
    new: &str,
    old: &str,
    warnings: &mut Vec<String>,
) -> Option<bool> {
    let text = value(annotations, new, old)?;
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let found = shorten(other);
            warnings.push(format!(
                "annotation {new} has the unknown value {found:?}, taken as false: expected true or false"
            ));
            Some(false)
        }
    }
}

/// Whether a namespace takes part in global services; `None` = it does not say.
pub(in crate::catalog) fn global_namespace(
    annotations: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Option<bool> {
    flag(annotations, NAMESPACE_KEY, NAMESPACE_KEY, warnings)
}

pub(super) fn algorithm_of(
    annotations: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Algorithm {
    let key = "service.cilium.io/lb-algorithm";
    match value(annotations, key, key)
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        None | Some("" | "random") => Algorithm::Random,
        Some("maglev") => Algorithm::Maglev,
        Some(other) => {
            let found = shorten(other);
            warnings.push(format!(
                "annotation {key} has the unknown value {found:?}, taken as random: expected random or maglev"
            ));
            Algorithm::Random
        }
    }
}

/// Reads the order of failover; a bad one is none, since a wrong order is worse than no order.
///
/// Either words, `tion, region/eu-west`, or YAML, `{order: [tion, region/eu-west], spillAt: 70}`.
pub(super) fn failover_of(
    annotations: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Option<Failover> {
    let text = annotations.get(FAILOVER_KEY)?.trim();
    match parse_failover(text) {
        Ok(failover) => Some(failover),
        Err(why) => {
            warnings.push(format!(
                "annotation {FAILOVER_KEY} is left out, {why}: expected clusters and regions in their order, as in \
                 `tion, region/eu-west` or `{{order: [tion, region/eu-west], spillAt: 70}}`"
            ));
            None
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFailover {
    order: Vec<String>,
    #[serde(default)]
    spill_at: u8,
}

fn parse_failover(text: &str) -> Result<Failover, String> {
    if text.len() > FAILOVER_LEN_MAX {
        return Err(format!("it is longer than {FAILOVER_LEN_MAX} bytes"));
    }
    let raw: RawFailover = if text.contains(':') {
        let parsed = serde_yaml_ng::from_str(text);
        parsed.map_err(|error| format!("it cannot be read ({})", shorten(&error.to_string())))?
    } else {
        RawFailover {
            order: text.split(',').map(|word| word.trim().to_owned()).collect(),
            spill_at: 0,
        }
    };
    if raw.spill_at > 100 {
        return Err(format!("spillAt {} is no percentage", raw.spill_at));
    }
    if raw.order.is_empty() || raw.order.len() > Failover::ORDER_LEN_MAX {
        return Err(format!("it names {} places", raw.order.len()));
    }
    let order = raw.order.iter().map(|word| parse_target(word));
    Ok(Failover {
        order: order.collect::<Result<_, _>>()?,
        spill_at: raw.spill_at,
    })
}

fn parse_target(word: &str) -> Result<FailoverTarget, String> {
    match word.split_once('/') {
        Some(("region", name)) if !name.is_empty() => Ok(FailoverTarget::Region(name.to_owned())),
        Some(("cluster", name)) => parse_cluster(name),
        Some(_) => Err(format!(
            "{:?} is neither a cluster nor a region",
            shorten(word)
        )),
        None => parse_cluster(word),
    }
}

fn parse_cluster(name: &str) -> Result<FailoverTarget, String> {
    let parsed = name.parse().map(FailoverTarget::Cluster);
    parsed.map_err(|_| format!("{:?} is not the name of a cluster", shorten(name)))
}

/// The gate of a namespace.
pub(in crate::catalog) const NAMESPACE_KEY: &str = "clustermesh.cilium.io/global";
const FAILOVER_KEY: &str = "mesh.tulle.io/failover";
const FAILOVER_LEN_MAX: usize = 16 * 1024;
