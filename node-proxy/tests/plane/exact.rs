//! Every byte and every ending, as without a mesh.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::support::{Mesh, PATIENCE, in_time, listen_b};

/// How one connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// The server sends, finishes first, the client then.
    ServerClosesFirst,
    /// The client takes the answer, sends, and closes.
    ClientClosesFirst,
    /// The client finishes, then the server answers.
    ClientHalfCloses,
    /// The server finishes, then the client sends.
    ServerHalfCloses,
    /// Both send at once and finish.
    BothAtOnce,
    /// The client resets after all was exchanged.
    ClientResets,
    /// The server resets after all was exchanged.
    ServerResets,
    /// The client sends and resets at once.
    ClientResetsEarly,
    /// The server sends and resets at once.
    ServerResetsEarly,
}

const SCRIPTS: [Script; 9] = [
    Script::ServerClosesFirst,
    Script::ClientClosesFirst,
    Script::ClientHalfCloses,
    Script::ServerHalfCloses,
    Script::BothAtOnce,
    Script::ClientResets,
    Script::ServerResets,
    Script::ClientResetsEarly,
    Script::ServerResetsEarly,
];

/// What both ends know of a connection; the client sends it first.
#[derive(Debug, Clone, Copy)]
struct Plan {
    script: Script,
    up: usize,
    down: usize,
    seed: usize,
}

impl Plan {
    const LEN: usize = 25;

    fn random(rng: &mut StdRng, index: usize) -> Self {
        // Evenly spread over the orders of magnitude, with empty and full ones among them.
        let mut len = || match rng.random_range(0..24) {
            0 => 0,
            1 => 1,
            n => rng.random_range(0..=1 << n.min(23)),
        };
        let (up, down) = (len(), len());
        Plan {
            script: SCRIPTS[index % SCRIPTS.len()],
            up,
            down,
            seed: rng.random_range(0..BLOCK_LEN),
        }
    }

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = u8::try_from(SCRIPTS.iter().position(|s| *s == self.script).unwrap()).unwrap();
        for (slot, value) in bytes[1..]
            .chunks_mut(8)
            .zip([self.up, self.down, self.seed])
        {
            slot.copy_from_slice(&(value as u64).to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let value = |at: usize| {
            let number = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
            usize::try_from(number).unwrap()
        };
        Plan {
            script: SCRIPTS[usize::from(bytes[0])],
            up: value(1),
            down: value(9),
            seed: value(17),
        }
    }
}

const BLOCK_LEN: usize = 1 << 20;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut block = vec![0; BLOCK_LEN];
    StdRng::seed_from_u64(7).fill_bytes(&mut block);
    block
});

/// The bytes of a stream at `offset`, as far as they lie together.
fn expected(seed: usize, offset: usize) -> &'static [u8] {
    &BLOCK[(seed + offset) % BLOCK_LEN..]
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), seed: usize, len: usize) -> io::Result<()> {
    let mut sent = 0;
    while sent < len {
        let bytes = expected(seed, sent);
        let bytes = &bytes[..bytes.len().min(len - sent)];
        stream.write_all(bytes).await?;
        sent += bytes.len();
    }
    Ok(())
}

/// Reads up to `limit` bytes and compares them; ends early at the end of the stream.
async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    seed: usize,
    limit: usize,
) -> (usize, io::Result<()>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut got = 0;
    while got < limit {
        let want = buffer.len().min(limit - got);
        let n = match stream.read(&mut buffer[..want]).await {
            Ok(0) => return (got, Ok(())),
            Ok(n) => n,
            Err(e) => return (got, Err(e)),
        };
        let mut checked = 0;
        while checked < n {
            let right = expected(seed, got + checked);
            let len = right.len().min(n - checked);
            assert!(
                buffer[checked..checked + len] == right[..len],
                "bytes differ near {got}"
            );
            checked += len;
        }
        got += n;
    }
    (got, Ok(()))
}

async fn receive_exactly(stream: &mut TcpStream, seed: usize, len: usize) {
    let (got, end) = receive(stream, seed, len).await;
    assert_eq!(got, len, "short: {end:?}");
}

async fn expect_end(stream: &mut TcpStream) {
    let n = stream.read(&mut [0; 16]).await.expect("a clean end");
    assert_eq!(n, 0, "bytes after the end");
}

async fn expect_reset(stream: &mut TcpStream) {
    let error = stream
        .read(&mut [0; 16])
        .await
        .expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

async fn run_client(mut stream: TcpStream, plan: Plan) {
    let Plan { up, down, seed, .. } = plan;
    let stream = &mut stream;
    stream.write_all(&plan.encode()).await.unwrap();
    match plan.script {
        Script::ServerClosesFirst => {
            send(stream, seed, up).await.unwrap();
            receive_exactly(stream, seed, down).await;
            expect_end(stream).await;
        }
        Script::ClientClosesFirst => {
            receive_exactly(stream, seed, down).await;
            send(stream, seed, up).await.unwrap();
        }
        Script::ClientHalfCloses => {
            send(stream, seed, up).await.unwrap();
            stream.shutdown().await.unwrap();
            receive_exactly(stream, seed, down).await;
            expect_end(stream).await;
        }
        Script::ServerHalfCloses => {
            receive_exactly(stream, seed, down).await;
            expect_end(stream).await;
            send(stream, seed, up).await.unwrap();
        }
        Script::BothAtOnce => {
            let (mut reader, mut writer) = stream.split();
            let sending = async {
                send(&mut writer, seed, up).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let ((), (got, end)) = tokio::join!(sending, receive(&mut reader, seed, usize::MAX));
            end.unwrap();
            assert_eq!(got, down);
        }
        Script::ClientResets => {
            send(stream, seed, up).await.unwrap();
            receive_exactly(stream, seed, down).await;
            SockRef::from(&*stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        Script::ServerResets => {
            send(stream, seed, up).await.unwrap();
            receive_exactly(stream, seed, down).await;
            stream.write_all(b"!").await.unwrap();
            expect_reset(stream).await;
        }
        Script::ClientResetsEarly => {
            send(stream, seed, up).await.unwrap();
            SockRef::from(&*stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        Script::ServerResetsEarly => {
            let (got, end) = receive(stream, seed, usize::MAX).await;
            assert_eq!(
                end.expect_err("a reset, not an end").kind(),
                ErrorKind::ConnectionReset
            );
            assert!(got <= down);
        }
    }
}

async fn run_server(mut stream: TcpStream) -> Plan {
    let mut bytes = [0; Plan::LEN];
    let stream_ref = &mut stream;
    stream_ref.read_exact(&mut bytes).await.unwrap();
    let plan = Plan::decode(&bytes);
    let Plan { up, down, seed, .. } = plan;
    match plan.script {
        Script::ServerClosesFirst => {
            receive_exactly(stream_ref, seed, up).await;
            send(stream_ref, seed, down).await.unwrap();
            stream_ref.shutdown().await.unwrap();
            expect_end(stream_ref).await;
        }
        Script::ClientClosesFirst => {
            send(stream_ref, seed, down).await.unwrap();
            receive_exactly(stream_ref, seed, up).await;
            expect_end(stream_ref).await;
        }
        Script::ClientHalfCloses => {
            receive_exactly(stream_ref, seed, up).await;
            expect_end(stream_ref).await;
            send(stream_ref, seed, down).await.unwrap();
        }
        Script::ServerHalfCloses => {
            send(stream_ref, seed, down).await.unwrap();
            stream_ref.shutdown().await.unwrap();
            receive_exactly(stream_ref, seed, up).await;
            expect_end(stream_ref).await;
        }
        Script::BothAtOnce => {
            let (mut reader, mut writer) = stream_ref.split();
            let sending = async {
                send(&mut writer, seed, down).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let ((), (got, end)) = tokio::join!(sending, receive(&mut reader, seed, usize::MAX));
            end.unwrap();
            assert_eq!(got, up);
        }
        Script::ClientResets => {
            receive_exactly(stream_ref, seed, up).await;
            send(stream_ref, seed, down).await.unwrap();
            expect_reset(stream_ref).await;
        }
        Script::ServerResets => {
            receive_exactly(stream_ref, seed, up).await;
            send(stream_ref, seed, down).await.unwrap();
            let mut ack = [0; 1];
            stream_ref.read_exact(&mut ack).await.unwrap();
            reset(stream);
        }
        Script::ClientResetsEarly => {
            let (got, end) = receive(stream_ref, seed, usize::MAX).await;
            assert_eq!(
                end.expect_err("a reset, not an end").kind(),
                ErrorKind::ConnectionReset
            );
            assert!(got <= up);
        }
        Script::ServerResetsEarly => {
            send(stream_ref, seed, down).await.unwrap();
            reset(stream);
        }
    }
    plan
}

/// Serves for ever; says what went wrong, or that all went well, once per connection.
fn serve(listener: TcpListener) -> mpsc::Receiver<Result<(), String>> {
    let (told, outcomes) = mpsc::channel(4096);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let told = told.clone();
            tokio::spawn(async move {
                let outcome =
                    match tokio::spawn(tokio::time::timeout(PATIENCE, run_server(stream))).await {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err(_)) => Err("the server waits for ever".to_owned()),
                        Err(panic) => Err(format!("the server: {panic}")),
                    };
                told.send(outcome).await.expect("somebody listens");
            });
        }
    });
    outcomes
}

/// Plays `count` connections, some at a time.
async fn play(
    count: usize,
    seed: u64,
    connect: impl AsyncFn() -> TcpStream,
    mut outcomes: mpsc::Receiver<Result<(), String>>,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let turn = Arc::new(Semaphore::new(32));
    let mut clients = JoinSet::new();
    for index in 0..count {
        let plan = Plan::random(&mut rng, index);
        let permit = Arc::clone(&turn).acquire_owned().await.unwrap();
        let stream = connect().await;
        clients.spawn(async move {
            let _permit = permit;
            tokio::time::timeout(PATIENCE, run_client(stream, plan))
                .await
                .unwrap_or_else(|_| panic!("the client waits for ever: {plan:?}"));
        });
    }
    while let Some(result) = clients.join_next().await {
        result.unwrap();
    }
    for _ in 0..count {
        in_time("the servers' word", outcomes.recv())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_are_byte_exact_and_end_as_they_should() {
    for mesh in [Mesh::start().await, Mesh::hbone_only().await] {
        let (listener, address) = listen_b().await;
        play(
            1000,
            1,
            async || mesh.connect(address).await,
            serve(listener),
        )
        .await;
        let opened = mesh.metric("tulle_connections_opened_total", &["Outbound", "MutualTls"]);
        assert!((opened - 1000.0).abs() < f64::EPSILON, "{opened}");
    }
}

/// The scripts themselves, without a mesh: what they expect is what TCP does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_scripts_hold_on_plain_tcp() {
    let (listener, address): (_, SocketAddr) = listen_b().await;
    let connect = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    play(180, 2, connect, serve(listener)).await;
}
