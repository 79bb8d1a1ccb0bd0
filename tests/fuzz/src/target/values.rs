//! What comes over the network and out of etcd.

use std::{fmt::Debug, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tulle_model::{
    Authorization, Directory, Health, Locality, SmallMap, TunnelProtocol, Workload, WorkloadKind,
    WorkloadUid,
};
use tulle_node_proxy::foreign;
use tulle_policy::{Asked, Connection, Judgement, compiled::HttpFacts, judge};
use tulle_wire::{
    Message as _, decode_address, decode_authorization, decode_bundle, decode_rules,
    encode_authorization, encode_rules,
};
use tulle_xds_server::{cilium::values, layout};

/// Resources of xDS: no bytes break a reader, and what was read is written as it was read.
pub(super) fn wire(bytes: &[u8]) {
    drop(decode_address(bytes));
    drop(decode_bundle(bytes));
    if let Ok(policy) = decode_authorization(bytes) {
        let written = encode_authorization(&policy).encode_to_vec();
        assert_eq!(decode_authorization(&written).as_ref(), Ok(&policy));
    }
    if let Ok(rules) = decode_rules(bytes) {
        let written = encode_rules(&rules).encode_to_vec();
        assert_eq!(decode_rules(&written).as_ref(), Ok(&rules));
    }
}

pub(super) fn wire_seeds() -> Vec<Vec<u8>> {
    let policy = json!({
        "name": "p", "namespace": "shop", "scope": "Namespace", "action": "Deny",
        "rules": [{"clauses": [{"matches": [{
            "namespaces": [{"Prefix": "a"}], "not_principals": ["Presence"], "destination_ports": [80],
            "source_ips": [{"address": "10.0.0.0", "prefix_len": 8}],
        }]}]}],
    });
    let policy = serde_json::from_value::<Authorization>(policy)
        .map(|policy| encode_authorization(&policy).encode_to_vec());
    policy.into_iter().collect()
}

/// An entry of etcd: the key, a line feed, the value.
pub(super) fn layout(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (key, value) = bytes.split_at(end.unwrap_or(bytes.len()));
    if let Ok(key) = std::str::from_utf8(key) {
        drop(layout::read_entry(key, value.get(1..).unwrap_or_default()));
    }
}

pub(super) fn layout_seeds() -> Vec<Vec<u8>> {
    let workload = serde_json::to_string(&workload()).unwrap_or_default();
    let texts = [
        format!("workloads/shop/Pod/web\n{workload}"),
        "services/shop/web\n{\"name\": \"web\", \"namespace\": \"shop\", \"hostname\": \"web.shop.svc.cluster.local\"}".to_owned(),
        "info\n{}".to_owned(),
        "heartbeat\n7".to_owned(),
    ];
    texts.map(String::into_bytes).into()
}

/// The values of Cilium's Cluster Mesh.
pub(super) fn cilium_values(bytes: &[u8]) {
    returns::<values::ClusterConfig>(bytes);
    returns::<values::ClusterService>(bytes);
    returns::<values::AddressIdentity>(bytes);
    returns::<values::Node>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(values::IpNet::from_text(text));
    }
}

fn returns<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&value).expect("what was read is written");
    let read: T = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(read, value);
}

pub(super) fn cilium_seeds() -> Vec<Vec<u8>> {
    let values = [
        json!({"cluster": "tion", "namespace": "default", "name": "rebel-base", "frontends": {"172.20.1.7": {"http": {"Protocol": "TCP", "Port": 80}}}, "backends": {"10.2.1.5": {"http": {"Protocol": "TCP", "Port": 80}}}, "labels": {}, "selector": {"name": "rebel-base"}, "shared": true, "clusterID": 2}),
        json!({"IP": "10.2.1.5", "Mask": null, "HostIP": "172.18.2.3", "ID": 131_073, "Key": 0, "Metadata": "", "K8sNamespace": "default", "K8sPodName": "x", "NamedPorts": [{"Name": "http", "Port": 80, "Protocol": "TCP"}]}),
        json!({"Name": "n", "Cluster": "tion", "IPAddresses": [{"Type": "InternalIP", "IP": "172.18.2.3"}], "IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": "////AA=="}, "ClusterID": 2}),
        json!({"id": 2, "capabilities": {"syncedCanaries": true, "maxConnectedClusters": 255}}),
    ];
    let mut seeds: Vec<Vec<u8>> = values
        .iter()
        .map(|value| value.to_string().into_bytes())
        .collect();
    seeds.push(b"10.0.0.0/8".to_vec());
    seeds
}

/// A datagram to the pod's resolver.
pub(super) fn dns_question(bytes: &[u8]) {
    if let Some(reply) = foreign::dns_reply(bytes) {
        // A reply bears the id of the question, and is no question itself: two servers never talk for ever.
        assert_eq!(reply.get(..2), bytes.get(..2));
        assert!(foreign::dns_reply(&reply).is_none());
    }
}

pub(super) fn dns_seeds() -> Vec<Vec<u8>> {
    let question = |name: &[u8], kind: u8| {
        let header = [0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        [&header[..], name, &[0, kind, 0, 1]].concat()
    };
    vec![
        question(
            b"\x0arebel-base\x07default\x03svc\x07cluster\x05local\x00",
            1,
        ),
        question(b"\x03www\x07example\x03com\x00", 28),
        question(b"\x00", 2),
    ]
}

/// The authority of a tunnel's CONNECT, and the headers beside it: the first line, then the second.
pub(super) fn authority(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (authority, forwarded) = text.split_once('\n').unwrap_or((text, ""));
        foreign::tunnel_request(authority, forwarded);
    }
}

pub(super) fn authority_seeds() -> Vec<Vec<u8>> {
    [
        "10.0.0.1:80\nfor=\"10.1.1.1:55\"",
        "[::1]:8080\nfor=\"[::1]:1\";proto=http, for=x",
        "rebel-base.default.svc.cluster.local:80",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The head of a request, and a chunked body.
pub(super) fn http_request(bytes: &[u8]) {
    if let Some((shown, again)) = foreign::request_twice(bytes) {
        // What the server gets is what was judged.
        assert_eq!(Some(shown), again);
    }
    assert!(foreign::chunks(bytes) <= bytes.len());
}

pub(super) fn http_request_seeds() -> Vec<Vec<u8>> {
    [
        "GET /a/../b?x=1 HTTP/1.1\r\nHost: shop.org:80\r\nAccept: */*\r\nX-A: 1\r\nX-A: 2\r\n\r\n",
        "POST http://shop.org/a HTTP/1.1\r\nhost: shop.org\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: te, x-b\r\nX-B: 1\r\n\r\n",
        "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "4;a=b\r\nabcd\r\n0\r\nX-Sum: 1\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The first message of a TLS client.
pub(super) fn tls_hello(bytes: &[u8]) {
    if let Some(name) = foreign::server_name(bytes) {
        assert!(!name.is_empty() && name == name.to_ascii_lowercase());
    }
}

pub(super) fn tls_hello_seeds() -> Vec<Vec<u8>> {
    let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let extensions = b"\0\x12\0\0\0\x0e\0\x0c\0\0\x09a.example";
    let len = u8::try_from(fixed.len() + extensions.len()).unwrap_or(u8::MAX);
    let message = [&[1, 0, 0, len][..], &fixed, extensions].concat();
    let (first, rest) = message.split_at(20);
    let record = |part: &[u8]| {
        let len = u8::try_from(part.len()).unwrap_or(u8::MAX);
        [&[22, 3, 1, 0, len][..], part].concat()
    };
    vec![record(&message), [record(first), record(rest)].concat()]
}

/// The preface of a session on a lane: refused, or one that is written in just these bytes.
pub(super) fn preface(bytes: &[u8]) {
    if let Some(written) = foreign::lane_preface(bytes) {
        assert_eq!(written, bytes);
    }
}

pub(super) fn preface_seeds() -> Vec<Vec<u8>> {
    let v4 = [4, 10, 1, 1, 5, 0, 80];
    let v6 = [
        6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x1f, 0x90,
    ];
    vec![
        [&[0, 0, 0, 1][..], &v4, &v4].concat(),
        [&[0xff; 4][..], &v6, &v4].concat(),
        [&[0; 4][..], &v6, &v6].concat(),
    ]
}

/// Whether a request may reach a workload.
pub(super) fn judge_request(directory: &Directory, facts: &HttpFacts<'_>) -> bool {
    let connection = Connection {
        peer: None,
        source: [10, 0, 0, 1].into(),
        destination: ([10, 0, 0, 9], 80).into(),
    };
    let judged = judge(directory, &workload(), &connection, Asked::Http(facts));
    matches!(judged, Judgement::Decided(verdict) if verdict.is_allowed())
}

fn workload() -> Workload {
    Workload {
        uid: WorkloadUid("a//Pod/shop/web".into()),
        name: "web".to_owned(),
        namespace: "shop".into(),
        service_account: "web".into(),
        trust_domain: "td".parse().expect("a trust domain"),
        cluster: "a".parse().expect("a cluster"),
        node: "n".into(),
        addresses: vec![[10, 0, 0, 9].into()],
        hostname: String::new().into(),
        labels: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: String::new().into(),
        canonical_revision: String::new().into(),
        kind: WorkloadKind::Pod,
        owner_name: String::new().into(),
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
