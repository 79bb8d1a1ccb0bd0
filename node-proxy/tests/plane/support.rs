//! Two planes on one loopback, and applications to talk through them.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tulle_datapath::{
    AnnouncePeerError, CapturePodError, Counter, NetnsCookie, OriginalDestination, PodCapture,
    ReleasePodError, SocketCookie,
};
use tulle_identity::{
    FetchSvidError, MeshTls, Svid, SvidManager, SvidManagerSettings, SvidSource, TrustBundles,
    testing::{Forge, bundles},
};
use tulle_model::{
    Change, ClusterName, Directory, Health, Locality, SmallMap, SpiffeId, TrustDomain,
    TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};
use tulle_node_proxy::{
    netns::NamespaceHandle,
    plane::{Kernel, Plane, PlaneMetrics, PlaneSettings, Ports, SharedState},
    pod::PodProxy,
    pods::{PodDescriptor, PodSockmap},
    policy::{PolicyMetrics, PolicyView},
    published::{Published, Publisher},
};
use tulle_policy::compiled::{Compiler, CompilerSettings, LearnedNames, Limits, PolicyTouched};

/// The addresses of the two pods.
pub(crate) const A: &str = "127.0.10.1";
pub(crate) const B: &str = "127.0.20.2";

/// A kernel that knows what the test tells it.
#[derive(Default)]
pub(crate) struct FakeKernel {
    destinations: Mutex<HashMap<SocketAddr, OriginalDestination>>,
    announced: Mutex<Vec<SocketAddr>>,
    steered: Mutex<Option<SocketAddr>>,
}

impl FakeKernel {
    /// The peers that applications were told of.
    pub(crate) fn announced(&self) -> Vec<SocketAddr> {
        self.announced.lock().unwrap().clone()
    }

    /// Where plaintext connections are said to have been going from now on.
    pub(crate) fn steer_to(&self, destination: SocketAddr) {
        *self.steered.lock().unwrap() = Some(destination);
    }
}

impl Kernel for FakeKernel {
    fn original_destination(
        &self,
        _netns: NetnsCookie,
        downstream: SocketAddr,
    ) -> Option<OriginalDestination> {
        self.destinations.lock().unwrap().get(&downstream).copied()
    }

    fn inbound_destination(&self, local: SocketAddr) -> SocketAddr {
        self.steered.lock().unwrap().unwrap_or(local)
    }

    fn announce_peer(
        &self,
        _socket: SocketCookie,
        peer: SocketAddr,
    ) -> Result<(), AnnouncePeerError> {
        self.announced.lock().unwrap().push(peer);
        Ok(())
    }

    fn capture_pod(&self, _pod: &PodCapture<'_>) -> Result<(), CapturePodError> {
        Ok(())
    }

    fn release_pod(&self, _uid: &str) -> Result<(), ReleasePodError> {
        Ok(())
    }

    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }
}

/// A wall clock that can be set forward; certificates begin and end by the real one.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<Mutex<Duration>>);

impl Clock {
    fn now(&self) -> SystemTime {
        SystemTime::now() + *self.0.lock().unwrap()
    }

    pub(crate) fn set_forward(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

/// An authority inside the process.
struct ForgedSource {
    forge: Arc<Forge>,
    life: Arc<Mutex<Duration>>,
}

#[async_trait::async_trait]
impl SvidSource for ForgedSource {
    async fn fetch(&self, id: &SpiffeId) -> Result<Svid, FetchSvidError> {
        let life = *self.life.lock().unwrap();
        let svid = self.forge.svid_for(id, life).expect("a certificate");
        Ok(Arc::into_inner(svid).expect("nobody else holds it"))
    }
}

/// One node with one pod.
pub(crate) struct Node {
    pub(crate) plane: Arc<Plane>,
    pub(crate) proxy: PodProxy,
    pub(crate) kernel: Arc<FakeKernel>,
    pub(crate) namespace: NamespaceHandle,
    pub(crate) clock: Clock,
    life: Arc<Mutex<Duration>>,
}

/// Where a pod is.
pub(crate) struct Site {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) netns: PathBuf,
}

impl Site {
    fn on_loopback(ip: &str) -> Self {
        Site {
            addresses: vec![ip.parse().unwrap()],
            netns: PathBuf::from("/proc/self/ns/net"),
        }
    }
}

/// What both nodes share in a test.
struct Commons {
    metrics: Arc<PlaneMetrics>,
    policy_metrics: Arc<PolicyMetrics>,
    directory: Published<Directory>,
    bundles: Arc<TrustBundles>,
    settings: PlaneSettings,
}

impl Node {
    async fn start(
        name: &str,
        site: Site,
        trust_domain: TrustDomain,
        forge: &Arc<Forge>,
        commons: &Commons,
    ) -> Self {
        let tls = MeshTls::new();
        tls.set_bundles(Arc::clone(&commons.bundles));
        let kernel = Arc::new(FakeKernel::default());
        let (clock, life) = (Clock::default(), Arc::new(Mutex::new(HOUR)));
        let source = Arc::new(ForgedSource {
            forge: Arc::clone(forge),
            life: Arc::clone(&life),
        });
        let svid_settings = SvidManagerSettings {
            clock: {
                let clock = clock.clone();
                Arc::new(move || clock.now())
            },
            ..SvidManagerSettings::default()
        };
        let cluster: ClusterName = name_of_cluster(name).parse().unwrap();
        let subject = WorkloadUid::of_pod(&cluster, "default", name);
        let policy = compiled(commons, &cluster, subject);
        let plane = Arc::new(Plane {
            directory: commons.directory.clone(),
            policy,
            svids: Arc::new(SvidManager::new(source, svid_settings)),
            tls: Arc::new(tls),
            kernel: Arc::clone(&kernel) as Arc<dyn Kernel>,
            settings: commons.settings.clone(),
            metrics: Arc::clone(&commons.metrics),
            node: format!("node-{name}"),
            cluster,
            trust_domain,
            shared: SharedState::default(),
        });
        let namespace = NamespaceHandle::open(&site.netns).unwrap();
        let pod = PodDescriptor {
            uid: format!("uid-{name}"),
            name: name.into(),
            namespace: "default".into(),
            service_account: name.into(),
            addresses: site.addresses,
            netns: site.netns,
            nameservers: Vec::new(),
            search: Vec::new(),
            sockmap: PodSockmap::Auto,
        };
        let proxy = PodProxy::start(Arc::clone(&plane), pod).await.unwrap();
        Node {
            plane,
            proxy,
            kernel,
            namespace,
            clock,
            life,
        }
    }

    /// From now on the pod proves itself by certificates that live so long.
    pub(crate) fn set_life(&self, life: Duration) {
        *self.life.lock().unwrap() = life;
        let identity = self.proxy.descriptor().identity(&self.plane.trust_domain);
        self.plane.svids.forget(&identity);
    }
}

/// The rules of one pod, compiled anew with every change of the mesh.
fn compiled(commons: &Commons, cluster: &ClusterName, subject: WorkloadUid) -> PolicyView {
    let directory = &commons.directory;
    let mut compiler = Compiler::new(CompilerSettings {
        cluster: cluster.clone(),
        node: "node".to_owned(),
        limits: Limits::default(),
    });
    let subjects = BTreeSet::from([subject]);
    let mut compile = move |directory: &Directory| {
        let everything = PolicyTouched {
            everything: true,
            ..PolicyTouched::default()
        };
        let names = LearnedNames::default();
        let _update = compiler.update(directory, &subjects, &names, &everything);
        compiler.policy()
    };
    let mut seen = directory.snapshot();
    let compiled = Publisher::from_arc(compile(&seen));
    let view = PolicyView {
        compiled: compiled.subscribe(),
        directory: directory.clone(),
        metrics: Arc::clone(&commons.policy_metrics),
        recent: Arc::default(),
    };
    let mut directory = directory.clone();
    let _follower = tokio::spawn(async move {
        while let Ok(next) = directory
            .wait_for(|next| !std::ptr::eq(next, Arc::as_ptr(&seen)))
            .await
        {
            compiled.publish_arc(compile(&next));
            seen = next;
        }
    });
    view
}

/// Two nodes of two trust domains; pod A connects to pod B.
pub(crate) struct Mesh {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) directory: Publisher<Directory>,
    pub(crate) forge_a: Arc<Forge>,
    pub(crate) forge_b: Arc<Forge>,
    registry: Registry,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts with changed settings, on both nodes.
    pub(crate) async fn with(change: impl Fn(&mut PlaneSettings)) -> Self {
        let settings = |settings: &mut PlaneSettings| {
            settings.ports = ANY_PORT;
            change(settings);
        };
        Self::between(Site::on_loopback(A), Site::on_loopback(B), settings).await
    }

    /// Starts without lanes: what foreign peers are given.
    pub(crate) async fn hbone_only() -> Self {
        Self::with(|settings| settings.lanes_per_destination_max = 0).await
    }

    /// Starts with changed settings, on pod A's node and on pod B's.
    pub(crate) async fn with_each(
        change_a: impl Fn(&mut PlaneSettings),
        change_b: impl Fn(&mut PlaneSettings),
    ) -> Self {
        let sites = (Site::on_loopback(A), Site::on_loopback(B));
        let settings_a = |settings: &mut PlaneSettings| {
            settings.ports = ANY_PORT;
            change_a(settings);
        };
        let settings_b = |settings: &mut PlaneSettings| {
            settings.ports = ANY_PORT;
            change_b(settings);
        };
        Self::between_each(sites, settings_a, settings_b).await
    }

    /// Starts with the pods where they are said to be.
    pub(crate) async fn between(a: Site, b: Site, change: impl Fn(&mut PlaneSettings)) -> Self {
        Self::between_each((a, b), &change, &change).await
    }

    async fn between_each(
        (a, b): (Site, Site),
        change_a: impl Fn(&mut PlaneSettings),
        change_b: impl Fn(&mut PlaneSettings),
    ) -> Self {
        let mut registry = Registry::default();
        let (domain_a, domain_b) = (domain("a.test"), domain("b.test"));
        let forge_a = Arc::new(Forge::new(&domain_a).unwrap());
        let forge_b = Arc::new(Forge::new(&domain_b).unwrap());
        let mut view = Directory::default();
        for (name, site, domain) in [("a", &a, &domain_a), ("b", &b, &domain_b)] {
            let mut workload = workload(name, A, domain);
            workload.addresses.clone_from(&site.addresses);
            view.apply(Change::Workload(Arc::new(workload)));
        }
        let directory = Publisher::new(view);
        let mut settings = PlaneSettings::default();
        change_b(&mut settings);
        let policy_metrics = Arc::new(PolicyMetrics::default());
        policy_metrics.register(&mut registry);
        let mut commons = Commons {
            policy_metrics,
            metrics: Arc::new(PlaneMetrics::register(&mut registry)),
            directory: directory.subscribe(),
            bundles: bundles(&[&forge_a, &forge_b]).unwrap(),
            settings,
        };
        let b = Node::start("b", b, domain_b, &forge_b, &commons).await;
        commons.settings = PlaneSettings::default();
        commons.settings.peer_hbone_port = b.proxy.addresses().hbone[0].port();
        change_a(&mut commons.settings);
        let a = Node::start("a", a, domain_a, &forge_a, &commons).await;
        Mesh {
            a,
            b,
            directory,
            forge_a,
            forge_b,
            registry,
        }
    }

    /// Where pod B takes tunnels.
    pub(crate) fn hbone(&self) -> SocketAddr {
        SocketAddr::new(B.parse().unwrap(), self.b.proxy.addresses().hbone[0].port())
    }

    /// Connects from an application of pod A as if the kernel had captured it.
    pub(crate) async fn connect(&self, destination: SocketAddr) -> TcpStream {
        self.connect_by(destination, destination).await
    }

    /// The same, for a service whose backend the kernel chose.
    pub(crate) async fn connect_by(&self, requested: SocketAddr, backend: SocketAddr) -> TcpStream {
        let capture = self.a.proxy.addresses().outbound.iter();
        let capture = *capture
            .clone()
            .find(|a| a.is_ipv4() == backend.is_ipv4())
            .unwrap();
        let socket = self.a.namespace.run_in(|| match capture {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        });
        let socket = socket.unwrap().unwrap();
        socket.bind(SocketAddr::new(capture.ip(), 0)).unwrap();
        let original = OriginalDestination {
            requested,
            backend,
            is_outside: false,
        };
        let own = socket.local_addr().unwrap();
        self.a
            .kernel
            .destinations
            .lock()
            .unwrap()
            .insert(own, original);
        let stream = socket.connect(capture).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The sum of all series of a metric whose line holds every one of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines()
            .filter(|line| line.starts_with(name) && !line.starts_with('#'))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub(crate) fn name_of_cluster(pod: &str) -> String {
    format!("cluster-{pod}")
}

/// A healthy workload of the mesh.
pub(crate) fn workload(name: &str, ip: &str, trust_domain: &TrustDomain) -> Workload {
    let cluster = name_of_cluster(name).parse().unwrap();
    Workload {
        uid: WorkloadUid::of_pod(&cluster, "default", name),
        name: name.into(),
        namespace: "default".into(),
        service_account: name.into(),
        trust_domain: trust_domain.clone(),
        cluster,
        node: format!("node-{name}").into(),
        addresses: vec![ip.parse().unwrap()],
        hostname: String::new().into(),
        labels: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        kind: WorkloadKind::Deployment,
        owner_name: name.into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: SmallMap::new(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        demoted: false,
    }
}

/// Listens as an application of pod B.
pub(crate) async fn listen_b() -> (TcpListener, SocketAddr) {
    let ip: IpAddr = B.parse().unwrap();
    let listener = TcpListener::bind(SocketAddr::new(ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Connects through the mesh and has a first byte answered, so that the whole path stands.
pub(crate) async fn pair(mesh: &Mesh, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let address = listener.local_addr().unwrap();
    let mut client = mesh.connect(address).await;
    client.write_all(b"?").await.unwrap();
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
    server.write_all(b"!").await.unwrap();
    client.read_exact(&mut [0; 1]).await.unwrap();
    (client, server)
}

/// One byte there and one back.
pub(crate) async fn round_trip(client: &mut TcpStream, server: &mut TcpStream) -> Duration {
    let began = Instant::now();
    client.write_all(b"?").await.unwrap();
    in_time("a request", server.read_exact(&mut [0; 1]))
        .await
        .unwrap();
    server.write_all(b"!").await.unwrap();
    in_time("an answer", client.read_exact(&mut [0; 1]))
        .await
        .unwrap();
    began.elapsed()
}

/// Polls until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Ends a future that takes too long with a message.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Both planes are on one loopback.
const ANY_PORT: Ports = Ports {
    outbound: 0,
    inbound: 0,
    hbone: 0,
    dns: 15053,
};
