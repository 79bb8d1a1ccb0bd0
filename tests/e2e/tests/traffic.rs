//! Every byte arrives and every close is seen as without the mesh: on one node, between nodes, between clusters.

use anyhow::{Result, ensure};
use tulle_e2e::rig::{Rig, streams};

const PEER: &str = env!("CARGO_BIN_EXE_peer");

/// Where the server is, seen from the client on `koornacht-worker`.
const PATHS: [(&str, &str, &str); 3] = [
    ("same node", "koornacht", "koornacht-worker"),
    ("two nodes", "koornacht", "koornacht-worker2"),
    ("two clusters", "tion", "tion-worker"),
];

#[test]
fn every_byte_and_every_close_is_as_without_mesh() -> Result<()> {
    let rig = Rig::up("bytes", &[])?;
    rig.pod(
        "koornacht",
        "koornacht-worker",
        "client",
        &["sleep", "100000"],
    )?;
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
                // The blocking pair carries the thousand; the others look for what depends on how a program waits.
                let conversations = if client == server { "1000" } else { "200" };
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
