//! What the objects of all languages have: version, kind and metadata.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tulle_model::NamespacedName;

use super::{Node, ReadPolicyError};

/// The kinds of objects that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// `cilium.io/v2`.
    CiliumNetworkPolicy,
    /// `cilium.io/v2`, without a namespace.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `security.istio.io/v1` and `v1beta1`.
    AuthorizationPolicy,
    /// `security.istio.io/v1` and `v1beta1`.
    PeerAuthentication,
}

impl PolicyKind {
    /// All of them, for error messages.
    pub(super) const EXPECTED: &str = "CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy of cilium.io/v2, NetworkPolicy of networking.k8s.io/v1, AuthorizationPolicy and PeerAuthentication of security.istio.io/v1 or v1beta1";

    /// The kind of an object with this `apiVersion` and `kind`; `None` = no policy that is read here.
    pub fn of(version: &str, kind: &str) -> Option<Self> {
        match (version, kind) {
            ("cilium.io/v2", "CiliumNetworkPolicy") => Some(PolicyKind::CiliumNetworkPolicy),
            ("cilium.io/v2", "CiliumClusterwideNetworkPolicy") => {
                Some(PolicyKind::CiliumClusterwideNetworkPolicy)
            }
            ("networking.k8s.io/v1", "NetworkPolicy") => Some(PolicyKind::NetworkPolicy),
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "AuthorizationPolicy") => {
                Some(PolicyKind::AuthorizationPolicy)
            }
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "PeerAuthentication") => {
                Some(PolicyKind::PeerAuthentication)
            }
            _ => None,
        }
    }

    /// As in the objects' field `kind`.
    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            PolicyKind::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::AuthorizationPolicy => "AuthorizationPolicy",
            PolicyKind::PeerAuthentication => "PeerAuthentication",
        }
    }

    /// Whether its objects lie in a namespace.
    pub fn is_namespaced(self) -> bool {
        self != PolicyKind::CiliumClusterwideNetworkPolicy
    }
}

/// What all objects have.
pub(crate) struct Manifest<'a> {
    pub(crate) kind: PolicyKind,
    /// With an empty namespace if objects of the kind have none.
    pub(crate) key: NamespacedName,
    pub(crate) annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, as the API server writes it; empty when the object never was in one.
    pub(crate) created: String,
    pub(crate) spec: Node<'a>,
    /// The object itself.
    pub(crate) root: &'a Map<String, Value>,
}

impl<'a> Manifest<'a> {
    /// Reads an object of one of `kinds`.
    pub(crate) fn read(manifest: &'a Value, kinds: &[PolicyKind]) -> Result<Self, ReadPolicyError> {
        let text = |name: &str| {
            manifest
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (version, kind) = (text("apiVersion"), text("kind"));
        let known = PolicyKind::of(version, kind).filter(|kind| kinds.contains(kind));
        let (Some(kind), Some(root)) = (known, manifest.as_object()) else {
            let found = format!("{kind:?} of {version:?}");
            return Err(ReadPolicyError::Kind {
                found: found.chars().take(KIND_LEN_MAX).collect(),
            });
        };
        let metadata = Node::new("metadata", root.get("metadata").unwrap_or(&Value::Null));
        let name = metadata.required("name")?.name()?;
        let namespace = match metadata.get("namespace")? {
            Some(node) if !kind.is_namespaced() => {
                return Err(node
                    .refuse("no namespace, since the object is of the whole cluster")
                    .of(kind, &NamespacedName::new("", name)));
            }
            Some(namespace) => namespace.name()?,
            None if kind.is_namespaced() => NAMESPACE_DEFAULT,
            None => "",
        };
        let key = NamespacedName::new(namespace, name);
        let rest = || {
            let annotations = metadata
                .get("annotations")?
                .map_or(Ok(BTreeMap::new()), |node| node.text_map())?;
            let created = match metadata.get("creationTimestamp")? {
                Some(node) => node.text()?.to_owned(),
                None => String::new(),
            };
            Ok((annotations, created))
        };
        let (annotations, created) =
            rest().map_err(|error: ReadPolicyError| error.of(kind, &key))?;
        Ok(Manifest {
            kind,
            key,
            annotations,
            created,
            spec: Node::new("spec", root.get("spec").unwrap_or(&Value::Null)),
            root,
        })
    }

    /// Refuses a field of the object itself that its kind does not have.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ReadPolicyError> {
        match self
            .root
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            Some(name) => Err(ReadPolicyError::field(
                name,
                "a value",
                "no field of this name",
            )),
            None => Ok(()),
        }
    }

    /// Whether the object shall only report what it would do.
    pub(crate) fn audit(&self) -> Result<bool, ReadPolicyError> {
        match self.annotations.get(ENFORCEMENT).map(String::as_str) {
            None | Some("enforce") => Ok(false),
            Some("audit") => Ok(true),
            Some(other) => Err(ReadPolicyError::field(
                format!("metadata.annotations.{ENFORCEMENT}"),
                format!("{other:?}"),
                "audit or enforce",
            )),
        }
    }
}

/// The annotation that makes a policy a trial.
const ENFORCEMENT: &str = "mesh.tulle.io/enforcement";

/// Where Kubernetes puts an object that names no namespace.
const NAMESPACE_DEFAULT: &str = "default";

/// This much of a wrong kind explains enough.
const KIND_LEN_MAX: usize = 128;
