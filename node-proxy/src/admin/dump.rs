//! Everything that the proxy knows, as JSON, written piece by piece: the dump of a large mesh never lies in memory whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use serde::{Serialize, Serializer};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tulle_balance::{Ejected, Endpoint, SpillState, Viewpoint, select};
use tulle_identity::{MeshTls, SvidManager, SvidStatus};
use tulle_model::{ClusterName, Directory, Health, Locality, Service, TrustDomain, Workload};

use crate::{
    kernel_sync::{KernelSyncStatus, table::NodeView},
    pods::{PodState, PodStatus, PodsView},
    policy::{RecentVerdict, RecentVerdicts},
    published::Published,
    xds::XdsStatus,
};

/// Where the dump comes from.
pub struct DumpSources {
    /// From where the mesh is seen.
    pub node: NodeView,
    /// The trust domain of this cluster.
    pub trust_domain: TrustDomain,
    /// The mesh view.
    pub directory: Published<Directory>,
    /// The stream from the xds-server.
    pub xds: Published<XdsStatus>,
    /// The kernel's tables.
    pub kernel: Published<KernelSyncStatus>,
    /// What connections found out about endpoints.
    pub health: Arc<crate::health::Health>,
    /// The pods of this node.
    pub pods: Published<PodsView>,
    /// Certificates.
    pub svids: Arc<SvidManager>,
    /// Trust.
    pub tls: Arc<MeshTls>,
    /// What policy denied last.
    pub recent: Arc<RecentVerdicts>,
}

/// A body that is written while it is read; `place` is held until its end.
pub(super) fn stream(
    sources: Arc<DumpSources>,
    place: OwnedSemaphorePermit,
) -> BoxBody<Bytes, Infallible> {
    let (chunks, queue) = mpsc::channel(CHUNKS_MAX);
    // On a thread of its own: it waits for the reader.
    tokio::task::spawn_blocking(move || {
        let mut writer = ChunkWriter {
            chunks,
            chunk: BytesMut::new(),
        };
        let written = serde_json::to_writer_pretty(&mut writer, &Dump::of(&sources))
            .map_err(io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .and_then(|()| writer.flush());
        if let Err(error) = written {
            tracing::debug!(%error, "a dump ended early");
        }
        drop(place);
    });
    BodyExt::boxed(StreamBody::new(
        ReceiverStream::new(queue).map(|chunk| Ok(Frame::data(chunk))),
    ))
}

/// Hands on what is written in chunks; fails when the reader is gone.
struct ChunkWriter {
    chunks: mpsc::Sender<Bytes>,
    chunk: BytesMut,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = self.chunk.split().freeze();
        self.chunks
            .blocking_send(chunk)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The dump, in the order in which it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump<'a> {
    version: &'static str,
    cluster: &'a str,
    node: &'a str,
    trust_domain: &'a str,
    xds: XdsStatus,
    kernel: KernelDump,
    /// Endpoints that are left out, since connections to them failed.
    ejected: BTreeSet<SocketAddr>,
    /// Clusters that are avoided until one of their endpoints answers.
    suspected: BTreeSet<ClusterName>,
    pods: BTreeMap<String, PodDump>,
    /// What policy denied, or would deny were it enforced; the newest first.
    recent_verdicts: Vec<RecentVerdict>,
    certificates: Vec<CertificateDump>,
    trust_bundles: BTreeMap<String, Option<String>>,
    #[serde(flatten)]
    mesh: MeshDump<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelDump {
    applied: u64,
    last_error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodDump {
    #[serde(flatten)]
    descriptor: crate::pods::PodDescriptor,
    state: &'static str,
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateDump {
    id: String,
    serial: Option<String>,
    not_before: Option<u64>,
    not_after: Option<u64>,
    last_error: Option<String>,
}

/// The large part: written from the snapshot, one item at a time.
#[derive(Serialize)]
struct MeshDump<'a> {
    services: Services<'a>,
    workloads: Workloads,
    policies: Policies,
}

struct Services<'a> {
    directory: Arc<Directory>,
    node: &'a NodeView,
    ejected: Arc<Ejected>,
}
struct Workloads(Arc<Directory>);
struct Policies(Arc<Directory>);

impl<'a> Dump<'a> {
    fn of(sources: &'a DumpSources) -> Self {
        let directory = sources.directory.snapshot();
        let kernel = sources.kernel.snapshot();
        let ejected = sources.health.ejected();
        let bundles = sources.tls.bundles();
        let pods = sources.pods.snapshot();
        let roots = |domain: &TrustDomain| {
            (
                domain.to_string(),
                bundles.roots_pem(domain).map(str::to_owned),
            )
        };
        Dump {
            version: env!("CARGO_PKG_VERSION"),
            cluster: sources.node.cluster.as_str(),
            node: &sources.node.node,
            trust_domain: sources.trust_domain.as_str(),
            xds: (*sources.xds.snapshot()).clone(),
            kernel: KernelDump {
                applied: kernel.applied,
                last_error: kernel.last_error.clone(),
            },
            ejected: ejected.addresses().collect(),
            suspected: ejected.clusters().cloned().collect(),
            pods: pods
                .pods
                .iter()
                .map(|(key, pod)| (key.clone(), PodDump::of(pod)))
                .collect(),
            recent_verdicts: sources.recent.list(),
            certificates: sources
                .svids
                .list()
                .into_iter()
                .map(CertificateDump::of)
                .collect(),
            trust_bundles: bundles.domains().map(roots).collect(),
            mesh: MeshDump {
                services: Services {
                    directory: Arc::clone(&directory),
                    node: &sources.node,
                    ejected,
                },
                workloads: Workloads(Arc::clone(&directory)),
                policies: Policies(directory),
            },
        }
    }
}

impl PodDump {
    fn of(pod: &PodStatus) -> Self {
        let (state, error) = match &pod.state {
            PodState::Starting => ("starting", None),
            PodState::Captured => ("captured", None),
            PodState::Failed(error) => ("failed", Some(error.clone())),
            PodState::Draining => ("draining", None),
        };
        PodDump {
            descriptor: pod.descriptor.clone(),
            state,
            error,
        }
    }
}

impl CertificateDump {
    fn of(status: SvidStatus) -> Self {
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .map(|since| since.as_secs())
                .ok()
        };
        CertificateDump {
            id: status.id.to_string(),
            serial: status.serial,
            not_before: status.not_before.and_then(seconds),
            not_after: status.not_after.and_then(seconds),
            last_error: status.last_error,
        }
    }
}

/// A service with its endpoints, and whether each is chosen from here.
#[derive(Serialize)]
struct ServiceDump<'a> {
    #[serde(flatten)]
    service: &'a Service,
    endpoints: Vec<EndpointDump<'a>>,
}

#[derive(Serialize)]
struct EndpointDump<'a> {
    workload: &'a str,
    cluster: &'a str,
    addresses: &'a [std::net::IpAddr],
    healthy: bool,
    demoted: bool,
    chosen: bool,
}

impl Serialize for Services<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nowhere = Locality::default();
        let viewpoint = Viewpoint {
            cluster: &self.node.cluster,
            node: &self.node.node,
            locality: &nowhere,
        };
        let directory = &self.directory;
        serializer.collect_seq(directory.services().map(|service| {
            let key = service.key();
            let chosen = chosen(viewpoint, directory, service, &self.ejected);
            let endpoint = |workload: &'_ Arc<Workload>| chosen.contains(&*workload.uid.0);
            let endpoints = directory.endpoints(&key).map(|workload| EndpointDump {
                workload: &workload.uid.0,
                cluster: workload.cluster.as_str(),
                addresses: &workload.addresses,
                healthy: workload.health == Health::Healthy,
                demoted: workload.demoted,
                chosen: endpoint(workload),
            });
            ServiceDump {
                service,
                endpoints: endpoints.collect(),
            }
        }))
    }
}

/// Who serves at least one port of the service: as the kernel's tables have it, but for spill-over, which remembers.
fn chosen<'a>(
    from: Viewpoint<'_>,
    directory: &'a Directory,
    service: &Service,
    ejected: &Ejected,
) -> HashSet<&'a str> {
    let key = service.key();
    let mut chosen = HashSet::new();
    for port in &service.ports {
        for is_ipv4 in [true, false] {
            let able = directory.endpoints(&key).filter_map(|workload| {
                let mut addresses = workload.serving_addresses(&key, port);
                let address = addresses.find(|address| address.is_ipv4() == is_ipv4)?;
                Some(Endpoint { workload, address })
            });
            let selection = select(from, service, able, ejected, &SpillState::default());
            chosen.extend(selection.serving.iter().map(|one| &*one.workload.uid.0));
        }
    }
    chosen
}

impl Serialize for Workloads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.workloads().map(Arc::as_ref))
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.policies().map(Arc::as_ref))
    }
}

/// Chunks between the writer and a slow reader.
const CHUNKS_MAX: usize = 4;
const CHUNK_LEN: usize = 64 * 1024;
