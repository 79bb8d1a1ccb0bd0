//! Which connections to other nodes are paced, where the system's default congestion control paces (BBR).
//!
//! Pacing keeps the queues of a network short, and has a price: a timer for every 64 KiB or less, and each piece a wake-up of its
//! own. Between nodes that are a few hundred microseconds apart, with no queue between them, that price is more than half of what a
//! lane can carry (`docs/performance.md`). So a lane begins without pacing (`cubic`, the kernel's default), and is given the system's
//! own control, for good, as soon as that has something to do:
//!
//! - the peer turns out to be far ([`NEAR_RTT_MAX`]), or
//! - a queue stands on the way: all round trips, for [`QUEUE_PATIENCE`], take longer than the fastest one by [`QUEUE_MAX`]. Small messages
//!   of others would wait in it. Where processors are short round trips take as long now and then, but not all of them: their
//!   variation is as large as their mean (seen: 2.4 ms, ± 2.9), while in a queue each takes as long as the one before. A mean that is
//!   [`QUEUE_CERTAIN`] longer is a queue, whatever its variation.
//!
//! It must be this order, since a connection that was paced once stays so (the kernel never takes `sk_pacing_status` back). HBONE
//! tunnels, which many connections share, have the system's control from their first request on.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    netns::sys::{self, RoundTrips},
    plane::{PacingDecision, PlaneMetrics, TunnelSide},
};

/// The congestion controls of connections to other nodes, on a system whose default paces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Congestion {
    /// The system's default.
    system: Name,
    /// What a near peer's lanes have.
    near: Name,
}

/// A congestion control's name, filled with zeros (`TCP_CA_NAME_MAX`).
type Name = [u8; 16];

impl Congestion {
    /// That of this system; `None` if its default does not pace, so that there is nothing to avoid.
    ///
    /// # Errors
    /// The kernel does not tell (`/proc/sys/net/ipv4/tcp_*congestion_control`).
    pub fn of_system() -> io::Result<Option<Self>> {
        let system = fs::read_to_string(DEFAULT)?;
        let available = fs::read_to_string(AVAILABLE)?;
        Ok(Self::choose(&system, &available))
    }

    fn choose(system: &str, available: &str) -> Option<Self> {
        let system = system.trim();
        if !system.starts_with(PACING) {
            return None;
        }
        let has_cubic = available.split_whitespace().any(|name| name == "cubic");
        Some(Congestion {
            system: padded(system)?,
            // Every kernel has it.
            near: padded(if has_cubic { "cubic" } else { "reno" })?,
        })
    }

    /// Makes a socket begin without pacing; for one that is neither connected nor listens. One that has anything else than the
    /// system's default keeps it.
    pub(crate) fn begin(&self, socket: &socket2::Socket) {
        exchange(socket, &self.system, &self.near);
    }

    /// Gives a connection the system's control, if [`Congestion::begin`] took it away.
    pub(crate) fn settle(&self, socket: &TcpStream) {
        exchange(&SockRef::from(socket), &self.near, &self.system);
    }
}

/// Watches a lane that is not paced.
#[derive(Debug)]
pub(super) struct Pace {
    congestion: Congestion,
    /// Bytes sent since the last look.
    unseen: usize,
    /// Since when every look has seen a queue.
    queued_since: Option<Instant>,
    /// Counts lanes that are paced because of a queue.
    queues: Counter,
}

impl Pace {
    /// For a lane whose handshake is over. `None` if it needs no watching: the peer is far, and the connection paced now.
    pub(super) fn of(
        socket: &TcpStream,
        congestion: Congestion,
        metrics: &PlaneMetrics,
        side: TunnelSide,
    ) -> Option<Self> {
        let counter = |decision| metrics.pacing_counter(side, decision);
        match sys::round_trips(socket) {
            Ok(seen) if seen.fastest <= NEAR_RTT_MAX => {
                counter(PacingDecision::Unpaced).inc();
                Some(Pace {
                    congestion,
                    unseen: 0,
                    queued_since: None,
                    queues: counter(PacingDecision::Queue),
                })
            }
            Ok(_) | Err(_) => {
                counter(PacingDecision::Far).inc();
                congestion.settle(socket);
                None
            }
        }
    }

    /// Counts what was sent. False when the lane is paced from now on and needs no more watching.
    pub(super) fn sent(&mut self, socket: &TcpStream, len: usize) -> bool {
        self.unseen += len;
        if self.unseen < LOOK_LEN {
            return true;
        }
        self.unseen = 0;
        let stays_near = sys::round_trips(socket).is_ok_and(|seen| self.saw(seen, Instant::now()));
        if !stays_near {
            self.queues.inc();
            self.congestion.settle(socket);
        }
        stays_near
    }

    fn saw(&mut self, seen: RoundTrips, now: Instant) -> bool {
        let all = seen.smoothed.saturating_sub(2 * seen.variation);
        let is_certain = seen.smoothed > seen.fastest + QUEUE_CERTAIN;
        if all <= seen.fastest + QUEUE_MAX && !is_certain {
            self.queued_since = None;
            return true;
        }
        let since = *self.queued_since.get_or_insert(now);
        now.saturating_duration_since(since) < QUEUE_PATIENCE
    }
}

/// Gives a socket that has `old` the control `new`. A kernel that refuses is no reason to have no connection: it works with either.
fn exchange(socket: &socket2::Socket, old: &Name, new: &Name) {
    let exchanged = socket.tcp_congestion().and_then(|present| {
        if trimmed(&present) == trimmed(old) {
            socket.set_tcp_congestion(trimmed(new))?;
        }
        Ok(())
    });
    if let Err(error) = exchanged {
        tracing::debug!(%error, "a connection keeps its congestion control");
    }
}

fn padded(name: &str) -> Option<Name> {
    let mut padded = Name::default();
    padded
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    Some(padded)
}

fn trimmed(name: &[u8]) -> &[u8] {
    let len = name.iter().position(|byte| *byte == 0);
    name.get(..len.unwrap_or(name.len())).unwrap_or_default()
}

/// What the names of congestion controls that pace begin with: `bbr`, `bbr2`, `bbr3`.
const PACING: &str = "bbr";
const DEFAULT: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
/// Round trips within a zone of a cloud take less, between zones more.
const NEAR_RTT_MAX: Duration = Duration::from_millis(1);
/// What a queue may add to a round trip: half of what BBR itself leaves on a link of 300 Mbit/s.
const QUEUE_MAX: Duration = Duration::from_millis(2);
/// What no processor adds on average: beyond it a variation, however large, is no excuse.
const QUEUE_CERTAIN: Duration = Duration::from_millis(10);
/// Longer than a burst takes to leave, or a processor that is busy with others lets acknowledgements wait.
const QUEUE_PATIENCE: Duration = Duration::from_millis(20);
/// How much is sent between two looks, each of which is a system call.
const LOOK_LEN: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn control(socket: &TcpStream) -> String {
        let name = SockRef::from(socket).tcp_congestion().unwrap();
        String::from_utf8(trimmed(&name).to_vec()).unwrap()
    }

    fn of_bbr() -> Congestion {
        Congestion::choose("bbr\n", "reno bbr cubic\n").unwrap()
    }

    /// Two ends of a connection whose both sockets had BBR as the system's default.
    async fn connection(congestion: Congestion) -> (TcpStream, TcpStream) {
        let socket = || {
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            )
            .unwrap();
            socket.set_tcp_congestion(b"bbr").unwrap();
            congestion.begin(&socket);
            socket
        };
        let listening = socket();
        let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        listening.bind(&any.into()).unwrap();
        listening.listen(1).unwrap();
        listening.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(TcpListener::from(listening)).unwrap();
        let connecting = socket();
        connecting.set_nonblocking(true).unwrap();
        let connecting = tokio::net::TcpSocket::from_std_stream(connecting.into());
        let target = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(connecting.connect(target), listener.accept());
        let (mut client, mut server) = (client.unwrap(), accepted.unwrap().0);
        // As after a handshake: one of the round trips is a fast one, however busy the machine.
        for _ in 0..20 {
            client.write_all(b"?").await.unwrap();
            server.read_exact(&mut [0]).await.unwrap();
            server.write_all(b"!").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        }
        (client, server)
    }

    fn watched(socket: &TcpStream, congestion: Congestion) -> Option<Pace> {
        Pace::of(
            socket,
            congestion,
            &PlaneMetrics::default(),
            TunnelSide::Client,
        )
    }

    fn round_trips(fastest: u64, smoothed: u64, variation: u64) -> RoundTrips {
        RoundTrips {
            fastest: Duration::from_micros(fastest),
            smoothed: Duration::from_micros(smoothed),
            variation: Duration::from_micros(variation),
        }
    }

    #[test]
    fn only_a_default_that_paces_is_avoided() {
        assert_eq!(Congestion::choose("cubic\n", "reno bbr cubic"), None);
        assert_eq!(Congestion::choose("", ""), None);
        let of = |system: &str, available: &str| {
            let found = Congestion::choose(system, available).unwrap();
            let text = |name: &Name| String::from_utf8(trimmed(name).to_vec()).unwrap();
            (text(&found.system), text(&found.near))
        };
        let names = |system: &str, near: &str| (system.to_owned(), near.to_owned());
        assert_eq!(of("bbr\n", "reno bbr cubic\n"), names("bbr", "cubic"));
        assert_eq!(of("bbr3\n", "reno bbr3\n"), names("bbr3", "reno"));
        let endless = format!("bbr{}", "x".repeat(14));
        assert_eq!(Congestion::choose(&endless, "reno"), None);
        assert!(Congestion::of_system().is_ok());
    }

    #[tokio::test]
    async fn both_ends_of_a_near_connection_begin_without_pacing_and_may_be_paced_later() {
        let congestion = of_bbr();
        let (client, server) = connection(congestion).await;
        assert_eq!(
            (control(&client), control(&server)),
            ("cubic".into(), "cubic".into())
        );
        assert!(watched(&client, congestion).is_some(), "loopback is near");
        congestion.settle(&client);
        assert_eq!(control(&client), "bbr");
        // Somebody else's choice stays.
        SockRef::from(&server).set_tcp_congestion(b"reno").unwrap();
        congestion.settle(&server);
        assert_eq!(control(&server), "reno");
    }

    /// Whether bytes over loopback leave a lane as it was.
    async fn stays_near() -> bool {
        let congestion = of_bbr();
        let (mut client, mut server) = connection(congestion).await;
        let mut pace = watched(&client, congestion).unwrap();
        let bytes = vec![7; 64 * 1024];
        let mut taken = vec![0; bytes.len()];
        let mut is_near = true;
        for _ in 0..40 {
            client.write_all(&bytes).await.unwrap();
            server.read_exact(&mut taken).await.unwrap();
            is_near = is_near && pace.sent(&client, bytes.len());
        }
        let seen = sys::round_trips(&client).unwrap();
        assert!(seen.fastest > Duration::ZERO && seen.fastest <= seen.smoothed);
        assert_eq!(control(&client), if is_near { "cubic" } else { "bbr" });
        assert_eq!(pace.queues.get() > 0, !is_near);
        is_near
    }

    #[tokio::test]
    async fn bytes_without_a_queue_leave_a_lane_as_it_is() {
        for _ in 0..5 {
            if stays_near().await {
                return;
            }
            // A machine that stood still looks like a queue; not five times.
        }
        panic!("five lanes over loopback were paced");
    }

    #[tokio::test]
    async fn only_a_queue_that_stands_has_a_lane_paced() {
        let congestion = of_bbr();
        let (client, _server) = connection(congestion).await;
        let mut pace = watched(&client, congestion).unwrap();
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        assert!(pace.saw(round_trips(100, 2_100, 0), at(0)));
        assert!(pace.saw(round_trips(100, 2_101, 0), at(10)));
        assert!(pace.saw(round_trips(100, 9_000, 3_000), at(29)));
        assert!(
            pace.saw(round_trips(100, 300, 10), at(31)),
            "it was a moment"
        );
        assert!(pace.saw(round_trips(100, 9_000, 3_000), at(32)));
        assert!(pace.saw(round_trips(100, 9_000, 3_000), at(51)));
        assert!(!pace.saw(round_trips(100, 9_000, 3_000), at(52)));
    }

    #[tokio::test]
    async fn processors_that_are_short_are_no_queue() {
        let congestion = of_bbr();
        let (client, _server) = connection(congestion).await;
        let mut pace = watched(&client, congestion).unwrap();
        let began = Instant::now();
        for second in 0..10 {
            let now = began + Duration::from_secs(second);
            assert!(pace.saw(round_trips(8, 2_998, 3_492), now));
        }
        // So long is no processor busy, and if it is: pacing is safe.
        let at = |millis: u64| began + Duration::from_millis(20_000 + millis);
        assert!(pace.saw(round_trips(8, 10_009, 9_000), at(0)));
        assert!(!pace.saw(round_trips(8, 300_000, 200_000), at(20)));
    }
}
