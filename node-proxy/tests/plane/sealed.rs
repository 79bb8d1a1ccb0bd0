//! Somebody between two proxies who changes what passes on a lane.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::support::{B, Mesh, eventually, in_time, listen_b, pair, round_trip};

/// What is done, once, to the next bytes that go one way; each is one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    FlipLength,
    FlipContent,
    FlipSeal,
    Lose,
    Repeat,
    /// The next two, the later one first.
    Swap,
    /// Half of it, then the end of the connection.
    Cut,
    /// It, then the end of the connection, between two frames.
    End,
}

const HARMS: [Harm; 8] = [
    Harm::FlipLength,
    Harm::FlipContent,
    Harm::FlipSeal,
    Harm::Lose,
    Harm::Repeat,
    Harm::Swap,
    Harm::Cut,
    Harm::End,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

type Planned = Arc<Mutex<Option<(Way, Harm)>>>;

/// Passes connections on to B's proxy, and does what is planned.
struct Relay {
    listener: TcpListener,
    planned: Planned,
}

impl Relay {
    async fn bind() -> Self {
        Relay {
            listener: TcpListener::bind((B, 0)).await.unwrap(),
            planned: Planned::default(),
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn run(self, target: SocketAddr) -> Planned {
        let planned = Arc::clone(&self.planned);
        let _relay = tokio::spawn(async move {
            loop {
                let (client, _) = self.listener.accept().await.unwrap();
                let server = TcpStream::connect(target).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let planned = || Arc::clone(&self.planned);
                let _up = tokio::spawn(pass(from_client, to_server, Way::ToServer, planned()));
                let _down = tokio::spawn(pass(from_server, to_client, Way::ToClient, planned()));
            }
        });
        planned
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, planned: Planned) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let harm = planned
            .lock()
            .unwrap()
            .take_if(|(planned, _)| *planned == way);
        let bytes = &mut buffer[..len];
        let done = match harm.map(|(_, harm)| harm) {
            None => to.write_all(bytes).await,
            Some(Harm::FlipLength) => {
                // Shorter by one, so that nothing more has to come before it is looked at.
                bytes[1] -= 1;
                to.write_all(bytes).await
            }
            Some(Harm::FlipContent) => {
                bytes[4] ^= 0x10;
                to.write_all(bytes).await
            }
            Some(Harm::FlipSeal) => {
                bytes[len - 1] ^= 1;
                to.write_all(bytes).await
            }
            Some(Harm::Lose) => Ok(()),
            Some(Harm::Repeat) => to.write_all(&bytes.repeat(2)).await,
            Some(Harm::Swap) => {
                let first = bytes.to_vec();
                let len = from.read(&mut buffer).await.unwrap();
                let swapped = [&buffer[..len], &first].concat();
                to.write_all(&swapped).await
            }
            Some(Harm::Cut) => {
                let _sent = to.write_all(&bytes[..len / 2]).await;
                return;
            }
            Some(Harm::End) => {
                let _sent = to.write_all(bytes).await;
                return;
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// Whatever is done to a frame, the application gets nothing that was not sent, in the order in which it was sent, and then an error:
/// never an end, which it would take for a complete message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_were_changed_on_the_way_end_in_an_error_and_are_counted() {
    let relay = Relay::bind().await;
    let port = relay.port();
    let mesh = Mesh::with_each(|a| a.peer_hbone_port = port, |_| {}).await;
    let planned = relay.run(mesh.hbone());
    let (listener, _) = listen_b().await;
    let ended =
        |side: &str, reason: &str| mesh.metric("tulle_connections_closed_total", &[side, reason]);
    for way in [Way::ToServer, Way::ToClient] {
        let side = match way {
            Way::ToServer => "Inbound",
            Way::ToClient => "Outbound",
        };
        for harm in HARMS {
            let (mut client, mut server) = pair(&mesh, &listener).await;
            round_trip(&mut client, &mut server).await;
            let reason = match harm {
                Harm::Cut | Harm::End => "\"tunnel_lost\"",
                _ => "\"tunnel_broken\"",
            };
            let before = ended(side, reason);
            *planned.lock().unwrap() = Some((way, harm));
            let (from, to) = match way {
                Way::ToServer => (&mut client, &mut server),
                Way::ToClient => (&mut server, &mut client),
            };
            from.write_all(b"first").await.unwrap();
            let taken = || planned.lock().unwrap().is_none();
            eventually("the relay has the first frame", taken).await;
            let _written = from.write_all(b"second").await;
            let mut all = Vec::new();
            let end = in_time("the end", to.read_to_end(&mut all)).await;
            assert!(end.is_err(), "{way:?} {harm:?}: a clean end after {all:?}");
            match harm {
                Harm::End => assert_eq!(all, b"first", "{way:?}"),
                // What came together with a frame that does not open may go with it.
                Harm::Repeat => assert!(b"first".starts_with(&all), "{way:?}: {all:?}"),
                _ => assert_eq!(all, b"", "{way:?} {harm:?}"),
            }
            eventually("counted", || ended(side, reason) > before + 0.5).await;
        }
    }
    // Nobody else is harmed.
    let (mut client, mut server) = pair(&mesh, &listener).await;
    round_trip(&mut client, &mut server).await;
}
