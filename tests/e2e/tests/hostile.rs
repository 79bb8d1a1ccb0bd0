//! Ten thousand bad connections, spread over every door: each is counted, and afterwards all is as before.

#[path = "hostile/attack.rs"]
mod attack;
#[path = "hostile/process.rs"]
mod process;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::rig::{READY_DEADLINE, Rig, http_get, sum_of};
use tulle_identity::testing::{Flaw, Forge};
use tulle_lab::{Kind, ObjectKey};

use attack::{Bad, Weapons, flood};
use process::Process;

#[test]
fn bad_connections_are_counted_and_leave_nothing_behind() -> Result<()> {
    let rig = Rig::up("evil", &["koornacht"])?;
    rig.lab.apply_text("koornacht", VICTIM)?;
    let victim = ObjectKey::new(Kind::Pod, "default", "victim");
    rig.lab
        .wait_pod_ready("koornacht", &victim, READY_DEADLINE)?;
    rig.pod(
        "koornacht",
        "koornacht-worker2",
        "client",
        &["sleep", "100000"],
    )?;
    let stage = Stage::set(&rig)?;
    rig.wait_for("the victim is reached", DEADLINE, || {
        stage.good_request().map(|()| true)
    })?;
    let processes = ["koornacht-worker/node-proxy", "koornacht/xds-server"];
    let before = processes.map(|name| Process::of(&rig, name));
    let mut failed = Vec::new();
    for door in DOORS {
        if let Err(error) = stage.attack(&door) {
            failed.push(format!("{}: {error:#}", door.name));
        }
    }
    if let Err(error) = stage.half_open_handshakes_are_limited() {
        failed.push(format!("half-open handshakes: {error:#}"));
    }
    if let Err(error) = rig.wait_for("a good request", DEADLINE, || {
        stage.good_request().map(|()| true)
    }) {
        failed.push(format!("{error:#}"));
    }
    for (name, before) in processes.into_iter().zip(before) {
        if let Err(error) = before.and_then(|before| before.is_as_before(&rig, name)) {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    let total: usize = DOORS.iter().map(Door::total).sum();
    ensure!(total >= 10_000, "only {total} bad connections");
    Ok(())
}

/// Somewhere that bad connections can be sent to.
struct Door {
    name: &'static str,
    from: Sender,
    port: u16,
    /// What is sent, and how often.
    bad: &'static [(Bad, usize)],
    /// What must grow, at least by the number of connections.
    counters: &'static [Counter],
}

impl Door {
    fn total(&self) -> usize {
        self.bad.iter().map(|(_, count)| count).sum()
    }
}

/// Where the sender is.
#[derive(Debug, Clone, Copy)]
enum Sender {
    /// Outside, calling the pod.
    Outside,
    /// In the pod's own namespace, calling loopback, but not captured.
    Inside,
    /// On another node, calling the control plane.
    Node,
}

/// A series that counts bad input: the metric's name, the labels that it must have and those that it must not.
type Counter = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const HANDSHAKES: Counter = (
    "tulle_tunnel_handshakes_total",
    &["side=\"Server\""],
    &["reason=\"ok\""],
);
const INBOUND: Counter = (
    "tulle_connections_failed_total",
    &["direction=\"Inbound\""],
    &[],
);
const OUTBOUND: Counter = (
    "tulle_connections_failed_total",
    &["direction=\"Outbound\""],
    &[],
);
const QUESTIONS: Counter = ("tulle_dns_queries_total", &[], &[]);
const GRPC: Counter = ("tulle_grpc_connections_refused_total", &[], &[]);
const STREAMS: Counter = ("tulle_xds_refused_streams_total", &[], &[]);

const DOORS: [Door; 10] = [
    Door {
        name: "15008",
        from: Sender::Outside,
        port: 15008,
        bad: &[
            (Bad::Random, 800),
            (Bad::HalfHello, 800),
            (Bad::Nothing, 700),
            (Bad::Http, 600),
            (Bad::NoCertificate, 600),
        ],
        counters: &[HANDSHAKES],
    },
    Door {
        name: "15008, a proven peer that speaks no HTTP/2",
        from: Sender::Outside,
        port: 15008,
        bad: &[(Bad::ProvenNoise, 300)],
        // Its handshake is good; the bytes after it are what must be counted.
        counters: &[HANDSHAKES, INBOUND],
    },
    Door {
        name: "15008, a proven peer with senseless requests",
        from: Sender::Outside,
        port: 15008,
        bad: &[(Bad::ProvenBadAuthority, 200)],
        counters: &[INBOUND],
    },
    Door {
        name: "15001",
        from: Sender::Inside,
        port: 15001,
        bad: &[(Bad::Random, 500), (Bad::Nothing, 500), (Bad::Http, 500)],
        counters: &[OUTBOUND],
    },
    Door {
        name: "15006",
        from: Sender::Outside,
        port: 15006,
        bad: &[(Bad::Random, 500), (Bad::Nothing, 500), (Bad::Http, 300)],
        counters: &[INBOUND],
    },
    Door {
        name: "15006 on loopback",
        from: Sender::Inside,
        port: 15006,
        bad: &[(Bad::Random, 200), (Bad::Nothing, 200)],
        counters: &[INBOUND],
    },
    Door {
        name: "DNS by TCP",
        from: Sender::Inside,
        port: 15053,
        bad: &[(Bad::LyingLength, 300), (Bad::TooLongFrame, 200)],
        counters: &[QUESTIONS],
    },
    Door {
        name: "DNS by UDP",
        from: Sender::Inside,
        port: 15053,
        bad: &[(Bad::Datagram, 1000)],
        counters: &[QUESTIONS],
    },
    Door {
        name: "15012",
        from: Sender::Node,
        port: 15012,
        bad: &[
            (Bad::Random, 500),
            (Bad::HalfHello, 200),
            (Bad::Nothing, 300),
            (Bad::Http, 200),
        ],
        counters: &[GRPC],
    },
    Door {
        name: "15012, streams without a certificate",
        from: Sender::Node,
        port: 15012,
        bad: &[(Bad::UnprovenStream, 300)],
        counters: &[STREAMS],
    },
];

struct Stage<'a> {
    rig: &'a Rig,
    victim: IpAddr,
    xds: IpAddr,
    weapons: Weapons,
}

impl<'a> Stage<'a> {
    fn set(rig: &'a Rig) -> Result<Self> {
        let directory = rig.lab.state_directory().join("koornacht/ca");
        let forge = Forge::open(&directory, &"koornacht.tulle".parse()?)?;
        let id = "spiffe://koornacht.tulle/ns/default/sa/default".parse()?;
        Ok(Stage {
            rig,
            victim: rig.address("koornacht", "pod/victim", false)?,
            xds: Ipv4Addr::new(172, 18, 1, 10).into(),
            weapons: Weapons {
                svid: forge.svid(&id, Flaw::None)?,
            },
        })
    }

    /// Sends a door's bad connections, and checks that all were counted and that a good request gets through at once.
    fn attack(&self, door: &Door) -> Result<()> {
        let before = self.count(door)?;
        for (bad, count) in door.bad {
            let host = match door.from {
                Sender::Outside => self.victim,
                Sender::Inside => Ipv4Addr::LOCALHOST.into(),
                Sender::Node => self.xds,
            };
            let target = SocketAddr::new(host, door.port);
            let send = || flood(target, *bad, *count, &self.weapons);
            match door.from {
                Sender::Outside => self.rig.lab.inside_router(send)?,
                Sender::Inside => self.rig.inside_pod("koornacht", "victim", send)?,
                Sender::Node => self.rig.lab.inside_node("koornacht-worker2", send)?,
            }
            .with_context(|| format!("{bad:?} to {target}"))?;
        }
        self.good_request()?;
        let total = u64::try_from(door.total())?;
        let mut grown = 0;
        let all = self
            .rig
            .wait_for(&format!("all {total} are counted"), DEADLINE, || {
                grown = self.count(door)? - before;
                ensure!(grown >= total, "{grown} are");
                Ok(true)
            });
        eprintln!("{}: {total} sent, {grown} counted", door.name);
        all
    }

    /// More peers that begin a handshake and fall silent than one pod may have under way.
    fn half_open_handshakes_are_limited(&self) -> Result<()> {
        let target = SocketAddr::new(self.victim, 15008);
        let labels = ["side=\"Server\"", "reason=\"limit\""];
        let limited = || -> Result<u64> {
            let metrics = self.rig.metrics("koornacht-worker")?;
            Ok(sum_of(&metrics, "tulle_tunnel_handshakes_total", &labels))
        };
        let before = limited()?;
        let silent = self
            .rig
            .lab
            .inside_router(|| attack::half_open(target, HALF_OPEN))??;
        self.rig.wait_for("some are over the limit", DEADLINE, || {
            Ok(limited()? > before)
        })?;
        // The peers that have their tunnel are not disturbed.
        self.good_request()?;
        drop(silent);
        Ok(())
    }

    fn count(&self, door: &Door) -> Result<u64> {
        let metrics = match door.from {
            Sender::Outside | Sender::Inside => self.rig.metrics("koornacht-worker")?,
            Sender::Node => {
                let admin = SocketAddr::new(self.xds, XDS_ADMIN_PORT);
                self.rig
                    .lab
                    .inside_control_plane("koornacht", || http_get(admin, "/metrics"))??
            }
        };
        let all = door.counters.iter().map(|(name, labels, without)| {
            let excluded: u64 = without
                .iter()
                .map(|label| {
                    let labels: Vec<&str> = labels.iter().chain([label]).copied().collect();
                    sum_of(&metrics, name, &labels)
                })
                .sum();
            sum_of(&metrics, name, labels) - excluded
        });
        Ok(all.sum())
    }

    fn good_request(&self) -> Result<()> {
        let url = format!("http://{}/", self.victim);
        let command = [
            "curl",
            "--fail",
            "--silent",
            "--show-error",
            "--max-time",
            "5",
            &url,
        ];
        let text = self.rig.run("koornacht", "pod/client", &command)?;
        ensure!(text.contains("json-mock"), "{text}");
        Ok(())
    }
}

const VICTIM: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: victim, labels: {name: victim}}
spec:
  nodeName: koornacht-worker
  containers:
  - {name: main, image: "docker.io/cilium/json-mock:1.2"}
"#;

/// More than one pod's handshakes may be, far less than its connections.
const HALF_OPEN: usize = 600;
const XDS_ADMIN_PORT: u16 = 15014;
/// Longer than a silent peer is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
