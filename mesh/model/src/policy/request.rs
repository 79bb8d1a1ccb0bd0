//! What only requests show.

use serde::{Deserialize, Serialize};

use super::StringMatch;

/// All fields that are set must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestMatch {
    /// The host, in any case, with or without its port.
    pub hosts: Vec<StringMatch>,
    /// None of these.
    pub not_hosts: Vec<StringMatch>,
    /// The method.
    pub methods: Vec<StringMatch>,
    /// None of these.
    pub not_methods: Vec<StringMatch>,
    /// The path without its query.
    pub paths: Vec<PathMatch>,
    /// None of these.
    pub not_paths: Vec<PathMatch>,
    /// Each must hold.
    pub headers: Vec<HeaderCondition>,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    /// As any text.
    Text(StringMatch),
    /// Segment by segment: `{*}` stands for one that is not empty, `{**}` (once, and last of the operators) for one or more of any kind.
    Template(String),
}

/// What a header must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderCondition {
    /// Its name, lower case.
    pub name: String,
    /// Any of these; none = no condition.
    #[serde(default)]
    pub values: Vec<StringMatch>,
    /// None of these; a header that is not there has none.
    #[serde(default)]
    pub not_values: Vec<StringMatch>,
}
