//! What could go wrong with redirected bytes, tried one by one.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    net::{RecvFlags, recv},
};
use tulle_datapath::{Datapath, KernelTable, LocalConnection, Path, SockmapMode, WorkloadRoute};

use crate::{
    outbound::{at, connect_announcing},
    support::{PATIENCE, Pod, ProxyListeners, Rig, count, wait_for},
    traffic::{Stream, Style, listen_as},
};

/// One captured pod in one mode; connections end at the proxy's listener, or begin at the proxy.
pub(crate) struct Stage {
    pub(crate) datapath: Datapath,
    pub(crate) pod: Pod,
    listeners: ProxyListeners,
    /// The event loop of the applications.
    epoll: OwnedFd,
    _rig: Rig,
}

impl Stage {
    pub(crate) fn new(name: &str, mode: SockmapMode) -> Self {
        let mut rig = Rig::new(name);
        rig.settings.sockmap = mode;
        let datapath = rig.open();
        let pod = rig.pod();
        let listeners = rig.capture(&datapath, &pod);
        let table = KernelTable {
            frontends: Vec::new(),
            workloads: vec![WorkloadRoute {
                address: FAR.into(),
                path: Path::Proxy,
            }],
        };
        datapath.reconcile(&table).unwrap();
        Stage {
            datapath,
            pod,
            listeners,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            _rig: rig,
        }
    }

    /// As the proxy does it with a connection that moved bytes: true if it joined.
    pub(crate) fn join(&self, proxy: &TcpStream) -> bool {
        let connection = LocalConnection {
            netns: self.pod.cookie,
            proxy: proxy.local_addr().unwrap(),
            application: proxy.peer_addr().unwrap(),
        };
        self.pod
            .as_proxy(|| self.datapath.join(&connection).unwrap())
    }

    /// Puts a socket into the applications' event loop.
    pub(crate) fn watch(&self, socket: &TcpStream) {
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        // The stream may still be in an epoll of its own; one socket may be in several.
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(0), events).unwrap();
    }

    /// In the mode in which the proxy decides, an event loop's connection joins.
    fn settle(&self, style: Style, application: TcpStream, proxy: TcpStream) -> Pair {
        if self.datapath.joins_late() && style == Style::Polling {
            self.watch(&application);
            assert!(self.join(&proxy));
        }
        (application, proxy)
    }

    /// An application's connection and the proxy's end of it, which does not block.
    pub(crate) fn outbound(&self, style: Style) -> Pair {
        let application = self
            .pod
            .run(|| Stream::connect(at(FAR, 80), style).unwrap());
        let (proxy, _) = self.listeners.outbound_v4.accept().unwrap();
        proxy.set_nonblocking(true).unwrap();
        self.settle(style, application.inner, proxy)
    }

    /// The proxy's connection to an application, and the application's end of it.
    pub(crate) fn inbound(&self, style: Style) -> Pair {
        let listener = self.pod.run(|| listen_as(style, at(self.pod.v4, 0)));
        let target = listener.local_addr().unwrap();
        let proxy = connect_announcing(&self.datapath, &self.pod, target, at(FAR, 41000));
        proxy.set_nonblocking(true).unwrap();
        let application = self.pod.run(|| Stream::accept(&listener, style).unwrap());
        self.settle(style, application.inner, proxy)
    }

    /// Sockets that left the sockmap because a call on them might have waited, whoever took them out.
    pub(crate) fn evicted(&self) -> u64 {
        ["sockops", "guard_receive", "guard_send"]
            .map(|program| count(&self.datapath, program, "socket_evicted"))
            .iter()
            .sum()
    }

    pub(crate) fn joined(&self) -> u64 {
        count(&self.datapath, "join", "socket_joined")
    }

    /// Evictions that did not come in time.
    pub(crate) fn late(&self) -> u64 {
        ["guard_receive", "guard_send"]
            .map(|program| count(&self.datapath, program, "eviction_late"))
            .iter()
            .sum()
    }

    pub(crate) fn redirected(&self) -> u64 {
        count(&self.datapath, "sk_msg", "redirected")
    }
}

/// The application's end and the proxy's.
pub(crate) type Pair = (TcpStream, TcpStream);

/// Writes until the kernel takes no more for a while. Returns how much it took.
fn fill(stream: &mut TcpStream) -> usize {
    let block = [7; 65_536];
    let mut taken = 0;
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) && taken < 64 << 20 {
        match stream.write(&block) {
            Ok(len) => {
                taken += len;
                last = Instant::now();
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                thread::park_timeout(Duration::from_millis(2))
            }
            Err(err) => panic!("{err}"),
        }
    }
    taken
}

/// Reads exactly `len` bytes of a stream that does not block.
pub(crate) fn drain(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut read = vec![0; len];
    let mut at = 0;
    wait_for("the bytes that were sent", || {
        while at < len {
            match stream.read(&mut read[at..]) {
                Ok(0) => panic!("the stream ended after {at} of {len} bytes"),
                Ok(count) => at += count,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return false,
                Err(err) => panic!("{err} after {at} of {len} bytes"),
            }
        }
        true
    });
    read
}

#[test]
fn a_reader_that_does_not_read_bounds_what_the_kernel_takes() {
    for mode in MODES {
        let stage = Stage::new("stuck_reader", mode);
        let (mut application, mut proxy) = stage.outbound(Style::Polling);
        let taken = fill(&mut application);
        println!(
            "{mode:?}: {taken} bytes for a proxy that does not read, {} messages redirected",
            stage.redirected()
        );
        assert!(taken < 16 << 20);
        assert_eq!(stage.redirected() > 0, mode != SockmapMode::Off);
        assert!(drain(&mut proxy, taken).iter().all(|byte| *byte == 7));

        let before = stage.redirected();
        let (mut application, mut proxy) = stage.inbound(Style::Polling);
        let taken = fill(&mut proxy);
        println!(
            "{mode:?}: {taken} bytes for an application that does not read, {} messages redirected",
            stage.redirected() - before
        );
        assert!(taken < 16 << 20);
        assert_eq!(stage.redirected() > before, mode == SockmapMode::Full);
        assert!(drain(&mut application, taken).iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_reader_that_does_not_read_bounds_short_messages_too() {
    let stage = Stage::new("stuck_short", SockmapMode::ToProxy);
    let (mut application, mut proxy) = stage.outbound(Style::Polling);
    let mut sent = 0;
    while sent < 100_000 && application.write(&[7]).is_ok() {
        sent += 1;
    }
    println!("{} of {sent} single bytes redirected", stage.redirected());
    assert!(stage.redirected() > 0 && stage.redirected() <= 512);
    assert_eq!(drain(&mut proxy, sent).len(), sent);
    // Once all is read, bytes are redirected again.
    wait_for("the way to be free", || {
        let before = stage.redirected();
        application.write_all(b"x").unwrap();
        drain(&mut proxy, 1);
        stage.redirected() > before
    });
}

#[test]
fn order_holds_when_the_way_changes_to_and_fro() {
    for mode in ON {
        let stage = Stage::new("order", mode);
        let (mut application, proxy) = stage.outbound(Style::Polling);
        let mut next = 0u32;
        for round in 0..24 {
            // More than may be queued, so that TCP takes the rest, then read all of it: the next round redirects again.
            let len = if round % 2 == 0 { 1_500_000 } else { 1_000 };
            let sent: Vec<u8> = (0..len)
                .flat_map(|index| (next + index).to_le_bytes())
                .collect();
            next += len;
            let mut reader = proxy.try_clone().unwrap();
            let mut writer = Writer(&mut application);
            let received = thread::scope(|scope| {
                let reading = scope.spawn(|| drain(&mut reader, sent.len()));
                writer.write_all_polling(&sent);
                reading.join().unwrap()
            });
            assert!(received == sent, "round {round}: the bytes differ");
        }
        proxy.set_nonblocking(true).unwrap();
        let by_tcp = count(&stage.datapath, "sk_msg", "reader_full")
            + count(&stage.datapath, "sk_msg", "draining");
        println!(
            "{mode:?}: {} messages redirected, {by_tcp} by TCP",
            stage.redirected()
        );
        assert!(stage.redirected() > 0 && by_tcp > 0);
    }
}

struct Writer<'a>(&'a mut TcpStream);

impl Writer<'_> {
    fn write_all_polling(&mut self, mut bytes: &[u8]) {
        wait_for("room to write", || {
            while !bytes.is_empty() {
                match self.0.write(bytes) {
                    Ok(len) => bytes = &bytes[len..],
                    Err(err) if err.kind() == ErrorKind::WouldBlock => return false,
                    Err(err) => panic!("{err}"),
                }
            }
            true
        });
    }
}

#[test]
fn every_family_is_redirected() {
    let far_v6 = "fd00:10:2:1::5";
    let stage = Stage::new("families", SockmapMode::Full);
    let table = KernelTable {
        frontends: Vec::new(),
        workloads: [FAR.into(), far_v6.parse().unwrap()]
            .map(|address| WorkloadRoute {
                address,
                path: Path::Proxy,
            })
            .to_vec(),
    };
    stage.datapath.reconcile(&table).unwrap();
    // The middle one is how dual-stack programs (Go, Java) reach an IPv4 address.
    for target in ["10.2.1.5:80", "[::ffff:10.2.1.5]:80", "[fd00:10:2:1::5]:80"] {
        let target: SocketAddr = target.parse().unwrap();
        let listener = match target.ip().to_canonical() {
            IpAddr::V4(_) => &stage.listeners.outbound_v4,
            IpAddr::V6(_) => &stage.listeners.outbound_v6,
        };
        let application = stage
            .pod
            .run(|| Stream::connect(target, Style::Polling).unwrap());
        let (mut proxy, _) = listener.accept().unwrap();
        proxy.set_nonblocking(true).unwrap();
        check_redirected(&stage, target, application.inner, &mut proxy);
    }
    // Inbound, with a dual-stack listener too.
    for (own, target) in [
        ("0.0.0.0", at(stage.pod.v4, 0)),
        ("::", at(stage.pod.v4, 0)),
        ("::", at(stage.pod.v6, 0)),
    ] {
        let listener = stage
            .pod
            .run(|| listen_as(Style::Polling, at(own.parse::<IpAddr>().unwrap(), 0)));
        let target = SocketAddr::new(target.ip(), listener.local_addr().unwrap().port());
        let mut proxy = connect_announcing(&stage.datapath, &stage.pod, target, at(FAR, 41000));
        proxy.set_nonblocking(true).unwrap();
        let application = stage
            .pod
            .run(|| Stream::accept(&listener, Style::Polling).unwrap());
        check_redirected(&stage, target, application.inner, &mut proxy);
    }
}

/// Both directions skip the TCP stack, and the bytes are the ones that were sent.
fn check_redirected(
    stage: &Stage,
    target: SocketAddr,
    mut application: TcpStream,
    proxy: &mut TcpStream,
) {
    let before = stage.redirected();
    for _ in 0..4 {
        application.write_all(b"ping").unwrap();
        assert_eq!(drain(proxy, 4), b"ping");
        proxy.write_all(b"pong").unwrap();
        assert_eq!(drain(&mut application, 4), b"pong");
    }
    assert_eq!(stage.redirected() - before, 8, "{target}");
}

#[test]
fn peeking_shows_the_same_bytes_without_taking_them() {
    for mode in MODES {
        let stage = Stage::new("peek", mode);
        for (mut sender, receiver) in [stage.outbound(Style::Polling), {
            let (application, proxy) = stage.inbound(Style::Polling);
            (proxy, application)
        }] {
            sender.write_all(b"hello, ").unwrap();
            sender.write_all(b"world").unwrap();
            let mut receiver = receiver;
            let mut buffer = [0; 32];
            wait_for("the bytes", || {
                receiver.peek(&mut buffer).is_ok_and(|len| len == 12)
            });
            assert_eq!(&buffer[..12], b"hello, world");
            assert_eq!(drain(&mut receiver, 7), b"hello, ");
            let (len, _) = recv(
                receiver.as_fd(),
                &mut buffer[..],
                RecvFlags::PEEK | RecvFlags::DONTWAIT,
            )
            .unwrap();
            assert_eq!(&buffer[..len], b"world");
            assert_eq!(drain(&mut receiver, 5), b"world");
        }
        assert_eq!(stage.redirected() > 0, mode != SockmapMode::Off);
    }
}

#[test]
fn a_socket_that_turns_blocking_leaves_the_map_before_a_blocking_read_can_fail() {
    // In the other modes this is a matter of the guards: see `waits.rs`.
    for mode in [SockmapMode::Full] {
        let stage = Stage::new("turns_blocking", mode);
        for round in 0..200 {
            let (mut application, mut proxy) = if round % 2 == 0 {
                stage.outbound(Style::Polling)
            } else {
                stage.inbound(Style::Polling)
            };
            for _ in 0..5 {
                application.write_all(b"ping").unwrap();
                drain(&mut proxy, 4);
                proxy.write_all(b"pong").unwrap();
                drain(&mut application, 4);
            }
            application.set_nonblocking(false).unwrap();
            application.set_read_timeout(Some(PATIENCE)).unwrap();
            application.write_all(b"last").unwrap();
            application.shutdown(Shutdown::Write).unwrap();
            let answering = thread::spawn(move || {
                drain(&mut proxy, 4);
                wait_for("the end", || {
                    proxy.read(&mut [0; 1]).is_ok_and(|len| len == 0)
                });
                proxy.write_all(b"answer").unwrap();
            });
            let mut answer = String::new();
            application
                .read_to_string(&mut answer)
                .unwrap_or_else(|err| panic!("{mode:?} round {round}: {err}"));
            assert_eq!(answer, "answer");
            answering.join().unwrap();
        }
        let evicted = stage.evicted();
        println!(
            "{mode:?}: {} messages redirected, {evicted} of 200 sockets evicted",
            stage.redirected()
        );
        assert_eq!(evicted, 200);
    }
}

#[test]
fn a_close_with_unread_bytes_is_seen_as_without_the_sockmap() {
    for mode in [SockmapMode::Off, SockmapMode::ToProxy] {
        let stage = Stage::new("unread_close", mode);
        let (application, mut proxy) = stage.outbound(Style::Polling);
        proxy.write_all(b"never read").unwrap();
        wait_for("the bytes", || {
            application.peek(&mut [0; 16]).is_ok_and(|len| len == 10)
        });
        drop(application);
        wait_for("the reset", || match proxy.read(&mut [0; 16]) {
            Err(err) if err.kind() == ErrorKind::WouldBlock => false,
            result => {
                assert_eq!(
                    result.unwrap_err().kind(),
                    ErrorKind::ConnectionReset,
                    "{mode:?}"
                );
                true
            }
        });
    }
}

#[test]
fn bytes_sent_before_the_close_arrive() {
    for mode in ON {
        let stage = Stage::new("sent_then_closed", mode);
        for round in 0..200usize {
            let (mut application, mut proxy) = stage.outbound(Style::Polling);
            let bytes = vec![3; 1 + round * 997];
            Writer(&mut application).write_all_polling(&bytes);
            drop(application);
            assert_eq!(drain(&mut proxy, bytes.len()), bytes);
            wait_for("the end", || {
                proxy.read(&mut [0; 1]).is_ok_and(|len| len == 0)
            });
        }
        assert!(stage.redirected() >= 200);
    }
}

#[test]
fn the_end_of_a_proxy_ends_its_connections() {
    for mode in ON {
        let stage = Stage::new("killed_proxy", mode);
        let (mut application, proxy) = stage.outbound(Style::Polling);
        fill(&mut application);
        assert!(stage.redirected() > 0);
        // What the kernel does for a process that is killed.
        drop(proxy);
        wait_for("the write to fail", || {
            match application.write(&[1; 4096]) {
                Err(err) if err.kind() == ErrorKind::WouldBlock => false,
                Err(err) => {
                    assert!(
                        matches!(
                            err.kind(),
                            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                        ),
                        "{err}"
                    );
                    true
                }
                Ok(_) => false,
            }
        });
        wait_for("the read to end", || match application.read(&mut [0; 1]) {
            Err(err) if err.kind() == ErrorKind::WouldBlock => false,
            Err(err) => {
                assert!(
                    matches!(
                        err.kind(),
                        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ),
                    "{err}"
                );
                true
            }
            Ok(len) => len == 0,
        });
    }
}

#[test]
fn a_restart_keeps_the_connections_of_the_sockmap() {
    for (before, after) in [
        (SockmapMode::ToProxy, SockmapMode::ToProxy),
        (SockmapMode::Full, SockmapMode::ToProxy),
        (SockmapMode::ToProxy, SockmapMode::Full),
        (SockmapMode::Full, SockmapMode::Off),
    ] {
        let mut stage = Stage::new("sockmap_restart", before);
        let (mut application, mut proxy) = stage.outbound(Style::Polling);
        let mut exchange = |count: usize| {
            for _ in 0..count {
                application.write_all(b"ping").unwrap();
                drain(&mut proxy, 4);
                proxy.write_all(b"pong").unwrap();
                drain(&mut application, 4);
            }
        };
        exchange(20);
        stage._rig.settings.sockmap = after;
        stage.datapath = stage._rig.open();
        stage.pod.register(&stage.datapath, &stage.listeners);
        exchange(20);
        // The mode holds for new connections.
        let redirected = stage.redirected();
        let (mut application, mut proxy) = stage.outbound(Style::Polling);
        application.write_all(b"ping").unwrap();
        drain(&mut proxy, 4);
        assert_eq!(stage.redirected() > redirected, after != SockmapMode::Off);
        let redirected = stage.redirected();
        proxy.write_all(b"pong").unwrap();
        drain(&mut application, 4);
        assert_eq!(stage.redirected() > redirected, after == SockmapMode::Full);
    }
}

#[test]
fn a_file_sent_by_the_kernel_arrives_whole() {
    for mode in MODES {
        let stage = Stage::new("sendfile", mode);
        let (application, mut proxy) = stage.inbound(Style::Polling);
        let bytes: Vec<u8> = (0..3_000_000u32)
            .map(|index| (index % 251).to_le_bytes()[0])
            .collect();
        let file = rustix::fs::memfd_create("tldp", rustix::fs::MemfdFlags::empty()).unwrap();
        let mut writer = std::fs::File::from(file.try_clone().unwrap());
        writer.write_all(&bytes).unwrap();
        let received = thread::scope(|scope| {
            let reading = scope.spawn(|| drain(&mut proxy, bytes.len()));
            let mut offset = 0;
            wait_for("the file to be sent", || {
                let rest = bytes.len() - usize::try_from(offset).unwrap();
                match rustix::fs::sendfile(application.as_fd(), &file, Some(&mut offset), rest) {
                    Ok(_) => usize::try_from(offset).unwrap() == bytes.len(),
                    Err(rustix::io::Errno::AGAIN) => false,
                    Err(err) => panic!("{err}"),
                }
            });
            reading.join().unwrap()
        });
        assert!(received == bytes, "{mode:?}: the bytes differ");
        println!("{mode:?}: {} messages redirected", stage.redirected());
        assert_eq!(stage.redirected() > 0, mode != SockmapMode::Off);
    }
}

#[test]
fn a_listener_of_the_pod_that_looks_like_the_proxys_gets_no_bytes_of_others() {
    // Somebody in the pod connects to the capture listener by himself: no record, no sockmap.
    let stage = Stage::new("uninvited", SockmapMode::Full);
    let application = stage
        .pod
        .run(|| TcpStream::connect("127.0.0.1:15001").unwrap());
    let (proxy, downstream) = stage.listeners.outbound_v4.accept().unwrap();
    assert!(
        stage
            .datapath
            .original_destination(stage.pod.cookie, downstream)
            .is_none()
    );
    (&application).write_all(b"hello").unwrap();
    proxy.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 5];
    (&proxy).read_exact(&mut buffer).unwrap();
    assert_eq!(stage.redirected(), 0);
}

/// Every mode.
const MODES: [SockmapMode; 3] = [SockmapMode::Off, SockmapMode::ToProxy, SockmapMode::Full];
/// Every mode that redirects.
pub(crate) const ON: [SockmapMode; 2] = [SockmapMode::ToProxy, SockmapMode::Full];
/// A workload on another node.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 5);
