//! What it takes to run one pod: DNS and the proxy, in this order, so that a captured pod can always resolve names.

use std::{
    collections::HashMap,
    error::Error,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tulle_model::SpiffeId;

use super::PodDescriptor;
use crate::{
    dns::{DnsContext, PodDns},
    netns::NamespaceHandle,
    plane::Plane,
    pod::PodProxy,
};

/// Starts pods' proxies.
#[async_trait]
pub trait PodRunner: Send + Sync + 'static {
    /// Captures a pod.
    ///
    /// # Errors
    /// The pod is not captured, and nothing of it is left open.
    async fn start(
        &self,
        pod: PodDescriptor,
    ) -> Result<Box<dyn RunningPod>, Box<dyn Error + Send + Sync>>;
}

/// A captured pod.
#[async_trait]
pub trait RunningPod: Send {
    /// Ends its proxy; connections may go on until the deadline.
    async fn stop(self: Box<Self>, stop: Stop, deadline: Duration);
}

/// Why a pod's proxy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The pod is gone: the kernel forgets it.
    PodGone,
    /// The process ends: the kernel keeps the pod captured, and closed, until the next process takes over.
    Shutdown,
}

/// Runs pods on the data plane.
pub struct ProxyRunner {
    plane: Arc<Plane>,
    dns: Arc<DnsContext>,
    /// How many pods run as an identity; its certificate is kept as long as there is one.
    identities: Arc<Mutex<HashMap<SpiffeId, usize>>>,
}

impl ProxyRunner {
    /// A runner on the given plane.
    pub fn new(plane: Arc<Plane>, dns: Arc<DnsContext>) -> Self {
        ProxyRunner {
            plane,
            dns,
            identities: Arc::default(),
        }
    }
}

#[async_trait]
impl PodRunner for ProxyRunner {
    async fn start(
        &self,
        pod: PodDescriptor,
    ) -> Result<Box<dyn RunningPod>, Box<dyn Error + Send + Sync>> {
        let identity = IdentityUse::begin(&self.plane, &self.identities, &pod);
        let namespace = Arc::new(NamespaceHandle::open(&pod.netns)?);
        let port = self.plane.settings.ports.dns;
        let listen: [SocketAddr; 2] = [
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ];
        let dns = PodDns::start(Arc::clone(&self.dns), &pod, namespace, &listen)?;
        let proxy = PodProxy::start(Arc::clone(&self.plane), pod.clone()).await?;
        Ok(Box::new(Running {
            proxy,
            dns,
            identity,
            plane: Arc::clone(&self.plane),
            pod,
        }))
    }
}

struct Running {
    proxy: PodProxy,
    dns: PodDns,
    identity: IdentityUse,
    plane: Arc<Plane>,
    pod: PodDescriptor,
}

#[async_trait]
impl RunningPod for Running {
    async fn stop(self: Box<Self>, stop: Stop, deadline: Duration) {
        let Running {
            proxy,
            dns,
            identity,
            plane,
            pod,
        } = *self;
        proxy.drain(deadline).await;
        if stop == Stop::PodGone
            && let Err(error) = plane.kernel.release_pod(&pod.uid)
        {
            tracing::warn!(
                error = crate::run::chain(&error),
                uid = pod.uid,
                "a pod leaves something behind"
            );
        }
        // The last connections may still have asked for names and certificates.
        drop(dns);
        drop(identity);
    }
}

/// Keeps an identity's certificate at hand while a pod needs it.
struct IdentityUse {
    plane: Arc<Plane>,
    identities: Arc<Mutex<HashMap<SpiffeId, usize>>>,
    id: SpiffeId,
}

impl IdentityUse {
    fn begin(
        plane: &Arc<Plane>,
        identities: &Arc<Mutex<HashMap<SpiffeId, usize>>>,
        pod: &PodDescriptor,
    ) -> Self {
        let id = pod.identity(&plane.trust_domain);
        let first = {
            let mut identities = identities.lock().unwrap_or_else(PoisonError::into_inner);
            let uses = identities.entry(id.clone()).or_insert(0);
            *uses += 1;
            *uses == 1
        };
        if first && let Err(error) = plane.svids.prefetch(&id) {
            tracing::warn!(
                error = crate::run::chain(&error),
                "a certificate cannot be prepared"
            );
        }
        IdentityUse {
            plane: Arc::clone(plane),
            identities: Arc::clone(identities),
            id,
        }
    }
}

impl Drop for IdentityUse {
    fn drop(&mut self) {
        let last = {
            let mut identities = self
                .identities
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let uses = identities.get_mut(&self.id).map_or(0, |uses| {
                *uses = uses.saturating_sub(1);
                *uses
            });
            uses == 0 && identities.remove(&self.id).is_some()
        };
        if last {
            self.plane.svids.forget(&self.id);
        }
    }
}
