//! Messages about policies: which there are, and what they say of one connection.

use serde::{Deserialize, Serialize};

/// A policy object, in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySummary {
    /// `cilium`, `kubernetes` or `istio`.
    pub language: String,
    /// Empty for objects of the whole cluster.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// It only reports what it would do.
    pub audit: bool,
    /// How many of the cluster's workloads it speaks of.
    pub subjects: usize,
    /// Its rules about connections to them; `None` = it says nothing of these.
    pub ingress: Option<usize>,
    /// Its rules about connections from them.
    pub egress: Option<usize>,
}

/// May this client ask that server for this?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExplainQuestion {
    /// `[cluster/]namespace/pod`, `namespace/deploy/name` for any pod of an owner, or an address.
    pub source: String,
    /// The same, or a DNS name.
    pub destination: String,
    /// The port at the destination itself.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// A request that is made.
    pub http: Option<ExplainRequest>,
    /// The name in a TLS hello.
    pub server_name: Option<String>,
}

/// An HTTP request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExplainRequest {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The host as the client writes it.
    pub host: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
}

/// What the policies at both ends say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    /// Who asks, as it was understood.
    pub source: String,
    /// Who is asked, as it was understood.
    pub destination: String,
    /// `allow`, `deny`, `depends`, or `unknown` where another cluster has the last word.
    pub outcome: String,
    /// First the source's end, then the destination's.
    pub ends: Vec<ExplainedEnd>,
}

/// What the policies at one end say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExplainedEnd {
    /// `egress` or `ingress`.
    pub direction: String,
    /// Whose policies.
    pub subject: String,
    /// `allow`, `deny`, `depends` or `unknown`.
    pub outcome: String,
    /// One sentence.
    pub because: String,
    /// The policy that decided, `<language>/<namespace>/<name>`, if one did.
    pub policy: Option<String>,
    /// The rule in it.
    pub rule: Option<String>,
    /// Rules of audited policies that would deny it.
    pub audited: Vec<String>,
    /// What would make it pass.
    pub missing: Option<String>,
}
