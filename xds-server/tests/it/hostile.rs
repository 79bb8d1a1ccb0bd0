//! Bytes that nobody should send: an error, a counter, no crash.

use std::time::Duration;

use http::uri::PathAndQuery;
use prost::bytes::{Buf, BufMut, Bytes};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tulle_wire::{grpc_path, type_url};

use crate::support::{Cluster, DEADLINE};

const REFUSED: &str = "tulle_grpc_connections_refused_total";

/// The server still does its work.
async fn check_alive(cluster: &Cluster) {
    let mut client = cluster.ads().await;
    client.subscribe(type_url::ADDRESS).await;
    client.next().await.unwrap();
}

#[tokio::test]
async fn plain_bytes_are_refused_and_counted() {
    let cluster = Cluster::start_alone().await;
    let payloads: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 4096],
        &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01, 0xff],
        &[0x80; 1],
    ];
    for round in 0..200 {
        let mut stream = TcpStream::connect(cluster.running().listen).await.unwrap();
        let sent = stream.write_all(payloads[round % payloads.len()]).await;
        if sent.is_ok() {
            drop(stream.shutdown().await);
            let mut answer = Vec::new();
            drop(
                timeout(DEADLINE, stream.read_to_end(&mut answer))
                    .await
                    .expect("kept open"),
            );
        }
    }
    let counted = async || {
        cluster
            .metric(&format!("{REFUSED}{{reason=\"protocol\"}}"))
            .await
            + cluster.metric(&format!("{REFUSED}{{reason=\"io\"}}")).await
    };
    let until = tokio::time::Instant::now() + DEADLINE;
    while counted().await < 200.0 {
        assert!(tokio::time::Instant::now() < until, "{}", counted().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.metric("tulle_grpc_connections").await, 0.0);
    check_alive(&cluster).await;
}

#[tokio::test]
async fn garbage_inside_tls_is_refused_and_counted() {
    let cluster = Cluster::start_alone().await;
    for _ in 0..20 {
        let stream = TcpStream::connect(cluster.running().listen).await.unwrap();
        let mut stream = cluster.client_tls(None).connect(stream).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        drop(
            timeout(DEADLINE, stream.read_to_end(&mut answer))
                .await
                .expect("kept open"),
        );
    }
    cluster
        .wait_metric(&format!("{REFUSED}{{reason=\"http2\"}}"), 20.0)
        .await;
    check_alive(&cluster).await;
}

/// Sends bytes as they are.
#[derive(Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        RawCodec
    }

    fn decoder(&mut self) -> Self {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[tokio::test]
async fn malformed_messages_end_their_stream_only() {
    let cluster = Cluster::start_alone().await;
    let svid = cluster.svid("n1", None).await;
    let channel = cluster.channel(Some(&svid)).await.unwrap();
    for garbage in [
        &b"\xff\xff\xff\xff"[..],
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x12\x04\xff\xfe\xfd\xfc",
    ] {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(grpc_path::DELTA_AGGREGATED_RESOURCES);
        let requests = tokio_stream::once(Bytes::copy_from_slice(garbage));
        let answer = grpc.streaming(Request::new(requests), path, RawCodec).await;
        let status = match answer {
            Err(status) => status,
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        };
        assert_eq!(status.code(), Code::Internal, "{status:?}");
    }
    assert!(
        cluster
            .metric("tulle_xds_stream_errors_total{code=\"internal\"}")
            .await
            >= 3.0
    );
    check_alive(&cluster).await;
}

#[tokio::test]
async fn unknown_methods_are_refused_and_counted() {
    let cluster = Cluster::start_alone().await;
    let channel = cluster.channel(None).await.unwrap();
    for path in ["/", "/a/b", grpc_path::STREAM_AGGREGATED_RESOURCES] {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(Request::new(Bytes::new()), path, RawCodec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    assert_eq!(
        cluster.metric("tulle_grpc_unknown_methods_total").await,
        3.0
    );
}
