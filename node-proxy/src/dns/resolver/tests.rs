use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::BoxFuture;
use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use tulle_model::Directory;
use tulle_policy::compiled::LearnedNames;

use super::{
    super::{
        DnsContext, NameKeeper, NameLimits, NameQuestion, NameRules, NameVerdict, PodDns,
        forward::Forwarder, message::Transport,
    },
    Resolver, Step,
};
use crate::{
    health::{Failure, Health, Witness},
    metrics::{DnsMetrics, QueryOutcome},
    netns::NamespaceHandle,
    pods::{PodDescriptor, PodSockmap},
    published::Published,
    testing::{Fixture, pod, service, serving},
};

/// A pod's DNS server on loopback, and what it counts.
struct Scene {
    dns: PodDns,
    directory: Published<Directory>,
    health: Arc<Health>,
    metrics: Arc<DnsMetrics>,
}

impl Scene {
    fn new() -> Self {
        let mut mesh = Fixture::default();
        mesh.add_service(service("default", "rebel-base", &["172.20.1.7"]));
        let db = service("data", "db", &[]);
        let key = db.key();
        mesh.add_service(db);
        for n in 0..100 {
            let (name, address) = (format!("db-{n}"), format!("10.1.1.{n}"));
            mesh.add_pod(serving(pod("koornacht", "data", &name, &[&address]), &key));
        }
        let metrics = Arc::new(DnsMetrics::default());
        let directory = Published::fixed(mesh.directory());
        let health = Arc::<Health>::default();
        let context = DnsContext {
            directory: directory.clone(),
            health: Arc::clone(&health),
            cluster: "koornacht".parse().unwrap(),
            node: "koornacht-worker".to_owned(),
            metrics: Arc::clone(&metrics),
            names: None,
        };
        let namespace = NamespaceHandle::open(Path::new("/proc/self/ns/net")).unwrap();
        let listen: [SocketAddr; 1] = ["127.0.0.1:0".parse().unwrap()];
        let dns = PodDns::start(
            Arc::new(context),
            &descriptor(),
            Arc::new(namespace),
            &listen,
        )
        .unwrap();
        Scene {
            dns,
            directory,
            health,
            metrics,
        }
    }

    async fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.dns.addresses()[0]).await.unwrap();
        socket
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.dns.addresses()[1]).await.unwrap()
    }
}

fn descriptor() -> PodDescriptor {
    PodDescriptor {
        uid: "u".to_owned(),
        name: "x-wing".to_owned(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        addresses: vec!["10.1.1.5".parse().unwrap()],
        netns: "/proc/self/ns/net".into(),
        nameservers: Vec::new(),
        search: Vec::new(),
        sockmap: PodSockmap::Auto,
    }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(crate::testing::DEADLINE, socket.recv(&mut buffer));
    let len = received.await.unwrap().unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

async fn receive_framed(stream: &mut TcpStream) -> Message {
    let len = stream.read_u16().await.unwrap();
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await.unwrap();
    Message::from_vec(&message).unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(message.len()).unwrap().to_be_bytes(),
        message,
    ]
    .concat()
}

#[tokio::test]
async fn a_service_is_answered_by_udp() {
    let scene = Scene::new();
    let socket = scene.udp().await;
    socket.send(&query(1, "rebel-base.")).await.unwrap();
    let answer = receive(&socket).await;
    assert_eq!(answer.answers[0].data.to_string(), "172.20.1.7");
    assert_eq!(scene.metrics.queries(QueryOutcome::Answered), 1);
}

/// The same book as the kernel's tables and the proxy's own choices.
#[tokio::test]
async fn an_answer_is_without_endpoints_that_failed() {
    let scene = Scene::new();
    let mut stream = scene.tcp().await;
    let mut count = async || {
        let question = framed(&query(1, "db.data."));
        stream.write_all(&question).await.unwrap();
        receive_framed(&mut stream).await.answers.len()
    };
    let fail = |n: u8| {
        let (own, directory) = ("koornacht".parse().unwrap(), scene.directory.snapshot());
        let endpoint = SocketAddr::from(([10, 1, 1, n], 8080));
        let (failure, witness) = (Failure::Refused, Witness::Kernel);
        scene
            .health
            .record_failure(&own, &directory, endpoint, failure, witness);
    };
    assert_eq!(count().await, 100);
    fail(7);
    assert_eq!(count().await, 99);
    scene.health.record_success(([10, 1, 1, 7], 8080).into());
    assert_eq!(count().await, 100);
}

#[tokio::test]
async fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
    let scene = Scene::new();
    let socket = scene.udp().await;
    socket.send(&query(1, "db.data.")).await.unwrap();
    assert!(receive(&socket).await.metadata.truncation);
    let mut stream = scene.tcp().await;
    stream
        .write_all(&framed(&query(2, "db.data.")))
        .await
        .unwrap();
    let answer = receive_framed(&mut stream).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 100);
}

#[tokio::test]
async fn questions_by_tcp_may_follow_each_other_at_once() {
    let scene = Scene::new();
    let mut stream = scene.tcp().await;
    let all: Vec<u8> = (0..200)
        .flat_map(|id| framed(&query(id, "rebel-base.default.")))
        .collect();
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&all).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reading = async {
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let ((), mut bytes) = tokio::join!(writing, reading);
    let mut ids = std::collections::BTreeSet::new();
    while !bytes.is_empty() {
        let rest = bytes.split_off(2);
        let len = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        ids.insert(Message::from_vec(&rest[..len]).unwrap().metadata.id);
        bytes = rest[len..].to_vec();
    }
    assert_eq!(ids.len(), 200);
}

#[tokio::test]
async fn without_a_resolver_other_names_are_servfail() {
    let scene = Scene::new();
    let socket = scene.udp().await;
    socket.send(&query(9, "example.com.")).await.unwrap();
    let answer = receive(&socket).await;
    assert_eq!(answer.metadata.id, 9);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(scene.metrics.queries(QueryOutcome::Forwarded), 1);
}

#[tokio::test]
async fn garbage_is_counted_and_the_server_lives() {
    let scene = Scene::new();
    let socket = scene.udp().await;
    for len in 0..50_u8 {
        socket.send(&vec![len; usize::from(len)]).await.unwrap();
    }
    let mut stream = scene.tcp().await;
    stream.write_all(&[0xff; 2000]).await.unwrap();
    let mut rest = Vec::new();
    // Closed by the server, in order or by reset.
    let _closed = stream.read_to_end(&mut rest).await;
    let last = scene.udp().await;
    last.send(&query(1, "rebel-base.")).await.unwrap();
    assert_eq!(receive(&last).await.answers.len(), 1);
    let refused = [
        QueryOutcome::Dropped,
        QueryOutcome::Malformed,
        QueryOutcome::NotImplemented,
    ];
    let count: u64 = refused
        .iter()
        .map(|outcome| scene.metrics.queries(*outcome))
        .sum();
    assert!(count >= 50, "{count}");
}

#[tokio::test]
async fn more_connections_than_places_are_closed() {
    let scene = Scene::new();
    let mut streams = Vec::new();
    for _ in 0..80 {
        streams.push(scene.tcp().await);
    }
    let metrics = Arc::clone(&scene.metrics);
    crate::testing::until("connections are refused", || {
        metrics.queries(QueryOutcome::Busy) >= 16
    })
    .await;
    let first = &mut streams[0];
    first
        .write_all(&framed(&query(3, "rebel-base.")))
        .await
        .unwrap();
    assert_eq!(receive_framed(first).await.answers.len(), 1);
}

/// A resolver that knows one address of `db.example.org` and nothing else, and says whatever it is asked.
async fn other_resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = socket.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..len]).unwrap();
            message.metadata.message_type = hickory_proto::op::MessageType::Response;
            let name = message.queries[0].name().clone();
            if name.to_string() == "db.example.org." {
                let data = hickory_proto::rr::RData::from(std::net::Ipv4Addr::new(192, 0, 2, 7));
                message.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
            } else {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            socket
                .send_to(&message.to_vec().unwrap(), client)
                .await
                .unwrap();
        }
    });
    address
}

/// The answer to an application's question holds the alias and the address, as its stub resolver needs it.
#[tokio::test]
async fn an_external_name_is_answered_with_its_address() {
    let mut mesh = Fixture::default();
    for (name, target) in [("db", "db.example.org"), ("gone", "gone.example.org")] {
        let mut alias = service("default", name, &[]);
        alias.external_name = Some(target.to_owned());
        mesh.add_service(alias);
    }
    let metrics = Arc::new(DnsMetrics::default());
    let context = DnsContext {
        directory: Published::fixed(mesh.directory()),
        health: Arc::default(),
        cluster: "koornacht".parse().unwrap(),
        node: "koornacht-worker".to_owned(),
        metrics: Arc::clone(&metrics),
        names: None,
    };
    let forwarder = Forwarder {
        namespace: Arc::new(NamespaceHandle::open(Path::new("/proc/self/ns/net")).unwrap()),
        nameservers: vec![other_resolver().await],
        limits: Default::default(),
        metrics: Arc::clone(&metrics),
        silent_until: Default::default(),
    };
    let resolver = Resolver::new(Arc::new(context), descriptor(), forwarder);
    let ask = async |name: &str| {
        let Step::Wait(waiting) = resolver.take(&query(5, name), Transport::Udp) else {
            panic!("another resolver has to be asked");
        };
        Message::from_vec(&resolver.finish(waiting).await.unwrap()).unwrap()
    };
    let answer = ask("db.").await;
    assert_eq!(answer.metadata.id, 5);
    assert_eq!(answer.queries[0].name().to_string(), "db.");
    let records: Vec<_> = answer
        .answers
        .iter()
        .map(|r| format!("{} {}", r.name, r.data))
        .collect();
    assert_eq!(
        records,
        ["db. db.example.org.", "db.example.org. 192.0.2.7"]
    );
    let answer = ask("gone.default.svc.cluster.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(metrics.queries(QueryOutcome::Forwarded), 2);
}

/// Allows questions about names that begin with `db`, once the pod is known.
#[derive(Default)]
struct OnlyDb {
    known: AtomicBool,
}

impl NameRules for OnlyDb {
    fn judge(&self, question: &NameQuestion<'_>) -> NameVerdict {
        if !self.known.load(Ordering::Relaxed) {
            NameVerdict::NotYet
        } else if question.name.starts_with("db") {
            NameVerdict::Allowed
        } else if question.name.starts_with("far") {
            NameVerdict::Unreachable("no rule allows the resolver".to_owned())
        } else {
            NameVerdict::Forbidden("no rule allows the name".to_owned())
        }
    }

    fn settled(&self, _pod: IpAddr) -> BoxFuture<'_, ()> {
        self.known.store(true, Ordering::Relaxed);
        Box::pin(async {})
    }

    fn install(&self, _names: LearnedNames) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }
}

#[tokio::test]
async fn names_that_no_rule_allows_are_refused() {
    let metrics = Arc::new(DnsMetrics::default());
    let mut mesh = Fixture::default();
    mesh.add_service(service("default", "rebel-base", &["172.20.1.7"]));
    let directory = Published::fixed(mesh.directory());
    let names = NameKeeper::new(
        Arc::new(OnlyDb::default()),
        directory.clone(),
        Arc::clone(&metrics),
        None,
        NameLimits::default(),
    );
    let context = DnsContext {
        directory,
        health: Arc::default(),
        cluster: "koornacht".parse().unwrap(),
        node: "koornacht-worker".to_owned(),
        metrics: Arc::clone(&metrics),
        names: Some(Arc::new(names)),
    };
    let forwarder = Forwarder {
        namespace: Arc::new(NamespaceHandle::open(Path::new("/proc/self/ns/net")).unwrap()),
        nameservers: vec![other_resolver().await],
        limits: Default::default(),
        metrics: Arc::clone(&metrics),
        silent_until: Default::default(),
    };
    let resolver = Resolver::new(Arc::new(context), descriptor(), forwarder);
    let Step::Wait(waiting) = resolver.take(&query(5, "db.example.org."), Transport::Udp) else {
        panic!("the rules have to be waited for");
    };
    let answer = Message::from_vec(&resolver.finish(waiting).await.unwrap()).unwrap();
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(metrics.queries(QueryOutcome::Forwarded), 1);
    for name in ["bank.org.", "rebel-base.default.svc.cluster.local."] {
        let Step::Reply(reply) = resolver.take(&query(6, name), Transport::Tcp) else {
            panic!("the question has to be refused");
        };
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        assert_eq!(reply.metadata.id, 6);
    }
    let step = resolver.take(&query(7, "far.org."), Transport::Udp);
    assert!(matches!(step, Step::Drop));
    assert_eq!(metrics.queries(QueryOutcome::Forbidden), 2);
    assert_eq!(metrics.queries(QueryOutcome::Denied), 1);
}
