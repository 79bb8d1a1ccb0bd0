//! The sockmap: faster, and no application can tell.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use aya::maps::{HashMap, Map, MapData, SockHash};
use tulle_datapath::{
    Datapath, KernelTable, Path, PolicySubject, PolicyTable, SockmapMode, SubjectFlags,
    WorkloadRoute,
};

use crate::{
    outbound::at,
    relay::Relay,
    support::{Pod, ProxyListeners, Rig, count, wait_for},
    traffic::{Ending, Random, Server, Stream, Style, converse, listen_as},
};

/// Two captured pods, a relay between them, and the kernel side in one mode.
struct Stage {
    datapath: Arc<Datapath>,
    client: Pod,
    server: Pod,
    _relay: Relay,
    _listeners: [ProxyListeners; 2],
    // Last, since it takes away the cgroups that the others' threads live in.
    rig: Rig,
}

impl Stage {
    fn new(name: &str, mode: SockmapMode, path: Path) -> Self {
        Self::made(name, mode, path, |_, _| {})
    }

    /// The same, of pods that `change` has changed before they are captured.
    fn made(
        name: &str,
        mode: SockmapMode,
        path: Path,
        change: impl FnOnce(&mut Pod, &mut Pod),
    ) -> Self {
        let mut rig = Rig::new(name);
        rig.settings.sockmap = mode;
        let datapath = Arc::new(rig.open());
        let (mut client, mut server) = (rig.pod(), rig.pod());
        change(&mut client, &mut server);
        let listeners = [
            rig.capture(&datapath, &client),
            rig.capture(&datapath, &server),
        ];
        let workloads = vec![WorkloadRoute {
            address: server.v4.into(),
            path,
        }];
        let table = KernelTable {
            frontends: Vec::new(),
            workloads,
        };
        datapath.reconcile(&table).unwrap();
        let relay = Relay::start(&datapath, &client, &server, &listeners[0].outbound_v4);
        Stage {
            datapath,
            client,
            server,
            _relay: relay,
            _listeners: listeners,
            rig,
        }
    }

    fn target(&self) -> SocketAddr {
        at(self.server.v4, 7000)
    }

    /// Holds many conversations and returns every fault.
    fn converse(&self, client: Style, server: Style, per_worker: u64) -> Vec<String> {
        let target = self.target();
        let listener = self
            .server
            .run(|| listen_as(server, at(self.server.v4, 7000)));
        let served = Server::start(&self.server, listener, server, WORKERS);
        let clients: Vec<_> = (0..WORKERS)
            .map(|worker| {
                self.client.spawn(move || {
                    let mut random = Random(u64::try_from(worker).unwrap() * 7919 + 1);
                    let mut faults = Vec::new();
                    for round in 0..per_worker {
                        let ending = [
                            Ending::HalfClose,
                            Ending::HalfClose,
                            Ending::ServerFirst,
                            Ending::ClientFirst,
                        ][random.below(4)];
                        let body = random.body();
                        let chunk_max = random.below(50_000);
                        let result = Stream::connect(target, client)
                            .and_then(|stream| converse(stream, ending, body, chunk_max));
                        if let Err(err) = result {
                            faults.push(format!(
                                "client {worker}.{round} {ending:?} {}: {err}",
                                body.len()
                            ));
                        }
                    }
                    faults
                })
            })
            .collect();
        let mut faults: Vec<String> = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        faults.extend(served.stop(|| {
            let _poke = self.client.run(|| Stream::connect(target, Style::Blocking));
        }));
        faults
    }

    /// How many entries a map of connections has, with keys and values of these sizes.
    fn records<const KEY: usize, const VALUE: usize>(&self, map: &str) -> usize
    where
        [u8; KEY]: aya::Pod,
        [u8; VALUE]: aya::Pod,
    {
        let data = Map::LruHashMap(MapData::from_pin(self.pin(map)).unwrap());
        let entries: HashMap<MapData, [u8; KEY], [u8; VALUE]> = data.try_into().unwrap();
        entries.keys().count()
    }

    /// How many sockets are in a sockmap.
    fn sockets(&self, map: &str) -> usize {
        let data = Map::SockHash(MapData::from_pin(self.pin(map)).unwrap());
        let sockets: SockHash<MapData, [u8; 48]> = data.try_into().unwrap();
        sockets.keys().count()
    }

    /// Where a map is pinned, whatever the number of its layout.
    fn pin(&self, map: &str) -> PathBuf {
        let maps = self.rig.settings.pin_dir.join("maps");
        let begins = format!("{map}_");
        let mut pins = fs::read_dir(&maps).unwrap().map(|entry| entry.unwrap());
        let pin = pins.find(|pin| {
            let name = pin.file_name().into_string().unwrap();
            let layout = name.strip_prefix(&begins);
            layout.is_some_and(|layout| layout.parse::<u32>().is_ok())
        });
        pin.unwrap().path()
    }

    fn counters(&self) -> String {
        let counters = self.datapath.counters();
        let shown = counters
            .iter()
            .filter(|counter| counter.program == "sk_msg" || counter.reason.starts_with("socket"));
        shown
            .map(|counter| format!(" {}={}", counter.reason, counter.count))
            .collect()
    }
}

fn check(name: &str, mode: SockmapMode, path: Path, per_worker: u64) {
    for client in [Style::Blocking, Style::Switching, Style::Polling] {
        for server in [Style::Blocking, Style::Switching, Style::Polling] {
            let stage = Stage::new(name, mode, path);
            let faults = stage.converse(client, server, per_worker);
            println!(
                "{name}: {client:?} -> {server:?}: {} conversations, {} faults;{}",
                per_worker * 4,
                faults.len(),
                stage.counters()
            );
            assert!(faults.is_empty(), "{:#?}", &faults[..faults.len().min(20)]);
            let is_redirecting = match (path, mode) {
                (Path::Direct, _) => client == Style::Polling && server == Style::Polling,
                // These conversations are short: whether a message finds TCP idle after the join is a matter of luck.
                (_, SockmapMode::ToProxy) => false,
                _ => client == Style::Polling || server == Style::Polling,
            };
            if is_redirecting {
                assert!(
                    count(&stage.datapath, "sk_msg", "redirected") > 0,
                    "nothing was redirected"
                );
            }
            if mode == SockmapMode::ToProxy && client == Style::Polling {
                assert!(
                    count(&stage.datapath, "join", "socket_joined") > 0,
                    "nobody joined"
                );
            }
        }
    }
}

#[test]
fn every_byte_arrives_with_the_redirect_to_the_proxy() {
    check("to_proxy", SockmapMode::ToProxy, Path::Proxy, 120);
}

#[test]
fn every_byte_arrives_with_the_full_redirect() {
    check("full", SockmapMode::Full, Path::Proxy, 120);
}

#[test]
fn every_byte_arrives_with_the_redirect_between_applications() {
    check("direct_full", SockmapMode::Full, Path::Direct, 250);
}

#[test]
fn a_pod_that_wants_no_sockmap_has_none() {
    for excluded in ["client", "server"] {
        let stage = Stage::made(
            "excluded",
            SockmapMode::Full,
            Path::Direct,
            |client, server| {
                client.may_join = excluded != "client";
                server.may_join = excluded != "server";
            },
        );
        // What policy says of a pod later is no reason to forget it.
        let subjects = [&stage.client, &stage.server].map(|pod| PolicySubject {
            uid: pod.uid.clone(),
            identity: 7,
            flags: SubjectFlags::default(),
        });
        let table = PolicyTable {
            subjects: subjects.to_vec(),
            ..PolicyTable::default()
        };
        stage.datapath.reconcile_policy(&table).unwrap();
        let faults = stage.converse(Style::Polling, Style::Polling, 5);
        assert!(faults.is_empty(), "{faults:#?}");
        let counted = |program, reason| count(&stage.datapath, program, reason);
        assert_eq!(counted("sk_msg", "redirected"), 0, "{excluded}");
        // At least: what wakes the servers at the end is a connection as well.
        assert!(counted("sockops", "socket_excluded") >= 20, "{excluded}");
        assert!(counted("sockops", "socket_joined") >= 20, "{excluded}");
    }
}

#[test]
fn nothing_is_left_of_a_hundred_thousand_connections() {
    let stage = Stage::new("leaks", SockmapMode::Full, Path::Direct);
    let target = stage.target();
    let listener = stage
        .server
        .run(|| listen_as(Style::Polling, at(stage.server.v4, 7000)));
    let serving: Vec<_> = (0..WORKERS)
        .map(|_| {
            let listener = listener.try_clone().unwrap();
            stage.server.spawn(move || {
                for _ in 0..SHORT / WORKERS {
                    let mut stream = Stream::accept(&listener, Style::Polling).unwrap();
                    let mut word = [0; 4];
                    stream.read_exact(&mut word).unwrap();
                    // The server closes first, so that the client's ports are free again.
                    stream.write_all(&word).unwrap();
                }
            })
        })
        .collect();
    let asking: Vec<_> = (0..WORKERS)
        .map(|_| {
            stage.client.spawn(move || {
                for _ in 0..SHORT / WORKERS {
                    let mut stream = Stream::connect(target, Style::Polling).unwrap();
                    stream.write_all(b"word").unwrap();
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).unwrap();
                    assert_eq!(answer, b"word");
                }
            })
        })
        .collect();
    for worker in asking.into_iter().chain(serving) {
        worker.join().unwrap();
    }
    assert!(count(&stage.datapath, "sk_msg", "redirected") > SHORT as u64);
    wait_for("the last records to go", || {
        stage.records::<48, 16>("SOCKETS") == 0 && stage.records::<48, 4>("DIRECTS") == 0
    });
    for map in ["APPLICATIONS", "PROXIES"] {
        wait_for("the last sockets to go", || stage.sockets(map) == 0);
    }
}

/// Connections of which nothing may be left.
const SHORT: usize = 100_000;
/// Conversations at once.
const WORKERS: usize = 4;
