//! Ways around a policy that somebody in the cluster might try: each leads nowhere, and is counted.

use std::{
    fs, io,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tulle_e2e::rig::{READY_DEADLINE, Rig};

use crate::prober::{Fate, PYTHON, Prober, SCRIPT, Target, Transport};

const CLUSTER: &str = "koornacht";
const PORT: u16 = 9000;
const PATIENCE: Duration = Duration::from_millis(700);

/// The vault is on worker2 and lets only the friend in.
const GUARD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: guard}\nspec:\n  endpointSelector: {matchLabels: {name: vault}}\n  \
    ingress:\n  - fromEndpoints: [{matchLabels: {name: friend}}]\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: mute}\nspec:\n  \
    endpointSelector: {matchLabels: {name: late}}\n  egress: [{}]\n";

#[test]
fn nobody_gets_around_a_policy() -> Result<()> {
    let scene = Scene::up()?;
    let mut failed = Vec::new();
    for (attempt, is_counted, try_it) in ATTEMPTS {
        let before = scene.denied()?;
        let outcome = try_it(&scene).and_then(|()| {
            let counted = scene.denied()? > before;
            ensure!(counted || !is_counted, "it is not counted");
            Ok(())
        });
        match outcome {
            Ok(()) => eprintln!("holds: {attempt}"),
            Err(error) => {
                eprintln!("BROKEN: {attempt}: {error:#}");
                failed.push(format!("{attempt}: {error:#}"));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

type Attempt = fn(&Scene) -> Result<()>;

const ATTEMPTS: [(&str, bool, Attempt); 8] = [
    ("the pod's address from another node", true, |s| {
        s.refuses("stranger", PORT)
    }),
    ("the pod's address from its own node", true, |s| {
        s.refuses("neighbour", PORT)
    }),
    ("the proxy's ports by hand", false, |s| {
        for port in [15_001, 15_006, 15_008, 15_053] {
            s.refuses("stranger", port)?;
            s.refuses("neighbour", port)?;
        }
        Ok(())
    }),
    ("a stranger's process outside of its cgroup", true, |s| {
        s.refuses_uncaptured("stranger")
    }),
    (
        "a friend's process outside of its cgroup proves nothing",
        true,
        |s| s.refuses_uncaptured("friend"),
    ),
    (
        "a friend's address in front of a stranger's datagram",
        false,
        spoofed_datagrams,
    ),
    ("another node's own network", true, other_node),
    (
        "a pod that connects from its first moment on",
        true,
        late_pod,
    ),
];

struct Scene {
    rig: Rig,
    vault: IpAddr,
}

impl Scene {
    fn up() -> Result<Scene> {
        let rig = Rig::up("bypas", &[CLUSTER])?;
        rig.lab.apply_text(CLUSTER, GUARD)?;
        let serve = [PYTHON, "-c", SCRIPT, "serve", "vault", "9000"];
        rig.pod(CLUSTER, "koornacht-worker2", "vault", &serve)?;
        let idle = ["sleep", "100000"];
        rig.pod(CLUSTER, "koornacht-worker2", "neighbour", &idle)?;
        for name in ["friend", "stranger"] {
            rig.pod(CLUSTER, "koornacht-worker", name, &idle)?;
        }
        let vault = rig.address(CLUSTER, "pod/vault", false)?;
        let scene = Scene { rig, vault };
        // Whoever may, can: what is closed to everybody proves nothing.
        scene
            .rig
            .wait_for("the friend is let in", READY_DEADLINE, || {
                Ok(scene.fates("friend", PORT)? == [Fate::Ok; 2])
            })?;
        Ok(scene)
    }

    fn fates(&self, client: &str, port: u16) -> Result<Vec<Fate>> {
        let mut prober = Prober::start(&self.rig, CLUSTER, "default", client)?;
        let target = |transport| Target(transport, self.vault.to_string(), port);
        prober.ask(&[target(Transport::Tcp), target(Transport::Udp)], PATIENCE)?;
        prober.answer()
    }

    fn refuses(&self, client: &str, port: u16) -> Result<()> {
        let fates = self.fates(client, port)?;
        ensure!(
            !fates.contains(&Fate::Ok),
            "port {port} answers {client}: {fates:?}"
        );
        Ok(())
    }

    /// From the client's network, by a process that no hook of the mesh sees.
    fn refuses_uncaptured(&self, client: &str) -> Result<()> {
        let server = SocketAddr::new(self.vault, PORT);
        let answer = self
            .rig
            .inside_pod(CLUSTER, client, || plain_answer(server))?;
        ensure!(answer.is_none(), "{answer:?} answered");
        Ok(())
    }

    /// What both nodes count as denied.
    fn denied(&self) -> Result<u64> {
        let mut sum = 0;
        for node in ["koornacht-worker", "koornacht-worker2"] {
            let metrics = self.rig.metrics(node)?;
            let denied = metrics
                .lines()
                .filter(|line| !line.starts_with('#') && line.contains("den"));
            sum += denied
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(sum)
    }
}

/// Whether TCP or UDP brings a byte.
fn plain_answer(server: SocketAddr) -> Option<Transport> {
    let tcp = || -> io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0; 64])
    };
    let udp = || -> io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", server)?;
        socket.recv(&mut [0; 64])
    };
    if tcp().is_ok_and(|len| len > 0) {
        return Some(Transport::Tcp);
    }
    udp().is_ok().then_some(Transport::Udp)
}

fn other_node(scene: &Scene) -> Result<()> {
    let server = SocketAddr::new(scene.vault, PORT);
    let answer = scene
        .rig
        .lab
        .inside_node("koornacht-worker", || plain_answer(server))?;
    ensure!(answer.is_none(), "{answer:?} answered the other node");
    // The pod's own node may: its kubelet probes the pod.
    let answer = scene
        .rig
        .lab
        .inside_node("koornacht-worker2", || plain_answer(server))?;
    ensure!(answer.is_some(), "the pod's own node was refused");
    Ok(())
}

/// The vault answers whom it believes: then the friend would catch what it never asked for.
fn spoofed_datagrams(scene: &Scene) -> Result<()> {
    const CAUGHT_AT: u16 = 5_555;
    let friend = scene.rig.address(CLUSTER, "pod/friend", false)?;
    let (IpAddr::V4(friend), IpAddr::V4(vault)) = (friend, scene.vault) else {
        bail!("the lab's pods have IPv4 addresses first");
    };
    let port = CAUGHT_AT.to_string();
    let caught = std::thread::scope(|scope| {
        let catcher = scope.spawn(|| {
            let command = [PYTHON, "-c", SCRIPT, "catch", port.as_str()];
            scene.rig.run(CLUSTER, "pod/friend", &command)
        });
        for liar in ["stranger", "neighbour"] {
            while !catcher.is_finished() {
                let sent = scene
                    .rig
                    .inside_pod(CLUSTER, liar, || send_as(friend, CAUGHT_AT, vault))?;
                sent.with_context(|| format!("{liar} cannot send by hand"))?;
                if liar == "stranger" {
                    break;
                }
            }
        }
        catcher
            .join()
            .map_err(|_| anyhow::anyhow!("the catcher's thread broke off"))?
    })?;
    ensure!(
        caught.contains("caught 0"),
        "the vault believed a liar: {caught}"
    );
    Ok(())
}

/// Sends a datagram with whatever source one likes.
fn send_as(source: Ipv4Addr, port: u16, destination: Ipv4Addr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    let text = b"liar";
    let len = u16::try_from(UDP_HEADER_LEN + text.len()).unwrap_or(u16::MAX);
    // The kernel fills in the length and the checksum of the outer header; a datagram may go without its own.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    for field in [port, PORT, len, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(text);
    let to = SockAddr::from(SocketAddr::new(destination.into(), 0));
    socket.send_to(&packet, &to)?;
    Ok(())
}

/// It starts enforced: what its first connects ask for waits for the policy, or goes nowhere.
fn late_pod(scene: &Scene) -> Result<()> {
    let open = [PYTHON, "-c", SCRIPT, "serve", "open", "9000"];
    scene.rig.pod(CLUSTER, "koornacht-worker2", "open", &open)?;
    let address = scene.rig.address(CLUSTER, "pod/open", false)?.to_string();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rush");
    let path = file.to_str().context("a path in UTF-8")?;
    let rush = [PYTHON, "-c", SCRIPT, "rush", &address, "9000", path];
    scene.rig.pod(CLUSTER, "koornacht-worker", "late", &rush)?;
    scene
        .rig
        .wait_for("the pod has tried", READY_DEADLINE, || Ok(file.exists()))?;
    let text = fs::read_to_string(&file)?;
    let (tries, answers) = text.split_once(' ').context("two numbers")?;
    ensure!(tries.parse::<u32>()? >= 10, "only {tries} tries");
    ensure!(answers == "0", "{answers} of {tries} tries were answered");
    Ok(())
}

const IPPROTO_RAW: i32 = 255;
const UDP_HEADER_LEN: usize = 8;
