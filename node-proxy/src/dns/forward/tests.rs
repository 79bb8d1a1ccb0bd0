use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};
use tulle_balance::{Ejected, Viewpoint};
use tulle_model::{Locality, Protocol};

use super::{ForwardLimits, Forwarder, Transport};
use crate::{
    dns::message::Question,
    metrics::DnsMetrics,
    netns::NamespaceHandle,
    testing::{Fixture, pod, service, serving},
};

fn forwarder(nameservers: Vec<SocketAddr>) -> Forwarder {
    Forwarder {
        namespace: Arc::new(NamespaceHandle::open(Path::new("/proc/self/ns/net")).unwrap()),
        nameservers,
        limits: ForwardLimits {
            attempt_timeout: Duration::from_millis(300),
            silent_attempt_timeout: Duration::from_millis(50),
            deadline: Duration::from_secs(5),
        },
        metrics: Arc::new(DnsMetrics::default()),
        silent_until: Mutex::new(None),
    }
}

fn question() -> (Question, Vec<u8>) {
    let mut message = Message::query();
    message.metadata.id = 77;
    let name = Name::from_ascii("example.com.").unwrap();
    message.add_query(Query::query(name, RecordType::A));
    let bytes = message.to_vec().unwrap();
    (Question::parse(&bytes).unwrap(), bytes)
}

/// What a resolver would say to `query`, with `count` addresses.
fn reply(query: &[u8], code: ResponseCode, count: u8) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = code;
    for n in 0..count {
        let name = message.queries[0].name().clone();
        let address = RData::from(Ipv4Addr::new(192, 0, 2, n));
        message.add_answer(Record::from_rdata(name, 60, address));
    }
    message.to_vec().unwrap()
}

/// A resolver whose replies to each datagram `script` makes.
async fn resolver(script: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = socket.recv_from(&mut buffer).await.unwrap();
            for reply in script(&buffer[..len]) {
                socket.send_to(&reply, client).await.unwrap();
            }
        }
    });
    address
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn ask(forwarder: &Forwarder, transport: Transport) -> Message {
    let (question, raw) = question();
    let answer = forwarder
        .ask(&forwarder.nameservers, &question, &raw, transport)
        .await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 77);
    answer
}

#[tokio::test]
async fn an_answer_comes_back_with_the_clients_id() {
    let address = resolver(|query| {
        assert_ne!(
            query[..2],
            77_u16.to_be_bytes(),
            "an id of ours, most likely"
        );
        vec![reply(query, ResponseCode::NoError, 1)]
    })
    .await;
    let answer = ask(&forwarder(vec![address]), Transport::Udp).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn forged_answers_are_ignored() {
    let address = resolver(|query| {
        let right = reply(query, ResponseCode::NoError, 1);
        let mut other_id = reply(query, ResponseCode::NoError, 9);
        other_id[0] ^= 1;
        let mut other_name = Message::from_vec(&reply(query, ResponseCode::NoError, 9)).unwrap();
        other_name.queries[0].set_name(Name::from_ascii("example.org.").unwrap());
        vec![
            other_id,
            other_name.to_vec().unwrap(),
            vec![1],
            query.to_vec(),
            right,
        ]
    })
    .await;
    let answer = ask(&forwarder(vec![address]), Transport::Udp).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_fails() {
    let unwilling = resolver(|query| vec![reply(query, ResponseCode::ServFail, 0)]).await;
    let willing = resolver(|query| vec![reply(query, ResponseCode::NoError, 1)]).await;
    let answer = ask(
        &forwarder(vec![nobody().await, unwilling, willing]),
        Transport::Udp,
    )
    .await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn a_lost_datagram_is_asked_again() {
    let seen = AtomicU32::new(0);
    let address = resolver(move |query| {
        if seen.fetch_add(1, Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        vec![reply(query, ResponseCode::NoError, 1)]
    })
    .await;
    let answer = ask(&forwarder(vec![address]), Transport::Udp).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn an_unreachable_resolver_is_servfail_at_once() {
    let started = Instant::now();
    let answer = ask(&forwarder(vec![nobody().await]), Transport::Udp).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let answer = ask(&forwarder(Vec::new()), Transport::Udp).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(
        started.elapsed() < Duration::from_millis(250),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_silent_resolver_is_servfail_within_the_deadline() {
    let silent = resolver(|_query| Vec::new()).await;
    let answer = ask(&forwarder(vec![silent]), Transport::Udp).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn after_a_silence_failures_are_known_sooner_and_answers_end_it() {
    let speaks = Arc::new(AtomicBool::new(false));
    let willing = Arc::clone(&speaks);
    let address = resolver(move |query| {
        let speaks = willing.load(Ordering::SeqCst);
        if speaks {
            vec![reply(query, ResponseCode::NoError, 1)]
        } else {
            Vec::new()
        }
    })
    .await;
    let forwarder = forwarder(vec![address]);
    let servfail = async |forwarder: &Forwarder| {
        let started = Instant::now();
        let answer = ask(forwarder, Transport::Udp).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        started.elapsed()
    };
    assert!(servfail(&forwarder).await >= Duration::from_millis(600));
    assert!(servfail(&forwarder).await < Duration::from_millis(300));
    speaks.store(true, Ordering::SeqCst);
    assert_eq!(ask(&forwarder, Transport::Udp).await.answers.len(), 1);
    assert!(forwarder.silent_until.lock().unwrap().is_none());
}

#[tokio::test]
async fn refusals_pass_through_when_nobody_knows_better() {
    let unwilling = resolver(|query| vec![reply(query, ResponseCode::Refused, 0)]).await;
    let answer = ask(&forwarder(vec![unwilling]), Transport::Udp).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn an_answer_longer_than_the_client_takes_is_cut() {
    let talker = resolver(|query| vec![reply(query, ResponseCode::NoError, 100)]).await;
    let answer = ask(&forwarder(vec![talker]), Transport::Udp).await;
    assert!(answer.metadata.truncation);
    assert!(answer.answers.is_empty());
}

#[tokio::test]
async fn a_question_by_tcp_is_asked_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let len = stream.read_u16().await.unwrap();
        let mut query = vec![0; usize::from(len)];
        stream.read_exact(&mut query).await.unwrap();
        let answer = reply(&query, ResponseCode::NoError, 200);
        stream
            .write_u16(u16::try_from(answer.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    let answer = ask(&forwarder(vec![address]), Transport::Tcp).await;
    assert_eq!(answer.answers.len(), 200);
}

#[tokio::test]
async fn a_resolver_that_is_a_service_is_asked_at_its_endpoints() {
    let mut mesh = Fixture::default();
    let mut dns = service("kube-system", "kube-dns", &["172.20.1.10"]);
    dns.ports[0].port = 53;
    dns.ports[0].target_port = 5353;
    dns.ports[0].protocol = Protocol::Udp;
    let key = dns.key();
    mesh.add_service(dns);
    let vip: SocketAddr = "172.20.1.10:53".parse().unwrap();
    let (cluster, locality) = ("koornacht".parse().unwrap(), Locality::default());
    let viewpoint = Viewpoint {
        cluster: &cluster,
        node: "n",
        locality: &locality,
    };
    let other: SocketAddr = "9.9.9.9:53".parse().unwrap();
    let forwarder = forwarder(vec![vip, other]);
    let nobody = Ejected::none();
    let udp = |mesh: &Fixture, ejected: &Ejected| {
        forwarder.candidates(&mesh.directory(), viewpoint, ejected, Transport::Udp)
    };
    assert_eq!(udp(&mesh, &nobody), [other]);
    let mut endpoint = serving(
        pod("koornacht", "kube-system", "coredns", &["10.1.1.2"]),
        &key,
    );
    endpoint.services.insert(key.clone(), Vec::new());
    mesh.add_pod(endpoint);
    let first: SocketAddr = "10.1.1.2:5353".parse().unwrap();
    assert_eq!(udp(&mesh, &nobody), [first, other]);
    let tcp = forwarder.candidates(&mesh.directory(), viewpoint, &nobody, Transport::Tcp);
    assert_eq!(tcp, [other], "the service has no TCP port 53");
    // One that failed is left out while another serves.
    let failed = Ejected::new([first], 80);
    assert_eq!(udp(&mesh, &failed), [first, other]);
    let mut second = pod("koornacht", "kube-system", "coredns-2", &["10.1.1.3"]);
    second.services.insert(key, Vec::new());
    mesh.add_pod(second);
    assert_eq!(
        udp(&mesh, &failed),
        ["10.1.1.3:5353".parse().unwrap(), other]
    );
}
