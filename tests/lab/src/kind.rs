//! The kinds of objects that the lab's clusters hold.

use std::fmt;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Service.
    Service,
    /// `apps/v1` Deployment.
    Deployment,
    /// `v1` Pod.
    Pod,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `security.istio.io/v1` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `security.istio.io/v1` PeerAuthentication.
    PeerAuthentication,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 13] = [
        Kind::Namespace,
        Kind::Node,
        Kind::ServiceAccount,
        Kind::ConfigMap,
        Kind::Service,
        Kind::Deployment,
        Kind::Pod,
        Kind::EndpointSlice,
        Kind::AuthorizationPolicy,
        Kind::PeerAuthentication,
        Kind::NetworkPolicy,
        Kind::CiliumNetworkPolicy,
        Kind::CiliumClusterwideNetworkPolicy,
    ];

    /// The kind that a manifest's `kind` names.
    pub fn from_manifest(text: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.manifest_name() == text)
    }

    /// The kind that a user names on the command line: singular, plural or short.
    pub fn from_argument(text: &str) -> Option<Kind> {
        let text = text.to_lowercase();
        let text = text.split('.').next().unwrap_or_default();
        Kind::ALL.into_iter().find(|kind| {
            kind.directory() == text || kind.plural() == text || kind.short() == Some(text)
        })
    }

    /// The word in a manifest's `kind`.
    pub fn manifest_name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::ConfigMap => "ConfigMap",
            Kind::Service => "Service",
            Kind::Deployment => "Deployment",
            Kind::Pod => "Pod",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::PeerAuthentication => "PeerAuthentication",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Kind::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
        }
    }

    /// The singular in lower case, which is also the name of the kind's directory.
    pub fn directory(self) -> &'static str {
        match self {
            Kind::Namespace => "namespace",
            Kind::Node => "node",
            Kind::ServiceAccount => "serviceaccount",
            Kind::ConfigMap => "configmap",
            Kind::Service => "service",
            Kind::Deployment => "deployment",
            Kind::Pod => "pod",
            Kind::EndpointSlice => "endpointslice",
            Kind::AuthorizationPolicy => "authorizationpolicy",
            Kind::PeerAuthentication => "peerauthentication",
            Kind::NetworkPolicy => "networkpolicy",
            Kind::CiliumNetworkPolicy => "ciliumnetworkpolicy",
            Kind::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicy",
        }
    }

    /// The plural in lower case.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Namespace => "namespaces",
            Kind::Node => "nodes",
            Kind::ServiceAccount => "serviceaccounts",
            Kind::ConfigMap => "configmaps",
            Kind::Service => "services",
            Kind::Deployment => "deployments",
            Kind::Pod => "pods",
            Kind::EndpointSlice => "endpointslices",
            Kind::AuthorizationPolicy => "authorizationpolicies",
            Kind::PeerAuthentication => "peerauthentications",
            Kind::NetworkPolicy => "networkpolicies",
            Kind::CiliumNetworkPolicy => "ciliumnetworkpolicies",
            Kind::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicies",
        }
    }

    fn short(self) -> Option<&'static str> {
        match self {
            Kind::Namespace => Some("ns"),
            Kind::Node => Some("no"),
            Kind::ServiceAccount => Some("sa"),
            Kind::ConfigMap => Some("cm"),
            Kind::Service => Some("svc"),
            Kind::Deployment => Some("deploy"),
            Kind::Pod => Some("po"),
            Kind::NetworkPolicy => Some("netpol"),
            Kind::CiliumNetworkPolicy => Some("cnp"),
            Kind::CiliumClusterwideNetworkPolicy => Some("ccnp"),
            Kind::EndpointSlice | Kind::AuthorizationPolicy | Kind::PeerAuthentication => None,
        }
    }

    /// The API group, empty for the core.
    pub fn group(self) -> &'static str {
        match self {
            Kind::Deployment => "apps",
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::AuthorizationPolicy | Kind::PeerAuthentication => "security.istio.io",
            Kind::NetworkPolicy => "networking.k8s.io",
            Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => "cilium.io",
            Kind::Namespace
            | Kind::Node
            | Kind::ServiceAccount
            | Kind::ConfigMap
            | Kind::Service
            | Kind::Pod => "",
        }
    }

    /// The version of its group that the lab speaks.
    pub fn version(self) -> &'static str {
        match self.group() {
            "cilium.io" => "v2",
            _ => "v1",
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Kind::Namespace | Kind::Node | Kind::CiliumClusterwideNetworkPolicy
        )
    }

    /// As kubectl prints it: `service`, `deployment.apps`.
    pub fn resource(self) -> String {
        match self.group() {
            "" => self.directory().to_owned(),
            group => format!("{}.{group}", self.directory()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.manifest_name())
    }
}
