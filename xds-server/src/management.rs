//! The management API: what `tulle clustermesh`, `tulle service` and `tulle status` ask and order.
//!
//! JSON over HTTP/2 and TLS, on a port of its own; the messages are `tulle_wire::management`. Every caller proves that it is
//! an operator of this cluster: by a certificate of the cluster's own authority for the operator's identity, or by a token.
//! Who may not be answered learns nothing but that. See `docs/decisions/0007-management-api.md`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::timeout};
use tulle_model::{ClusterName, SpiffeId};
use tulle_wire::management::{
    Access, Changed, ExplainQuestion, PeerAccess, Publishing, RemoteCluster, path,
};

use self::{
    answer::{Refusal, done},
    status::Facts,
};
pub use self::{
    listen::serve,
    nodes::{NodeBoard, StreamLine},
    peers::Peers,
    publishing::{PublishingControl, PublishingTask, WISH_FILE, Wish},
    remotes::RemoteFiles,
    services::Services,
};
use crate::{
    metrics::Metrics,
    remotes::is_https,
    server::Caller,
    snapshot::Snapshot,
    status::StatusBoard,
    store::EtcdSettings,
    tokens::{NodeTokens, bearer_token},
    world::MeshView,
};

mod answer;
mod files;
mod listen;
mod nodes;
mod peers;
mod policies;
mod publishing;
mod remotes;
mod services;
mod status;

/// What the API shows and changes.
#[derive(Debug)]
pub struct Management {
    /// The own cluster.
    pub cluster: ClusterName,
    /// Who may call, proven by a certificate.
    pub operator: SpiffeId,
    /// Who may call, proven by a token.
    pub tokens: Option<NodeTokens>,
    /// The server's condition.
    pub status: Arc<StatusBoard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the nodes are given.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What each cluster says.
    pub mesh: watch::Receiver<Arc<MeshView>>,
    /// Who is connected.
    pub nodes: Arc<NodeBoard>,
    /// The files of the other clusters, if there may be any.
    pub remotes: Option<RemoteFiles>,
    /// Whether others may read this cluster.
    pub publishing: Arc<PublishingControl>,
    /// The own etcd, if there is one.
    pub etcd: Option<EtcdSettings>,
    /// Credentials for others.
    pub peers: Peers,
    /// The roots of the own trust domain.
    pub root_pem: String,
}

type Answer = Result<Response<Full<Bytes>>, Refusal>;

impl Management {
    /// Answers one request, whatever it is.
    async fn answer(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let answered = match self.admit(caller, &request).await {
            Ok(operator) => self.act(&operator, request).await,
            Err(refusal) => Err(refusal),
        };
        Ok(answered.map_or_else(
            |refusal| {
                self.metrics.count_management(refusal.reason);
                refusal.answer()
            },
            |answer| {
                self.metrics.count_management("done");
                answer
            },
        ))
    }

    /// Who the caller is, for the log.
    async fn admit<B>(&self, caller: &Caller, request: &Request<B>) -> Result<String, Refusal> {
        if caller.is_expired() {
            return Err(Refusal::stranger());
        }
        if let Some(peer) = &caller.peer {
            return if peer.id == self.operator {
                Ok(peer.id.to_string())
            } else {
                Err(Refusal::forbidden(format!(
                    "{} may not manage the cluster: expected {}",
                    peer.id, self.operator
                )))
            };
        }
        let value = request.headers().get(header::AUTHORIZATION);
        let token = value.and_then(|value| bearer_token(value.as_bytes()));
        let (Some(tokens), Some(token)) = (&self.tokens, token) else {
            return Err(Refusal::stranger());
        };
        let name = tokens.node_of(token).await;
        name.map(|name| format!("operator {name}"))
            .ok_or_else(Refusal::stranger)
    }

    async fn act(&self, operator: &str, request: Request<Incoming>) -> Answer {
        let done = timeout(REQUEST_TIMEOUT, self.route(operator, request)).await;
        done.unwrap_or_else(|_| Err(Refusal::late()))
    }

    async fn route(&self, operator: &str, request: Request<Incoming>) -> Answer {
        let method = request.method().clone();
        let address = request.uri().path().to_owned();
        if method != Method::GET {
            tracing::info!(operator, %method, path = address, "an order");
        }
        let below = |prefix: &str| -> Option<Vec<String>> {
            let rest = address.strip_prefix(prefix)?;
            let rest = rest.strip_prefix('/').or((rest.is_empty()).then_some(""))?;
            let words = rest.split('/').filter(|word| !word.is_empty());
            Some(words.map(str::to_owned).collect())
        };
        if let Some(words) = below(path::SERVICES) {
            only(&method, &[Method::GET])?;
            return self.services(&words, request.uri().query());
        }
        if let Some(words) = below(path::REMOTES).filter(|words| !words.is_empty()) {
            only(&method, &[Method::PUT, Method::DELETE])?;
            return self.change_remote(&one_cluster(&words)?, request).await;
        }
        if let Some(words) = below(path::PEERS).filter(|words| !words.is_empty()) {
            only(&method, &[Method::POST, Method::DELETE])?;
            return self.change_peer(&one_cluster(&words)?, &method).await;
        }
        match address.as_str() {
            path::STATUS => {
                only(&method, &[Method::GET])?;
                Ok(done(&self.facts().status()))
            }
            path::NODES => {
                only(&method, &[Method::GET])?;
                Ok(done(&self.facts().nodes()))
            }
            path::ACCESS => {
                only(&method, &[Method::GET])?;
                Ok(done(&self.access().await?))
            }
            path::POLICIES => {
                only(&method, &[Method::GET])?;
                self.policies(|policies| Ok(policies.list())).await
            }
            path::EXPLAIN => {
                only(&method, &[Method::POST])?;
                let question: ExplainQuestion = read_body(request).await?;
                let explain = move |policies: &policies::Policies| policies.explain(&question);
                self.policies(explain).await
            }
            path::PUBLISHING => {
                only(&method, &[Method::PUT])?;
                self.publish(read_body(request).await?).await
            }
            _ => Err(Refusal::not_found(
                "there is no such page; /v1/status is one".to_owned(),
            )),
        }
    }

    /// Compiles for this one answer, off the runtime: that takes as long as the mesh is large.
    async fn policies<T, F>(&self, answer: F) -> Answer
    where
        T: serde::Serialize + Send + 'static,
        F: FnOnce(&policies::Policies) -> Result<T, policies::ExplainError> + Send + 'static,
    {
        let policies = policies::Policies {
            cluster: self.cluster.clone(),
            directory: self.snapshots.borrow().directory.clone(),
        };
        let answered = tokio::task::spawn_blocking(move || answer(&policies)).await;
        let answered = answered.map_err(|error| Refusal::failed("ask the policies", &error))?;
        let answered = answered.map_err(|error| Refusal::not_found(error.to_string()))?;
        Ok(done(&answered))
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            management: self,
            snapshot: Arc::clone(&self.snapshots.borrow()),
            mesh: Arc::clone(&self.mesh.borrow()),
        }
    }

    fn services(&self, words: &[String], query: Option<&str>) -> Answer {
        let facts = self.facts();
        let services = facts.services();
        let [namespace, name] = words else {
            return if words.is_empty() {
                Ok(done(&services.list()))
            } else {
                Err(Refusal::not_found(
                    "a service is named by /<namespace>/<name>".to_owned(),
                ))
            };
        };
        let node = query.and_then(|q| q.split('&').find_map(|pair| pair.strip_prefix("node=")));
        let warnings = facts.warnings_of(namespace, name);
        if let Some(detail) = services.detail(namespace, name, node, warnings) {
            return Ok(done(&detail));
        }
        let others = services.elsewhere(namespace, name);
        let others: Vec<&str> = others.iter().map(|name| name.as_str()).collect();
        let hint = match others.as_slice() {
            [] => String::new(),
            others => format!(
                "; {} has it, but a service is used only where a Service object of its name is",
                others.join(", ")
            ),
        };
        Err(Refusal::not_found(format!(
            "cluster {} has no service {name} in namespace {namespace}{hint}",
            self.cluster
        )))
    }

    async fn change_remote(&self, name: &ClusterName, request: Request<Incoming>) -> Answer {
        let Some(files) = &self.remotes else {
            return Err(Refusal::conflict(format!(
                "cluster {} can read no other: its xds-server was started without --remotes",
                self.cluster
            )));
        };
        let changed = if request.method() == Method::PUT {
            let remote: RemoteCluster = read_body(request).await?;
            files.put(name, remote).await?
        } else {
            files.remove(name).await?
        };
        Ok(done(&Changed { changed }))
    }

    async fn change_peer(&self, peer: &ClusterName, method: &Method) -> Answer {
        if method == Method::DELETE {
            let changed = self.peers.revoke(&self.cluster, peer).await?;
            return Ok(done(&Changed { changed }));
        }
        if *peer == self.cluster {
            return Err(Refusal::conflict(format!(
                "cluster {peer} cannot be connected with itself"
            )));
        }
        let access = self.access().await?;
        if !access.publishing {
            return Err(Refusal::conflict(format!(
                "cluster {} does not publish its state; `tulle clustermesh enable` makes it",
                self.cluster
            )));
        }
        let credentials = self.peers.issue(&self.cluster, peer).await?;
        Ok(done(&PeerAccess {
            access,
            user: credentials.user,
            cert: credentials.cert,
            key: credentials.key,
        }))
    }

    async fn access(&self) -> Result<Access, Refusal> {
        let status = self.status.read();
        let Some(etcd) = &self.etcd else {
            return Err(Refusal::conflict(format!(
                "cluster {} has no etcd, so nobody can read it; its xds-server needs --store etcd",
                self.cluster
            )));
        };
        let ca = etcd.ca.read().await;
        let ca = ca.map_err(|error| Refusal::failed("read the roots of the own etcd", &error))?;
        let ca = String::from_utf8_lossy(&ca).into_owned();
        let wish = self.publishing.wish();
        Ok(Access {
            cluster: self.cluster.to_string(),
            cluster_id: status.cluster_id,
            trust_domain: status.trust_domain.to_string(),
            publishing: wish.enabled,
            endpoints: self.publishing.endpoints(),
            ca,
            bundle: self.root_pem.clone(),
        })
    }

    async fn publish(&self, order: Publishing) -> Answer {
        if self.etcd.is_none() {
            return Err(Refusal::conflict(format!(
                "cluster {} cannot publish: its xds-server was started without --store etcd",
                self.cluster
            )));
        }
        let mut wish = self.publishing.wish();
        wish.enabled = order.enabled;
        if let Some(endpoints) = order.endpoints {
            let bad = endpoints.iter().find(|e| !is_https(e));
            if endpoints.is_empty() || bad.is_some() {
                return Err(Refusal::bad_request(format!(
                    "{:?} is not an endpoint: expected https://host:port",
                    bad.map_or("", String::as_str)
                )));
            }
            wish.endpoints = Some(endpoints);
        }
        let changed = self.publishing.set(wish).await;
        let changed = changed.map_err(|error| Refusal::failed("keep the wish", &error))?;
        Ok(done(&Changed { changed }))
    }
}

fn only(method: &Method, allowed: &[Method]) -> Result<(), Refusal> {
    if allowed.contains(method) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    Err(Refusal::method(&names.join(" and ")))
}

fn one_cluster(words: &[String]) -> Result<ClusterName, Refusal> {
    let [name] = words else {
        return Err(Refusal::not_found(
            "one cluster's name is expected at the end of the address".to_owned(),
        ));
    };
    name.parse()
        .map_err(|error: tulle_model::ParseClusterError| Refusal::bad_request(error.to_string()))
}

async fn read_body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX)
        .collect()
        .await;
    let bytes = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Refusal::too_large(BODY_BYTES_MAX)
        } else {
            Refusal::bad_request("the content did not arrive whole".to_owned())
        }
    })?;
    serde_json::from_slice(&bytes.to_bytes())
        .map_err(|error| Refusal::bad_request(format!("the content is not as expected: {error}")))
}

/// Three PEM texts of several certificates each fit in.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Making an etcd user takes five requests of at most five seconds, usually some milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
