//! What an application sees of a connection that policy denies at the far end: nothing at all, as if its packets were dropped.
//!
//! The near end's denials are the kernel's: there the connection never begins. What the far end denies is known only when the tunnel
//! is asked, and by then the application is connected to us. An answer, or an end, would tell that somebody is there; a Cilium
//! user expects a client that times out. So the connection is kept and nothing is read, until the client gives up, or a time has
//! passed in which it would have. ztunnel resets.

use std::time::Duration;

use tokio::time::timeout;

use crate::{pod::ConnectionLimit, pump::AppSocket};

/// Keeps a denied connection in silence; the caller resets it afterwards. With too many of them already, not at all.
pub(super) async fn keep(application: &AppSocket, limit: &ConnectionLimit, patience: Duration) {
    if let Some(_permit) = limit.take() {
        let _gave_up = timeout(patience, application.given_up()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (TcpStream, AppSocket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (client, AppSocket::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn silence_ends_when_the_client_gives_up_or_has_waited_enough() {
        let limit = ConnectionLimit::new(2);
        let (mut client, server) = pair().await;
        client.write_all(b"is anybody there?").await.unwrap();
        let short = Duration::from_millis(100);
        let began = std::time::Instant::now();
        keep(&server, &limit, short).await;
        assert!(began.elapsed() >= short);
        // Bytes came, and nobody took them.
        let long = Duration::from_secs(100);
        let (first, second) = tokio::join!(keep(&server, &limit, long), async { drop(client) });
        assert_eq!((first, second), ((), ()));
        assert!(began.elapsed() < long);
    }

    #[tokio::test]
    async fn silences_are_bounded() {
        let limit = ConnectionLimit::new(0);
        let (_client, server) = pair().await;
        keep(&server, &limit, Duration::from_secs(100)).await;
    }
}
