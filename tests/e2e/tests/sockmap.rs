//! The sockmap on the whole path, application to proxy to proxy to application: every byte and every close as without it, in
//! each mode, also where both ends are on one node; and a connection that is reset early is seen by its server.

use anyhow::{Result, ensure};
use tulle_e2e::rig::{Rig, streams, sum_of};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LOAD: &str = env!("CARGO_BIN_EXE_load");
const CLUSTER: &str = "koornacht";
const CLIENT_NODE: &str = "koornacht-worker";

/// Where the server is, seen from the client.
const PATHS: [(&str, &str); 2] = [
    ("same node", CLIENT_NODE),
    ("two nodes", "koornacht-worker2"),
];
/// How sockets wait: in every call, in no call, and in no call until the connection stands.
const SERVERS: [(u16, &str); 2] = [(7001, "blocking"), (7002, "watched")];
const CLIENTS: [&str; 3] = ["blocking", "watched", "switched"];

#[test]
fn redirecting_to_the_proxy_changes_no_byte_and_no_close() -> Result<()> {
    let rig = up("smapp", "to-proxy")?;
    check(&rig)?;
    ensure!(counted(&rig, "join", "socket_joined")? > 0, "nobody joined");
    Ok(())
}

#[test]
fn redirecting_both_ways_changes_no_byte_and_no_close() -> Result<()> {
    let rig = up("smapf", "full")?;
    check(&rig)
}

/// What is sent between pods of one node goes through the proxy too, so that every path has two hops that the sockmap can take.
fn up(name: &str, mode: &str) -> Result<Rig> {
    let arguments = ["--sockmap", mode, "--same-node", "mtls"];
    let rig = Rig::up_with(name, &[CLUSTER], &arguments)?;
    rig.pod(CLUSTER, CLIENT_NODE, "client", &["sleep", "100000"])?;
    for (index, (_, node)) in PATHS.iter().enumerate() {
        for (port, discipline) in SERVERS {
            let listen = format!("0.0.0.0:{port}");
            let command = [PEER, "serve", &listen, "--discipline", discipline];
            rig.pod(CLUSTER, node, &server(index, discipline), &command)?;
        }
    }
    Ok(rig)
}

fn check(rig: &Rig) -> Result<()> {
    let mut failed = Vec::new();
    for (index, (path, node)) in PATHS.iter().enumerate() {
        for (port, discipline) in SERVERS {
            let pod = format!("pod/{}", server(index, discipline));
            let target = format!("{}:{port}", rig.address(CLUSTER, &pod, false)?);
            for client in CLIENTS {
                let command = [
                    PEER,
                    "talk",
                    &target,
                    "--conversations",
                    CONVERSATIONS,
                    "--len-max",
                    LEN_MAX,
                    "--discipline",
                    client,
                ];
                let what = format!("{path}, {client} client, {discipline} server");
                run(rig, "pod/client", &command, &what, &mut failed)?;
            }
            let command = [PEER, "reset-early", &target];
            let what = format!("{path}, early resets, {discipline} server");
            run(rig, "pod/client", &command, &what, &mut failed)?;
        }
        // Plain TCP, to compare with: the server's own loopback is not captured.
        let pod = format!("pod/{}", server(index, "blocking"));
        let command = [PEER, "reset-early", "127.0.0.1:7001"];
        run(
            rig,
            &pod,
            &command,
            "early resets by plain TCP",
            &mut failed,
        )?;
        keep_talking(rig, index, node, &mut failed)?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    ensure!(
        counted(rig, "sk_msg", "redirected")? > 0,
        "nothing was redirected"
    );
    Ok(())
}

/// A connection that lives, between two event loops.
fn keep_talking(rig: &Rig, index: usize, node: &str, failed: &mut Vec<String>) -> Result<()> {
    let name = format!("load-{index}");
    rig.pod(CLUSTER, node, &name, &[LOAD, "serve", "0.0.0.0:7400"])?;
    let target = format!(
        "{}:7400",
        rig.address(CLUSTER, &format!("pod/{name}"), false)?
    );
    for command in ["latency", "upload"] {
        let command = [LOAD, command, &target, "--seconds", "1"];
        run(rig, "pod/client", &command, &name, failed)?;
    }
    Ok(())
}

fn run(rig: &Rig, pod: &str, command: &[&str], what: &str, failed: &mut Vec<String>) -> Result<()> {
    let output = rig.lab.exec(CLUSTER, pod, command)?;
    let text = streams(&output);
    eprintln!("{what}: {}", text.lines().last().unwrap_or(""));
    if !output.status.success() {
        failed.push(format!("{what}:\n{text}"));
    }
    Ok(())
}

/// What the client's node counted in the kernel.
fn counted(rig: &Rig, program: &str, reason: &str) -> Result<u64> {
    let metrics = rig.metrics(CLIENT_NODE)?;
    let labels = [
        format!("program=\"{program}\""),
        format!("reason=\"{reason}\""),
    ];
    Ok(sum_of(&metrics, "tulle_kernel_exits_total", &labels))
}

fn server(index: usize, discipline: &str) -> String {
    format!("server-{index}-{discipline}")
}

/// For each pair of a client and a server: over 10,000 connections in all, since the client asks for each outcome by another.
const CONVERSATIONS: &str = "240";
/// Long enough for a join (eight sends) and a full queue now and then, short enough for many.
const LEN_MAX: &str = "1000000";
