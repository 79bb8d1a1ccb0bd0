//! Names and ids of clusters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Text;

/// The name of a cluster: `^([a-z0-9][-a-z0-9]*)?[a-z0-9]$`, at most 32 bytes.
///
/// The rule is Cilium's (`pkg/clustermesh/types`), so that a name is valid in both systems.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Text);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = ParseClusterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = text.bytes().all(|b| valid_byte(b) || b == b'-');
        let ends = text.bytes().next().is_some_and(valid_byte)
            && text.bytes().next_back().is_some_and(valid_byte);
        if text.len() > CLUSTER_NAME_LEN_MAX || !inner || !ends {
            return Err(ParseClusterError::Name {
                found: text.chars().take(64).collect(),
            });
        }
        Ok(ClusterName(text.into()))
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ParseClusterError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> String {
        name.0.into()
    }
}

/// The id of a cluster, 1–511.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ClusterId(u16);

impl ClusterId {
    /// The id as a number.
    pub fn value(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for ClusterId {
    type Error = ParseClusterError;

    fn try_from(found: u16) -> Result<Self, Self::Error> {
        if (1..=CLUSTER_ID_MAX).contains(&found) {
            Ok(ClusterId(found))
        } else {
            Err(ParseClusterError::Id { found })
        }
    }
}

impl From<ClusterId> for u16 {
    fn from(id: ClusterId) -> u16 {
        id.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a cluster's name or id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseClusterError {
    /// The name breaks the rule.
    #[error(
        "cluster name {found:?} is not valid: expected 1–32 characters a-z, 0-9 or '-', with a letter or digit at both ends"
    )]
    Name {
        /// What was given (cut after 64 characters).
        found: String,
    },
    /// The id is out of range.
    #[error("cluster id {found} is not valid: expected 1–511")]
    Id {
        /// What was given.
        found: u16,
    },
}

const CLUSTER_NAME_LEN_MAX: usize = 32;
const CLUSTER_ID_MAX: u16 = 511;

#[cfg(test)]
mod tests;
