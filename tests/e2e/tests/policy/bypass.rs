//! Ways around a policy that somebody in the cluster might try: each leads nowhere, and is counted.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tulle_e2e::{
    promises::Promises,
    rig::{READY_DEADLINE, Rig, sum_of},
};
use tulle_identity::testing::{CarelessPeer, Flaw, Forge};

use crate::prober::{Fate, PYTHON, Prober, SCRIPT, Target, Transport};

const CLUSTER: &str = "koornacht";
const NODES: [&str; 2] = ["koornacht-worker", "koornacht-worker2"];
const PORT: u16 = 9000;
const PATIENCE: Duration = Duration::from_millis(700);

/// The vault is on worker2 and lets only the friend in.
const GUARD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: guard}\nspec:\n  endpointSelector: {matchLabels: {name: vault}}\n  \
    ingress:\n  - fromEndpoints: [{matchLabels: {name: friend}}]\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: mute}\nspec:\n  \
    endpointSelector: {matchLabels: {name: late}}\n  egress: [{}]\n";

/// A way around the policy, and the counters that it moves, each by itself.
struct Attempt {
    name: &'static str,
    try_it: fn(&Scene) -> Result<()>,
    counted: &'static [Series],
}

/// A series of a metric, summed over both nodes.
type Series = (&'static str, &'static [&'static str]);

const EXITS: &str = "tulle_kernel_exits_total";
const BY_PROXY: Series = (
    "tulle_policy_verdicts_total",
    &[
        "direction=\"ingress\"",
        "outcome=\"deny\"",
        "seen=\"proxy\"",
    ],
);
const ON_WIRE: Series = (EXITS, &["program=\"to_pod\"", "reason=\"ingress_denied\""]);
const AT_CALL: Series = (
    EXITS,
    &["program=\"connect4\"", "reason=\"ingress_denied\""],
);
const PROXYS_PORT: Series = (EXITS, &["program=\"connect4\"", "reason=\"proxy_port\""]);
const SPOOFED: Series = (EXITS, &["program=\"from_pod\"", "reason=\"spoofed\""]);
const MUTED: Series = (EXITS, &["program=\"connect4\"", "reason=\"egress_denied\""]);

const ATTEMPTS: [Attempt; 10] = [
    Attempt {
        name: "the pod's address from another node",
        try_it: |s| s.refuses("stranger", PORT),
        counted: &[BY_PROXY],
    },
    Attempt {
        name: "the pod's address from its own node",
        try_it: |s| s.refuses("neighbour", PORT),
        counted: &[AT_CALL],
    },
    Attempt {
        name: "the proxy's ports by hand",
        try_it: proxys_ports,
        counted: &[PROXYS_PORT],
    },
    Attempt {
        name: "a stranger's process outside of its cgroup",
        try_it: |s| s.refuses_uncaptured("stranger"),
        counted: &[ON_WIRE],
    },
    Attempt {
        name: "a neighbour's process outside of its cgroup",
        try_it: |s| s.refuses_uncaptured("neighbour"),
        counted: &[ON_WIRE],
    },
    Attempt {
        name: "a friend's process outside of its cgroup proves nothing on another node",
        try_it: |s| s.refuses_uncaptured("friend"),
        counted: &[ON_WIRE],
    },
    Attempt {
        name: "headers that claim another source, through a tunnel and in plain text",
        try_it: forged_headers,
        counted: &[BY_PROXY],
    },
    Attempt {
        name: "a friend's address in front of a stranger's datagram",
        try_it: spoofed_datagrams,
        counted: &[SPOOFED],
    },
    Attempt {
        name: "another node's own network",
        try_it: other_node,
        counted: &[ON_WIRE],
    },
    Attempt {
        name: "a pod that connects from its first moment on",
        try_it: late_pod,
        counted: &[MUTED],
    },
];

#[test]
fn nobody_gets_around_a_policy() -> Result<()> {
    let scene = Scene::up()?;
    let mut promises = Promises::default();
    for attempt in ATTEMPTS {
        let count = |series: &Series| scene.count(*series);
        let before: Vec<u64> = attempt.counted.iter().map(count).collect::<Result<_>>()?;
        let outcome = (attempt.try_it)(&scene).and_then(|()| {
            for (series, before) in attempt.counted.iter().zip(&before) {
                ensure!(
                    scene.count(*series)? > *before,
                    "{series:?} does not count it"
                );
            }
            Ok(())
        });
        promises.note(attempt.name, outcome);
    }
    promises.note(
        "what was refused is told, with the reason",
        scene.says_why(),
    );
    promises.all_kept()
}

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
                // UDP from another node proves nothing, so it is not let in.
                Ok(scene.fates("friend", PORT)? == [Fate::Ok, Fate::Silent])
            })?;
        Ok(scene)
    }

    fn fates(&self, client: &str, port: u16) -> Result<Vec<Fate>> {
        self.fates_at(client, self.vault, port)
    }

    fn fates_at(&self, client: &str, server: IpAddr, port: u16) -> Result<Vec<Fate>> {
        let mut prober = Prober::start(&self.rig, CLUSTER, "default", client)?;
        let target = |transport| Target(transport, server.to_string(), port);
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

    /// What both nodes count.
    fn count(&self, (name, labels): Series) -> Result<u64> {
        let mut sum = 0;
        for node in NODES {
            sum += sum_of(&self.rig.metrics(node)?, name, labels);
        }
        Ok(sum)
    }

    /// The dump of the vault's node names who was refused, by what, wherever it was seen.
    fn says_why(&self) -> Result<()> {
        let dump = self.rig.dump("koornacht-worker2")?;
        let recent = dump["recentVerdicts"].as_array().context("no verdicts")?;
        for (seen, client) in [
            ("call", "neighbour"),
            ("wire", "stranger"),
            ("proxy", "stranger"),
        ] {
            let is_it = |verdict: &&serde_json::Value| {
                let names =
                    |field: &str, name| verdict[field].as_str().unwrap_or("").contains(name);
                verdict["seen"] == seen
                    && verdict["verdict"] == "deny"
                    && names("sourceWorkload", client)
                    && names("destinationWorkload", "vault")
                    && names("because", "default/guard")
            };
            let verdict = recent.iter().find(is_it);
            verdict.with_context(|| format!("nothing about {client}, {seen}: {recent:#?}"))?;
        }
        Ok(())
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

/// Those of the vault, and those of the stranger itself.
fn proxys_ports(scene: &Scene) -> Result<()> {
    for port in [15_001, 15_006, 15_008, 15_053] {
        scene.refuses("stranger", port)?;
        scene.refuses("neighbour", port)?;
    }
    for port in [15_001, 15_006, 15_008] {
        let fates = scene.fates_at("stranger", Ipv4Addr::LOCALHOST.into(), port)?;
        ensure!(
            fates == [Fate::Silent; 2],
            "loopback, port {port}: {fates:?}"
        );
        let own = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let answer = scene
            .rig
            .inside_pod(CLUSTER, "stranger", || plain_answer(own))?;
        ensure!(answer.is_none(), "port {port} answers the uncaptured");
    }
    Ok(())
}

/// What a header says of the source is nobody's word: neither where a good certificate was shown, nor where nothing was.
fn forged_headers(scene: &Scene) -> Result<()> {
    let friend = scene.rig.address(CLUSTER, "pod/friend", false)?;
    let (vault, state) = (scene.vault, scene.rig.lab.state_directory());
    let forge = Forge::open(&state.join(CLUSTER).join("ca"), &"koornacht.tulle".parse()?)?;
    // All of these pods have the same account, so its certificate is a good one for each of them.
    let svid = forge.svid(
        &"spiffe://koornacht.tulle/ns/default/sa/default".parse()?,
        Flaw::None,
    )?;
    let request = connect_request(&format!("{vault}:{PORT}"), friend);
    let through_tunnel = |pod: &str| -> Result<Vec<u8>> {
        scene.rig.inside_pod(CLUSTER, pod, || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build()?.block_on(async {
                let stream = tokio::net::TcpStream::connect((vault, 15_008)).await?;
                let mut tls = CarelessPeer::default()
                    .connect(Some(&*svid), stream)
                    .await?;
                tls.write_all(&request).await?;
                tls.flush().await?;
                let mut answer = Vec::new();
                let listening =
                    async { while tls.read_buf(&mut answer).await.is_ok_and(|len| len > 0) {} };
                // An end that holds the connection open has said what it has to say.
                timeout(PATIENCE, listening).await.ok();
                Ok(answer)
            })
        })?
    };
    let greets = |answer: &[u8]| answer.windows(5).any(|part| part == b"vault");
    ensure!(
        greets(&through_tunnel("friend")?),
        "the friend's own tunnel leads nowhere"
    );
    for liar in ["stranger", "neighbour"] {
        let answer = through_tunnel(liar)?;
        ensure!(!greets(&answer), "the vault believed {liar}");
        ensure!(!answer.is_empty(), "{liar} was not even answered");
    }
    let server = SocketAddr::new(vault, PORT);
    let plain = format!(
        "GET / HTTP/1.1\r\nhost: vault\r\nforwarded: for=\"{friend}:1\"\r\nx-forwarded-for: {friend}\r\n\
         x-forwarded-client-cert: By=spiffe://x;URI=spiffe://koornacht.tulle/ns/default/sa/default\r\n\r\n"
    );
    let answer = scene.rig.inside_pod(CLUSTER, "stranger", || {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(plain.as_bytes())?;
        stream.read(&mut [0; 64])
    })?;
    ensure!(!matches!(answer, Ok(1..)), "plain text was answered");
    Ok(())
}

/// What opens a tunnel's first stream, with headers that claim to come from `source`.
fn connect_request(authority: &str, source: IpAddr) -> Vec<u8> {
    let text = |text: &str| {
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[len], text.as_bytes()].concat()
    };
    // Literals without Huffman codes; `:method` and `:authority` have the numbers 2 and 1.
    let mut block = [&[2][..], &text("CONNECT"), &[1], &text(authority)].concat();
    for (name, value) in [
        ("forwarded", format!("for=\"{source}:4711\"")),
        (
            "baggage",
            "k8s.namespace.name=default,k8s.pod.name=friend".to_owned(),
        ),
        ("x-forwarded-for", source.to_string()),
    ] {
        block.push(0);
        block.extend(text(name));
        block.extend(text(&value));
    }
    let len = u8::try_from(block.len()).unwrap_or(u8::MAX);
    // Preface, empty settings, and one HEADERS frame that opens stream 1.
    let head = [0, 0, len, 1, 4, 0, 0, 0, 1];
    [PREFACE, &head, &block].concat()
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

/// What an HTTP/2 client says first: the preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const IPPROTO_RAW: i32 = 255;
const UDP_HEADER_LEN: usize = 8;
