//! What the kernel side tells of connections that lead straight to a backend.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};
use tulle_datapath::{ConnectEvent, ConnectEvents, ConnectOutcome, Datapath, KernelTable, Path};
use tulle_model::Protocol;

use crate::{
    outbound::{at, frontend},
    support::{PATIENCE, Pod, ProxyListeners, Rig, count},
};

struct Stage {
    datapath: Datapath,
    events: ConnectEvents,
    client: Pod,
    server: Pod,
    _listeners: ProxyListeners,
    _rig: Rig,
}

impl Stage {
    fn new(name: &str) -> Self {
        let rig = Rig::new(name);
        let datapath = rig.open();
        let (client, server) = (rig.pod(), rig.pod());
        let listeners = rig.capture(&datapath, &client);
        let events = datapath.take_connect_events().unwrap();
        assert!(datapath.take_connect_events().is_none(), "one reader");
        Stage {
            datapath,
            events,
            client,
            server,
            _listeners: listeners,
            _rig: rig,
        }
    }

    /// Leads the service to one backend.
    fn serve(&self, service: &str, backend: SocketAddr, path: Path) {
        let table = KernelTable {
            frontends: vec![frontend(service, Protocol::Tcp, &[(backend, path)])],
            workloads: Vec::new(),
        };
        self.datapath.reconcile(&table).unwrap();
    }

    fn next(&mut self) -> ConnectEvent {
        loop {
            if let Some(event) = self.events.take_next() {
                return event;
            }
            let patience = rustix::event::Timespec::try_from(PATIENCE).unwrap();
            let mut fds = [PollFd::new(&self.events, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&patience)).unwrap();
            assert_eq!(ready, 1, "waited in vain for an event");
        }
    }

    fn expect(&mut self, backend: SocketAddr, outcome: ConnectOutcome) {
        assert_eq!(self.next(), ConnectEvent { backend, outcome });
    }
}

/// Begins to connect and does not wait.
fn begin(pod: &Pod, address: SocketAddr) -> Socket {
    pod.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let err = socket.connect(&address.into()).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EINPROGRESS), "{err}");
        socket
    })
}

#[test]
fn a_refusing_backend_is_told_at_once() {
    let mut stage = Stage::new("told_refused");
    for (service, backend, path) in [
        ("172.20.1.1:80", at(stage.server.v4, 9000), Path::Plain),
        ("172.20.1.1:80", at(stage.server.v4, 9001), Path::Direct),
        ("[fd00:20:1::1]:80", at(stage.server.v6, 9000), Path::Plain),
        ("[fd00:20:1::1]:80", at(stage.server.v6, 9001), Path::Direct),
    ] {
        stage.serve(service, backend, path);
        let err = stage
            .client
            .run(|| TcpStream::connect(service))
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
        stage.expect(backend, ConnectOutcome::Refused);
    }
    // The proxy's absence is no fault of the backend, and neither is a success.
    stage.serve("172.20.1.1:80", at(stage.server.v4, 9000), Path::Plain);
    let _listener = stage
        .server
        .run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let _stream = stage
        .client
        .run(|| TcpStream::connect("172.20.1.1:80").unwrap());
    assert_eq!(stage.events.take_next(), None);
    assert_eq!(count(&stage.datapath, "sockops", "failure_reported"), 4);
}

#[test]
fn a_silent_backend_is_told_after_a_second_and_forgiven_when_it_answers() {
    let mut stage = Stage::new("told_silent");
    let backend = at(stage.server.v4, 9000);
    stage.serve("172.20.1.1:80", backend, Path::Plain);
    // A listener whose queue is full answers nobody.
    let listener = stage.server.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&backend.into()).unwrap();
        socket.listen(0).unwrap();
        TcpListener::from(socket)
    });
    let _first = stage.client.run(|| TcpStream::connect(backend).unwrap());
    let waiting = begin(&stage.client, "172.20.1.1:80".parse().unwrap());
    stage.expect(backend, ConnectOutcome::Silent);
    listener.accept().unwrap();
    stage.expect(backend, ConnectOutcome::Recovered);
    drop(waiting);
    assert_eq!(stage.events.take_next(), None, "each is told once");
}

#[test]
fn an_absent_backend_is_told_as_silent_and_then_as_unreachable() {
    let mut stage = Stage::new("told_absent");
    let backend: SocketAddr = "10.77.0.200:9000".parse().unwrap();
    stage.serve("172.20.1.1:80", backend, Path::Plain);
    let _waiting = begin(&stage.client, "172.20.1.1:80".parse().unwrap());
    stage.expect(backend, ConnectOutcome::Silent);
    stage.expect(backend, ConnectOutcome::Unreachable);
}

#[test]
fn an_application_that_gives_up_says_nothing_about_the_backend() {
    let mut stage = Stage::new("told_nothing");
    let backend: SocketAddr = "10.77.0.200:9000".parse().unwrap();
    stage.serve("172.20.1.1:80", backend, Path::Plain);
    drop(begin(&stage.client, "172.20.1.1:80".parse().unwrap()));
    // Events come in order: were there one, it would come first.
    let refusing = at(stage.server.v4, 9000);
    stage.serve("172.20.1.1:80", refusing, Path::Plain);
    stage
        .client
        .run(|| TcpStream::connect("172.20.1.1:80").unwrap_err());
    stage.expect(refusing, ConnectOutcome::Refused);
}

#[test]
fn a_flood_of_failures_is_bounded_and_counted() {
    let mut stage = Stage::new("told_flood");
    stage.serve("172.20.1.1:80", at(stage.server.v4, 9000), Path::Plain);
    let told = |stage: &Stage, reason| count(&stage.datapath, "sockops", reason);
    stage.client.run(|| {
        for _ in 0..3_000 {
            TcpStream::connect("172.20.1.1:80").unwrap_err();
        }
    });
    let (reported, dropped) = (
        told(&stage, "failure_reported"),
        told(&stage, "report_dropped"),
    );
    assert_eq!(reported + dropped, 3_000);
    assert!(dropped > 0 && reported > 1_000, "{reported} {dropped}");
    let mut read = 0;
    while stage.events.take_next().is_some() {
        read += 1;
    }
    assert_eq!(read, reported);
    // There is room again.
    stage
        .client
        .run(|| TcpStream::connect("172.20.1.1:80").unwrap_err());
    stage.next();
}
