//! Authorization as Istio's policies say it.
//!
//! What only requests show stands beside what connections show, so that the form in which xDS carries a policy to L4 proxies
//! (`istio.security.Authorization`, which has no room for requests) can be made of it: `Authorization::l4_form`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::NamespacedName;

mod request;

pub use request::{HeaderCondition, PathMatch, RequestMatch};

/// One policy: who may (or may not) connect to the workloads in its scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The policy's name.
    pub name: String,
    /// The policy's namespace.
    pub namespace: String,
    /// Which workloads it speaks of.
    pub scope: AuthorizationScope,
    /// What a match means.
    pub action: AuthorizationAction,
    /// Alternatives: one match is enough; no rule matches nothing.
    pub rules: Vec<AuthorizationRule>,
    /// Only report what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

impl Authorization {
    /// `namespace/name`, the policy's key in the directory.
    pub fn key(&self) -> NamespacedName {
        NamespacedName::new(self.namespace.clone(), self.name.clone())
    }

    /// Whether the form for L4 proxies says less than this: somebody who sees requests must hold the whole.
    pub fn exceeds_l4(&self) -> bool {
        self.action == AuthorizationAction::Audit
            || self.rules.iter().any(AuthorizationRule::has_requests)
    }

    /// What is left for a proxy that sees no requests, as istiod makes it: of an `Allow`, the rules without requests (less is
    /// allowed); of a `Deny`, all rules without what they say of requests (more is denied), but a match of which nothing is
    /// left never holds. An `Audit` becomes a `Deny` without rules, which does nothing.
    pub fn l4_form(&self) -> Authorization {
        let mut form = self.clone();
        match form.action {
            AuthorizationAction::Allow => form.rules.retain(|rule| !rule.has_requests()),
            AuthorizationAction::Deny => {
                let clauses = form.rules.iter_mut().flat_map(|rule| &mut rule.clauses);
                for wanted in clauses.flat_map(|clause| &mut clause.matches) {
                    wanted.request = None;
                }
            }
            AuthorizationAction::Audit => {
                form.action = AuthorizationAction::Deny;
                form.rules.clear();
            }
        }
        form
    }
}

impl AuthorizationRule {
    /// Whether a part of it speaks of requests.
    pub fn has_requests(&self) -> bool {
        let mut matches = self.clauses.iter().flat_map(|clause| &clause.matches);
        matches.any(|wanted| wanted.request.is_some())
    }
}

/// Which workloads a policy speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationScope {
    /// All of the mesh.
    Global,
    /// All of the policy's namespace.
    Namespace,
    /// Those whose `authorization_policies` name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationAction {
    /// The connection may pass.
    Allow,
    /// The connection is refused.
    Deny,
    /// The connection, or the request, is noted.
    Audit,
}

/// All clauses must match; no clause matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuthorizationRule {
    /// Conditions, all needed.
    pub clauses: Vec<AuthorizationClause>,
}

/// One of the matches must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuthorizationClause {
    /// Alternatives.
    pub matches: Vec<AuthorizationMatch>,
}

/// All fields that are set must hold; a match with no field set never holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthorizationMatch {
    /// Namespace of the proven identity.
    pub namespaces: Vec<StringMatch>,
    /// None of these.
    pub not_namespaces: Vec<StringMatch>,
    /// The proven identity without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// None of these.
    pub not_principals: Vec<StringMatch>,
    /// Address of the client.
    pub source_ips: Vec<AddressRange>,
    /// None of these.
    pub not_source_ips: Vec<AddressRange>,
    /// Address of the workload.
    pub destination_ips: Vec<AddressRange>,
    /// None of these.
    pub not_destination_ips: Vec<AddressRange>,
    /// Port of the workload.
    pub destination_ports: Vec<u16>,
    /// None of these.
    pub not_destination_ports: Vec<u16>,
    /// Namespace and service account of the proven identity.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// None of these.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// What the request must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestMatch>,
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Present and not empty.
    Presence,
}

/// A CIDR block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// Any address of the block.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix_len: u8,
}

impl AddressRange {
    /// Whether the block holds `ip`. Blocks and addresses of different families never meet.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32u32.saturating_sub(u32::from(self.prefix_len));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                u32::from(net) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128u32.saturating_sub(u32::from(self.prefix_len));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                u128::from(net) & mask == u128::from(ip) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// A service account of any trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountMatch {
    /// Its namespace, in full: who writes the policy's own by leaving it out has it filled in when the policy is read.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
}

#[cfg(test)]
mod tests;
