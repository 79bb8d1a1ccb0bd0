//! What becomes of connections that no proxy sees when a policy changes: those straight to a pod of the same node, by TCP and by UDP.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::{
    curls::now_micros,
    fast_paths::FastPath,
    rig::{READY_DEADLINE, Rig},
};
use tulle_lab::{Kind, ObjectKey};

use crate::prober::{PYTHON, Program, SCRIPT};

const CLUSTER: &str = "koornacht";
const NODE: &str = "koornacht-worker";
const STAYS: &str = "9000";
const ENDS: &str = "9001";
const TRANSPORTS: [&str; 2] = ["tcp", "udp"];
/// From the change to the end of a connection that is no longer allowed.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// Only port 9000 stays allowed, first by the server's rules, then by the client's.
const NARROWER: [&str; 2] = [
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: narrow}\nspec:\n  endpointSelector: {matchLabels: {name: server}}\n  \
     ingress:\n  - fromEndpoints: [{matchLabels: {name: client}}]\n    toPorts: [{ports: [{port: \"9000\", protocol: ANY}]}]\n",
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: narrow}\nspec:\n  endpointSelector: {matchLabels: {name: client}}\n  \
     egress:\n  - toEndpoints: [{matchLabels: {name: server}}]\n    toPorts: [{ports: [{port: \"9000\", protocol: ANY}]}]\n",
];

#[test]
fn direct_connections_end_when_policy_denies_them_and_only_then() -> Result<()> {
    // It is about the direct way itself, which is therefore never left out.
    let left_out = FastPath::left_out()?.filter(|path| *path != FastPath::SameNode);
    let arguments = left_out.map_or(&[][..], FastPath::off);
    let rig = Rig::up_with("stand", &[CLUSTER], arguments)?;
    rig.pod(CLUSTER, NODE, "client", &["sleep", "100000"])?;
    let serve = [PYTHON, "-c", SCRIPT, "serve", "server", STAYS, ENDS];
    rig.pod(CLUSTER, NODE, "server", &serve)?;
    let server = rig.address(CLUSTER, "pod/server", false)?.to_string();
    rig.wait_for("the server listens", READY_DEADLINE, || {
        for port in [STAYS, ENDS] {
            let words = [PYTHON, "-c", SCRIPT, "ask", &server, port];
            rig.run(CLUSTER, "pod/client", &words)?;
        }
        Ok(true)
    })?;
    for policy in NARROWER {
        let stand = |port| -> Result<Vec<Program>> {
            let start = |transport| {
                let words = ["stand", transport, &server, port];
                let program = Program::start(&rig, CLUSTER, "client", &words)?;
                // The first word back: before that nobody knows whether it may.
                program.wait_for("echo")?;
                Ok(program)
            };
            TRANSPORTS.into_iter().map(start).collect()
        };
        let (staying, ending) = (stand(STAYS)?, stand(ENDS)?);
        let before = ended(&rig)?;
        let at = now_micros();
        rig.lab.apply_text(CLUSTER, policy)?;
        for (program, transport) in ending.iter().zip(TRANSPORTS) {
            let line = program.wait_for_line("ended")?;
            let mut words = line.split(' ').skip(1);
            let when: u64 = words.next().context("no time")?.parse()?;
            let after = Duration::from_micros(when.saturating_sub(at));
            eprintln!("a direct {transport} connection ended {after:?} after the change: {line}");
            ensure!(after <= CUT_LIMIT, "{transport} stood for {after:?}");
            // The application is told, and need not wait; what it sees depends on whose end went first, and a datagram that is sent
            // next finds that its socket is connected no more.
            let error = words.next().context("no reason")?;
            ensure!(
                ["ECONNABORTED", "ECONNRESET", "EDESTADDRREQ"].contains(&error),
                "{transport}: {line}"
            );
        }
        let then = now_micros();
        for program in &staying {
            while program.wait_for("echo")? <= then {}
        }
        rig.wait_for("the ended ones are counted", READY_DEADLINE, || {
            Ok(ended(&rig)? >= before + 2)
        })?;
        told(&rig, &server)?;
        let key = ObjectKey::new(Kind::CiliumNetworkPolicy, "default", "narrow");
        rig.lab.delete(CLUSTER, &key)?;
        rig.wait_for("everything is allowed again", READY_DEADLINE, || {
            let words = [PYTHON, "-c", SCRIPT, "ask", &server, ENDS];
            rig.run(CLUSTER, "pod/client", &words)?;
            Ok(true)
        })?;
    }
    an_audit_only_tells(&rig, &server)
}

/// A policy that is tried out lets everything pass, and says what it would deny.
fn an_audit_only_tells(rig: &Rig, server: &str) -> Result<()> {
    let [policy, _] = NARROWER;
    let name = "metadata: {name: narrow";
    let tried = "metadata: {annotations: {mesh.tulle.io/enforcement: audit}, name: tried";
    rig.lab.apply_text(CLUSTER, &policy.replace(name, tried))?;
    rig.wait_for("what would be denied is told", READY_DEADLINE, || {
        rig.run(
            CLUSTER,
            "pod/client",
            &[PYTHON, "-c", SCRIPT, "ask", server, ENDS],
        )?;
        let dump = rig.dump(NODE)?;
        let recent = dump["recentVerdicts"].as_array().context("no verdicts")?;
        let is_told = |protocol: u8| {
            recent.iter().any(|verdict| {
                let because = verdict["because"].as_str().unwrap_or_default();
                verdict["verdict"] == "audit"
                    && verdict["seen"] == "call"
                    && verdict["protocol"] == protocol
                    && because.contains("default/tried")
            })
        };
        ensure!(is_told(6) && is_told(17), "{recent:#?}");
        Ok(true)
    })
}

/// How many standing connections the node's proxy ended.
fn ended(rig: &Rig) -> Result<u64> {
    let metrics = rig.metrics(NODE)?;
    let mut lines = metrics.lines();
    let line = lines.find_map(|line| line.strip_prefix("tulle_policy_ended_connections_total "));
    Ok(line.context("the counter is missing")?.parse()?)
}

/// The dump says what ended, and by whose rule.
fn told(rig: &Rig, server: &str) -> Result<()> {
    let dump = rig.dump(NODE)?;
    let recent = dump["recentVerdicts"].as_array().context("no verdicts")?;
    let destination = format!("{server}:{ENDS}");
    for protocol in [6, 17] {
        let is_it = |verdict: &&serde_json::Value| {
            verdict["seen"] == "standing"
                && verdict["protocol"] == protocol
                && verdict["destination"] == destination.as_str()
        };
        let verdict = recent
            .iter()
            .find(is_it)
            .with_context(|| format!("{recent:?}"))?;
        let because = verdict["because"].as_str().unwrap_or_default();
        ensure!(because.contains("default/narrow"), "{verdict}");
        let workload = verdict["sourceWorkload"].as_str().unwrap_or_default();
        ensure!(workload.contains("client"), "{verdict}");
    }
    Ok(())
}
