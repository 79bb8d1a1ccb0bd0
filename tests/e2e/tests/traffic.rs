//! Every byte arrives and every close is seen as without the mesh: on one node, between nodes, between clusters; with every way in which the
//! mesh makes connections faster, and with each of them switched off.

use std::fs;

use anyhow::{Result, ensure};
use tulle_e2e::{
    fast_paths::{FastPath, Uses},
    rig::{Rig, streams},
};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const CLIENT_NODE: &str = "koornacht-worker";

/// Where the server is, seen from the client.
const PATHS: [(&str, &str, &str); 3] = [
    ("same node", "koornacht", CLIENT_NODE),
    ("two nodes", "koornacht", "koornacht-worker2"),
    ("two clusters", "tion", "tion-worker"),
];

/// The blocking pair carries the most; the others look for what depends on how a program waits.
struct Conversations {
    of_equals: &'static str,
    of_others: &'static str,
}

const ALL: Conversations = Conversations {
    of_equals: "1000",
    of_others: "200",
};
/// Each of the many ways to talk a few times.
const SOME: Conversations = Conversations {
    of_equals: "120",
    of_others: "60",
};

#[test]
fn every_byte_and_every_close_is_as_without_mesh() -> Result<()> {
    let rig = Rig::up("bytes", &[])?;
    talk(&rig, &ALL)?;
    let used = Uses::of(&rig, CLIENT_NODE)?;
    if let Some(left_out) = FastPath::left_out()? {
        return left_out.was_off(&used);
    }
    ensure!(
        used.lanes && !used.tls_on_one_node,
        "fast paths were not taken: {used:?}"
    );
    let system = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let paces = system.starts_with("bbr");
    ensure!(
        used.unpaced == paces && used.unpaced_lanes == paces,
        "the system's default is {system}, and {used:?}"
    );
    Ok(())
}

#[test]
fn every_byte_and_every_close_is_so_without_lanes() -> Result<()> {
    FastPath::Lanes.without("byhbo", CLIENT_NODE, |rig| talk(rig, &SOME))
}

#[test]
fn every_byte_and_every_close_is_so_without_the_sockmap() -> Result<()> {
    FastPath::Sockmap.without("bynos", CLIENT_NODE, |rig| talk(rig, &SOME))
}

#[test]
fn every_byte_and_every_close_is_so_with_tls_on_one_node() -> Result<()> {
    FastPath::SameNode.without("bytls", CLIENT_NODE, |rig| talk(rig, &SOME))
}

#[test]
fn every_byte_and_every_close_is_so_with_the_systems_pacing() -> Result<()> {
    FastPath::Unpaced.without("bypac", CLIENT_NODE, |rig| talk(rig, &SOME))
}

fn talk(rig: &Rig, counts: &Conversations) -> Result<()> {
    rig.pod("koornacht", CLIENT_NODE, "client", &["sleep", "100000"])?;
    let mut failed = Vec::new();
    for (index, (path, cluster, node)) in PATHS.iter().enumerate() {
        for (port, server) in [(7001, "blocking"), (7002, "polled")] {
            let name = format!("server-{index}-{server}");
            let listen = format!("0.0.0.0:{port}");
            rig.pod(
                cluster,
                node,
                &name,
                &[PEER, "serve", &listen, "--discipline", server],
            )?;
            let pod = format!("pod/{name}");
            let address = rig.address(cluster, &pod, false)?;
            for client in ["blocking", "polled", "switched"] {
                let conversations = if client == server {
                    counts.of_equals
                } else {
                    counts.of_others
                };
                let target = format!("{address}:{port}");
                let seed = format!("{}", index + 1);
                let command = [
                    PEER,
                    "talk",
                    &target,
                    "--conversations",
                    conversations,
                    "--discipline",
                    client,
                    "--seed",
                    &seed,
                ];
                let output = rig.lab.exec("koornacht", "pod/client", &command)?;
                let text = streams(&output);
                eprintln!(
                    "{path}, {client} client, {server} server: {}",
                    text.lines().last().unwrap_or("")
                );
                if !output.status.success() {
                    failed.push(format!("{path}, {client} client, {server} server:\n{text}"));
                }
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
