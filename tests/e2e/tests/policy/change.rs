//! How long it takes from a policy's change until every node of the lab enforces it, and what becomes of connections that stand.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tulle_e2e::{curls::now_micros, delay::Delays, rig::Rig};
use tulle_lab::{Kind, ObjectKey};

use crate::prober::{PYTHON, Program, SCRIPT};

const CLUSTERS: [&str; 2] = ["koornacht", "tion"];
/// Half of them forbid.
const CHANGES: usize = 60;
const P99_TARGET: Duration = Duration::from_millis(100);
/// From the change to the end of a connection that is no longer allowed.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// A program on each of the four nodes sends datagrams all the time; a policy that selects it comes and goes.
#[test]
fn a_change_of_policy_reaches_all_nodes() -> Result<()> {
    let rig = Rig::up("polch", &[])?;
    let mut watchers = Vec::new();
    for cluster in CLUSTERS {
        for (node, other) in [("worker", "worker2"), ("worker2", "worker")] {
            let (client, server) = (format!("client-{node}"), format!("server-{other}"));
            rig.pod(
                cluster,
                &format!("{cluster}-{node}"),
                &client,
                &["sleep", "100000"],
            )?;
            let serve = [PYTHON, "-c", SCRIPT, "serve", &server, "9000"];
            rig.pod(cluster, &format!("{cluster}-{other}"), &server, &serve)?;
        }
        for (node, other) in [("worker", "worker2"), ("worker2", "worker")] {
            let client = format!("client-{node}");
            let address = rig
                .address(cluster, &format!("pod/server-{other}"), false)?
                .to_string();
            let watch = Program::start(&rig, cluster, &client, &["watch", &address, "9000"])?;
            watch.wait_for("open")?;
            watchers.push((cluster, client, address, watch));
        }
    }
    let (mut closed, mut opened) = (Delays::default(), Delays::default());
    for change in 0..CHANGES {
        let forbids = change % 2 == 0;
        let at = now_micros();
        set(&rig, forbids)?;
        let (word, samples) = if forbids {
            ("closed", &mut closed)
        } else {
            ("open", &mut opened)
        };
        for (_, _, _, watch) in &watchers {
            let seen = watch.wait_for(word)?;
            samples.push(Duration::from_micros(seen.saturating_sub(at)));
        }
    }
    closed.print("a policy's change, forbidden, on all nodes");
    opened.print("a policy's change, allowed, on all nodes");
    standing_connections_end(&rig, &watchers)?;
    closed.ensure_p99("what forbids", P99_TARGET)?;
    opened.ensure_p99("what allows", P99_TARGET)
}

fn standing_connections_end(rig: &Rig, clients: &[(&str, String, String, Program)]) -> Result<()> {
    let mut holds = Vec::new();
    for (cluster, client, address, _) in clients {
        let hold = Program::start(rig, cluster, client, &["hold", address, "9000"])?;
        hold.wait_for_line("held")?;
        holds.push(hold);
    }
    let at = now_micros();
    set(rig, true)?;
    for hold in &holds {
        let after = Duration::from_micros(hold.wait_for("ended")?.saturating_sub(at));
        eprintln!(
            "{}",
            json!({"scenario": "a standing connection is forbidden", "endedAfterMs": after.as_millis()})
        );
        ensure!(
            after <= CUT_LIMIT,
            "a forbidden connection stood for {after:?}"
        );
    }
    Ok(())
}

/// Forbids the clients of both clusters everything, or nothing.
fn set(rig: &Rig, forbids: bool) -> Result<()> {
    for cluster in CLUSTERS {
        if forbids {
            rig.lab.apply_text(cluster, QUIET)?;
        } else {
            let key = ObjectKey::new(Kind::CiliumNetworkPolicy, "default", "quiet");
            rig.lab.delete(cluster, &key)?;
        }
    }
    Ok(())
}

const QUIET: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: quiet}\nspec:\n  endpointSelector:\n    \
    matchExpressions: [{key: name, operator: In, values: [client-worker, client-worker2]}]\n  egress: [{}]\n";
