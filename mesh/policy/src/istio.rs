//! Istio's policy objects (`security.istio.io/v1`, `v1beta1`), read into the compiled form.
//!
//! Decides what of them a node proxy can hold and what becomes of the rest. Where istiod drops a value that it
//! cannot read, this refuses the object: a dropped value can turn "from these addresses" into "from anywhere".
//! Which pods a selector binds is for the caller, who knows the pods.

mod authorization_policy;
pub(crate) mod http;
mod peer_authentication;
mod selector;
mod value;

use serde_json::Value;
use tulle_model::Authorization;

pub use authorization_policy::{ConvertedPolicy, read_authorization_policy};
pub use peer_authentication::{MtlsMode, PeerAuthentication, PeerAuthentications};

use crate::read::{Manifest, PolicyKind, ReadPolicyError};

/// Reads one object, an AuthorizationPolicy or a PeerAuthentication, as if it were the only one of its kind.
///
/// The root namespace is `ROOT_NAMESPACE`. The result's scope says how it reaches workloads: `Global` and `Namespace` by
/// themselves, `WorkloadSelector` when the workloads that the object's selector picks name it.
///
/// For a PeerAuthentication the result refuses plain text wherever the object says `STRICT`. Several of them depend on each
/// other (workload over namespace over mesh); `istio::PeerAuthentications` knows that, a single object cannot.
///
/// # Errors
///
/// The object is of another kind, breaks the rules of its kind, or says nothing that a node proxy could hold:
/// `ReadPolicyError::NotForNodeProxies`, which a caller may pass over with a log line.
pub fn from_istio_yaml(manifest: Value) -> Result<Authorization, ReadPolicyError> {
    let object = Manifest::read(&manifest, &KINDS)?;
    if object.kind == PolicyKind::PeerAuthentication {
        return PeerAuthentication::read(&manifest)?.alone(ROOT_NAMESPACE);
    }
    read_authorization_policy(&manifest, ROOT_NAMESPACE).map(|converted| converted.authorization)
}

/// The kinds that are read.
const KINDS: [PolicyKind; 2] = [
    PolicyKind::AuthorizationPolicy,
    PolicyKind::PeerAuthentication,
];

/// The namespace whose policies speak of the whole mesh, unless the caller says another (`MeshConfig.rootNamespace`).
pub const ROOT_NAMESPACE: &str = "istio-system";

#[cfg(test)]
mod tests;
