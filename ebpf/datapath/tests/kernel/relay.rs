//! A small node proxy: takes captured connections in one pod and makes them again in the other, announcing the true peer.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::Arc,
    thread::JoinHandle,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener as AsyncListener, TcpSocket, TcpStream as TokioStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::Builder,
    sync::oneshot,
};
use tulle_datapath::{Datapath, LocalConnection, SocketCookie};

use crate::support::Pod;

/// A running relay; it stops when dropped.
pub(crate) struct Relay {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays what `client` sends to `listener` on to the backend in `server`.
    pub(crate) fn start(
        datapath: &Arc<Datapath>,
        client: &Pod,
        server: &Pod,
        listener: &TcpListener,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let listener = listener.try_clone().unwrap();
        let (datapath, client_pod, server) = (Arc::clone(datapath), client.clone(), server.clone());
        let thread = client.spawn_proxy(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = AsyncListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = accept_all(&datapath, &client_pod, &server, &listener) => {}
                }
            });
        });
        Relay {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

async fn accept_all(
    datapath: &Arc<Datapath>,
    client: &Pod,
    server: &Pod,
    listener: &AsyncListener,
) {
    loop {
        let (mut downstream, peer) = listener.accept().await.unwrap();
        let Some(original) = datapath.original_destination(client.cookie, peer) else {
            continue;
        };
        let socket = upstream_socket(datapath, client, server, original.backend, peer);
        let (datapath, client, server) = (Arc::clone(datapath), client.clone(), server.clone());
        tokio::spawn(async move {
            let Ok(mut upstream) = socket.connect(original.backend).await else {
                return;
            };
            let join_downstream = joiner(&datapath, &client, &client, &downstream);
            let join_upstream = joiner(&datapath, &server, &client, &upstream);
            {
                let (down_read, down_write) = downstream.split();
                let (up_read, up_write) = upstream.split();
                // A reset on either side ends both; the applications of the tests then see an error or an early end.
                let _copied = tokio::try_join!(
                    carry(down_read, up_write, join_downstream),
                    carry(up_read, down_write, join_upstream)
                );
            }
            let _closed = upstream.shutdown().await;
            let _drained = upstream.read(&mut [0; 1]).await;
        });
    }
}

/// Carries one direction. Its source joins the sockmap once it has sent something, if it may.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    join: impl FnOnce(),
) -> io::Result<()> {
    let mut join = Some(join);
    let mut buffer = vec![0; 65_536];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        if let Some(join) = join.take() {
            join();
        }
        to.write_all(&buffer[..len]).await?;
    }
}

/// What lets the connection between `stream` and an application of `pod` join; the thread's home is the namespace of `home`.
fn joiner(
    datapath: &Arc<Datapath>,
    pod: &Pod,
    home: &Pod,
    stream: &TokioStream,
) -> impl FnOnce() + use<> {
    let connection = LocalConnection {
        netns: pod.cookie,
        proxy: stream.local_addr().unwrap(),
        application: stream.peer_addr().unwrap(),
    };
    let (datapath, pod, home) = (Arc::clone(datapath), pod.clone(), home.clone());
    move || {
        if datapath.joins_late() {
            let net = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(pod.netns(), net).unwrap();
            datapath.join(&connection).unwrap();
            move_into_link_name_space(home.netns(), net).unwrap();
        }
    }
}

fn upstream_socket(
    datapath: &Datapath,
    client: &Pod,
    server: &Pod,
    backend: SocketAddr,
    peer: SocketAddr,
) -> TcpSocket {
    let net = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(server.netns(), net).unwrap();
    let socket = Socket::new(
        Domain::for_address(backend),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .unwrap();
    move_into_link_name_space(client.netns(), net).unwrap();
    socket.set_nonblocking(true).unwrap();
    let cookie = SocketCookie::of_socket(socket.as_fd()).unwrap();
    let shown = SocketAddr::new(client.v4.into(), peer.port());
    datapath.announce_peer(cookie, shown).unwrap();
    TcpSocket::from_std_stream(TcpStream::from(socket))
}
