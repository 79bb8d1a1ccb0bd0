//! One rule of an AuthorizationPolicy.

use std::collections::BTreeSet;

use tulle_model::{
    AuthorizationClause, AuthorizationMatch, AuthorizationRule, HeaderCondition, RequestMatch,
    StringMatch,
};

use crate::{
    istio::value::{
        read_account, read_header_key, read_path, read_port, read_range, read_string,
        read_trust_domain,
    },
    read::{Node, ReadPolicyError},
};

/// Reads one rule and gathers what of it no node proxy sees.
pub(super) struct RuleReader<'n> {
    /// The policy's namespace.
    namespace: &'n str,
    /// What was met so far that a node proxy does not see.
    pub(super) unseen: BTreeSet<&'static str>,
}

impl<'n> RuleReader<'n> {
    pub(super) fn new(namespace: &'n str) -> Self {
        RuleReader {
            namespace,
            unseen: BTreeSet::new(),
        }
    }

    /// One rule; several when a source needs a condition beside the others' (see `Source::beside`).
    pub(super) fn read(
        &mut self,
        rule: &Node<'_>,
    ) -> Result<Vec<AuthorizationRule>, ReadPolicyError> {
        rule.only(&["from", "to", "when"])?;
        let mut shared = Vec::new();
        if let Some(operations) = rule.list("to")? {
            let matches = operations
                .iter()
                .map(|to| self.read_operation(to))
                .collect::<Result<_, _>>()?;
            shared.push(AuthorizationClause { matches });
        }
        for condition in rule.list("when")?.unwrap_or_default() {
            shared.push(self.read_condition(&condition)?);
        }
        let Some(sources) = rule.list("from")? else {
            return Ok(vec![AuthorizationRule { clauses: shared }]);
        };
        let with = |more: Vec<AuthorizationClause>| AuthorizationRule {
            clauses: [shared.clone(), more].concat(),
        };
        let mut plain = Vec::new();
        let mut rules = Vec::new();
        for source in &sources {
            let Source { matched, beside } = self.read_source(source)?;
            match beside {
                None => plain.push(matched),
                Some(beside) => rules.push(with(vec![clause_of(matched), clause_of(beside)])),
            }
        }
        if !plain.is_empty() {
            rules.insert(0, with(vec![AuthorizationClause { matches: plain }]));
        }
        Ok(rules)
    }

    fn read_operation(&mut self, to: &Node<'_>) -> Result<AuthorizationMatch, ReadPolicyError> {
        to.only(&["operation"])?;
        let operation = to.required("operation")?;
        self.note_unseen(&operation, &OPERATION_FIELDS, &[])?;
        let request = RequestMatch {
            hosts: read_all(&operation, "hosts", read_string)?,
            not_hosts: read_all(&operation, "notHosts", read_string)?,
            methods: read_all(&operation, "methods", read_string)?,
            not_methods: read_all(&operation, "notMethods", read_string)?,
            paths: read_all(&operation, "paths", read_path)?,
            not_paths: read_all(&operation, "notPaths", read_path)?,
            headers: Vec::new(),
        };
        Ok(AuthorizationMatch {
            destination_ports: read_all(&operation, "ports", read_port)?,
            not_destination_ports: read_all(&operation, "notPorts", read_port)?,
            request: (request != RequestMatch::default()).then_some(request),
            ..AuthorizationMatch::default()
        })
    }

    fn read_source(&mut self, from: &Node<'_>) -> Result<Source, ReadPolicyError> {
        from.only(&["source"])?;
        let source = from.required("source")?;
        let unseen = [
            "requestPrincipals",
            "notRequestPrincipals",
            "remoteIpBlocks",
            "notRemoteIpBlocks",
        ];
        self.note_unseen(&source, &SOURCE_FIELDS, &unseen)?;
        let account = |node: &Node<'_>| read_account(node, self.namespace);
        let accounts = [
            read_all(&source, "serviceAccounts", account)?,
            read_all(&source, "notServiceAccounts", account)?,
        ];
        let has = |name: &str| source.list_or_empty(name).map(|found| !found.is_empty());
        for (field, accounts) in ["serviceAccounts", "notServiceAccounts"]
            .into_iter()
            .zip(&accounts)
        {
            let with_names = has("principals")?
                || has("notPrincipals")?
                || has("namespaces")?
                || has("notNamespaces")?;
            if !accounts.is_empty() && with_names {
                return Err(source
                    .required(field)?
                    .refuse("no principals or namespaces beside service accounts"));
            }
            if accounts.len() > ACCOUNTS_LEN_MAX {
                return Err(source
                    .required(field)?
                    .refuse("at most 16 service accounts"));
            }
        }
        let [service_accounts, not_service_accounts] = accounts;
        let mut matched = AuthorizationMatch {
            namespaces: read_all(&source, "namespaces", read_string)?,
            not_namespaces: read_all(&source, "notNamespaces", read_string)?,
            principals: read_all(&source, "principals", read_string)?,
            not_principals: read_all(&source, "notPrincipals", read_string)?,
            source_ips: read_all(&source, "ipBlocks", read_range)?,
            not_source_ips: read_all(&source, "notIpBlocks", read_range)?,
            service_accounts,
            not_service_accounts,
            ..AuthorizationMatch::default()
        };
        // None of several lists = none of their union.
        matched
            .not_principals
            .extend(self.read_trust_domains(&source, "notTrustDomains")?);
        let domains = self.read_trust_domains(&source, "trustDomains")?;
        if matched.principals.is_empty() {
            matched.principals = domains;
            return Ok(Source {
                matched,
                beside: None,
            });
        }
        let beside = AuthorizationMatch {
            principals: domains,
            ..AuthorizationMatch::default()
        };
        let beside = (beside != AuthorizationMatch::default()).then_some(beside);
        Ok(Source { matched, beside })
    }

    fn read_trust_domains(
        &mut self,
        node: &Node<'_>,
        field: &'static str,
    ) -> Result<Vec<StringMatch>, ReadPolicyError> {
        let read = read_all(node, field, read_trust_domain)?;
        if read.iter().any(Option::is_none) {
            self.unseen.insert(field);
            return Ok(Vec::new());
        }
        Ok(read.into_iter().flatten().collect())
    }

    fn read_condition(&mut self, when: &Node<'_>) -> Result<AuthorizationClause, ReadPolicyError> {
        when.only(&["key", "values", "notValues"])?;
        let key = when.required("key")?;
        if when.list_or_empty("values")?.is_empty() && when.list_or_empty("notValues")?.is_empty() {
            return Err(when.refuse("values or notValues"));
        }
        let mut matched = AuthorizationMatch::default();
        match key.text()? {
            "source.ip" => {
                matched.source_ips = read_all(when, "values", read_range)?;
                matched.not_source_ips = read_all(when, "notValues", read_range)?;
            }
            "source.namespace" => {
                matched.namespaces = read_all(when, "values", read_string)?;
                matched.not_namespaces = read_all(when, "notValues", read_string)?;
            }
            "source.principal" => {
                matched.principals = read_all(when, "values", read_string)?;
                matched.not_principals = read_all(when, "notValues", read_string)?;
            }
            "source.serviceAccount" => {
                let account = |node: &Node<'_>| read_account(node, self.namespace);
                matched.service_accounts = read_all(when, "values", account)?;
                matched.not_service_accounts = read_all(when, "notValues", account)?;
            }
            "source.trustDomain" => {
                matched.principals = self.read_trust_domains(when, "values")?;
                matched.not_principals = self.read_trust_domains(when, "notValues")?;
            }
            "destination.ip" => {
                matched.destination_ips = read_all(when, "values", read_range)?;
                matched.not_destination_ips = read_all(when, "notValues", read_range)?;
            }
            "destination.port" => {
                matched.destination_ports = read_all(when, "values", read_port)?;
                matched.not_destination_ports = read_all(when, "notValues", read_port)?;
            }
            other if other.starts_with(HEADERS_KEY) => {
                matched.request = Some(RequestMatch {
                    headers: vec![HeaderCondition {
                        name: read_header_key(&key)?,
                        values: read_all(when, "values", read_string)?,
                        not_values: read_all(when, "notValues", read_string)?,
                    }],
                    ..RequestMatch::default()
                });
            }
            other => {
                self.unseen
                    .insert(unseen_key(other).ok_or_else(|| key.refuse("a key of `when`"))?);
            }
        }
        Ok(clause_of(matched))
    }

    /// Notes the fields that no node proxy sees; refuses fields that are neither these nor `seen`, and an object with none.
    fn note_unseen(
        &mut self,
        node: &Node<'_>,
        seen: &[&str],
        unseen: &[&'static str],
    ) -> Result<(), ReadPolicyError> {
        let known: Vec<&str> = seen.iter().chain(unseen).copied().collect();
        node.only(&known)?;
        let mut is_empty = true;
        for field in known {
            let is_set = !node.list_or_empty(field)?.is_empty();
            is_empty &= !is_set;
            if is_set {
                self.unseen
                    .extend(unseen.iter().filter(|name| **name == field));
            }
        }
        if is_empty {
            return Err(node.refuse("at least one field that is not empty"));
        }
        Ok(())
    }
}

/// One `source`.
struct Source {
    matched: AuthorizationMatch,
    /// What must hold as well and has no place in `matched`: principals and trust domains are compared with one text,
    /// and the values of one field are alternatives.
    beside: Option<AuthorizationMatch>,
}

fn clause_of(matched: AuthorizationMatch) -> AuthorizationClause {
    AuthorizationClause {
        matches: vec![matched],
    }
}

fn read_all<T>(
    node: &Node<'_>,
    field: &str,
    read: impl Fn(&Node<'_>) -> Result<T, ReadPolicyError>,
) -> Result<Vec<T>, ReadPolicyError> {
    node.list_or_empty(field)?.iter().map(read).collect()
}

/// The keys of `when` that only tokens, TLS of the application, or Envoy show; by family, for the warning.
fn unseen_key(key: &str) -> Option<&'static str> {
    const WHOLE: [&str; 5] = [
        "remote.ip",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "connection.sni",
    ];
    const FAMILIES: [&str; 2] = ["request.auth.claims", "experimental.envoy.filters"];
    let whole = WHOLE.into_iter().find(|name| *name == key);
    whole.or_else(|| FAMILIES.into_iter().find(|family| key.starts_with(family)))
}

/// What the keys of `when` begin with that speak of headers.
const HEADERS_KEY: &str = "request.headers";

const OPERATION_FIELDS: [&str; 8] = [
    "ports",
    "notPorts",
    "hosts",
    "notHosts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];

const SOURCE_FIELDS: [&str; 10] = [
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
    "trustDomains",
    "notTrustDomains",
];

/// Istio's limit for `serviceAccounts`.
const ACCOUNTS_LEN_MAX: usize = 16;
