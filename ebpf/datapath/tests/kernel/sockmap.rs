//! The sockmap: faster, and no application can tell.

use std::{net::SocketAddr, sync::Arc};

use tulle_datapath::{Datapath, KernelTable, Path, SockmapMode, WorkloadRoute};

use crate::{
    outbound::at,
    relay::Relay,
    support::{Pod, ProxyListeners, Rig, count},
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
    _rig: Rig,
}

impl Stage {
    fn new(name: &str, mode: SockmapMode, path: Path) -> Self {
        let mut rig = Rig::new(name);
        rig.settings.sockmap = mode;
        let datapath = Arc::new(rig.open());
        let (client, server) = (rig.pod(), rig.pod());
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
            _rig: rig,
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

/// Conversations at once.
const WORKERS: usize = 4;
