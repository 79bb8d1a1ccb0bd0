//! What a client sees of servers that fail: nothing, where others serve; and an error at once, where its own has vanished.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::{
    fast_paths::FastPath,
    promises::Promises,
    rig::{READY_DEADLINE, Rig, sum_of},
};
use tulle_lab::{Kind, ObjectKey};

#[test]
fn failing_servers_cost_their_clients_little() -> Result<()> {
    let rig = Rig::up("hlth", &[])?;
    set_up(&rig)?;
    let mut promises = Promises::default();
    for (promise, check) in PROMISES {
        promises.note(promise, check(&rig));
    }
    promises.all_kept()
}

type Check = fn(&Rig) -> Result<()>;

/// All on one rig, in this order: the last ones take servers away.
const PROMISES: [(&str, Check); 3] = [
    (
        "a server that refuses is left out after the first failure",
        refusing_server_is_left_out,
    ),
    (
        "connections to a pod that vanished without a word end at once",
        vanished_pods_are_told,
    ),
    (
        "connections to a cluster that is silent and out of reach end at once, and no sooner",
        lost_cluster_is_told,
    ),
];

fn set_up(rig: &Rig) -> Result<()> {
    for cluster in ["koornacht", "tion"] {
        rig.lab.apply_text(cluster, SERVICES)?;
    }
    let idle = ["sleep", "100000"];
    rig.pod("koornacht", "koornacht-worker", "client", &idle)?;
    let server = [PYTHON, "-c", SERVER];
    for (cluster, node, name) in [
        ("koornacht", "koornacht-worker", "near"),
        ("koornacht", "koornacht-worker2", "far"),
        ("tion", "tion-worker", "abroad"),
    ] {
        rig.pod(cluster, node, name, &server)?;
    }
    // Both halves of `half` are on the client's node.
    for (name, command) in [("mute", &idle[..]), ("loud", &server[..])] {
        let command = serde_json::to_string(command)?;
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{half: \"yes\"}}\nspec:\n  nodeName: koornacht-worker\n  \
             containers:\n  - name: main\n    image: tulle.test/host:1\n    command: {command}\n"
        );
        rig.lab.apply_text("koornacht", &pod)?;
        let key = ObjectKey::new(Kind::Pod, "default", name);
        rig.lab.wait_pod_ready("koornacht", &key, READY_DEADLINE)?;
    }
    for service in ["near", "far", "abroad"] {
        let address = service_address(rig, service)?;
        rig.wait_for(service, READY_DEADLINE, || {
            let text = client(rig, &["churn", &address, "9001", "0.2"])?;
            let failures = text.split_whitespace().nth(1);
            Ok(failures == Some("0"))
        })?;
    }
    Ok(())
}

/// `half` has two endpoints on the client's own node: one listens, the other does not.
fn refusing_server_is_left_out(rig: &Rig) -> Result<()> {
    let address = service_address(rig, "half")?;
    let text = client(rig, &["churn", &address, "9001", "4"])?;
    eprintln!(
        "connections, failures, first burst in ms, longest in ms: {}",
        text.trim()
    );
    let words: Vec<&str> = text.split_whitespace().collect();
    let [connections, failures, window, _longest] = words[..] else {
        anyhow::bail!("{text}");
    };
    let (connections, failures): (u32, u32) = (connections.parse()?, failures.parse()?);
    if FastPath::left_out()? == Some(FastPath::SameNode) {
        // A proxy is between them, which tries the other one: nobody fails.
        ensure!(failures == 0 && connections > 50, "{text}");
        return Ok(());
    }
    ensure!(failures > 0, "nobody ever met the one that refuses: {text}");
    // Out for 1 s, then 2 s, then 4 s: it is met again about three times.
    ensure!(failures <= 8 && connections > 50, "{text}");
    ensure!(window.parse::<f64>()? < 100.0, "{text}");
    let metrics = rig.metrics("koornacht-worker")?;
    let seen = sum_of(
        &metrics,
        "tulle_endpoint_failures_total",
        &["witness=\"kernel\"", "kind=\"refused\""],
    );
    ensure!(seen > 0, "the kernel saw no failure");
    Ok(())
}

/// The links of two servers are cut, one on the client's node and one on another, and then their pods are deleted: no packet says so.
fn vanished_pods_are_told(rig: &Rig) -> Result<()> {
    let addresses = [service_address(rig, "near")?, service_address(rig, "far")?];
    let gone = |rig: &Rig| -> Result<()> {
        for pod in ["near", "far"] {
            cut(rig, "koornacht", pod)?;
        }
        for pod in ["near", "far"] {
            let key = ObjectKey::new(Kind::Pod, "default", pod);
            rig.lab.delete("koornacht", &key)?;
        }
        Ok(())
    };
    let ends = ends_after(rig, &addresses, gone)?;
    ensure!(ends.len() == 4, "{ends:?}");
    for end in &ends {
        ensure!(ABORTED.contains(&end.error.as_str()), "{end:?}");
        ensure!(end.after < VANISHED_DEADLINE, "{end:?}");
    }
    let metrics = rig.metrics("koornacht-worker")?;
    let destroyed = sum_of(
        &metrics,
        "tulle_destroyed_connections_total",
        &[] as &[&str],
    );
    ensure!(destroyed >= 4, "{destroyed} connections were reset");
    Ok(())
}

/// First only tion's control plane falls silent: connections live on. Then its link is cut too.
fn lost_cluster_is_told(rig: &Rig) -> Result<()> {
    let address = service_address(rig, "abroad")?;
    let destroyed = || -> Result<u64> {
        let metrics = rig.metrics("koornacht-worker")?;
        Ok(sum_of(
            &metrics,
            "tulle_destroyed_connections_total",
            &[] as &[&str],
        ))
    };
    let answered = || -> Result<u64> {
        let metrics = rig.metrics("koornacht-worker")?;
        Ok(sum_of(
            &metrics,
            "tulle_cluster_probes_total",
            &["outcome=\"answered\""],
        ))
    };
    let (before, probes) = (destroyed()?, answered()?);
    let lost = |rig: &Rig| -> Result<()> {
        for component in ["tion/xds-server", "tion/etcd"] {
            rig.lab.stop(component)?;
        }
        rig.wait_for("tion is found silent and in reach", READY_DEADLINE, || {
            Ok(answered()? > probes)
        })?;
        ensure!(destroyed()? == before, "a silent cluster lost connections");
        rig.lab.set_link("koornacht", "tion", false)?;
        Ok(())
    };
    let ends = ends_after(rig, &[address], lost)?;
    ensure!(ends.len() == 2, "{ends:?}");
    for end in &ends {
        ensure!(ABORTED.contains(&end.error.as_str()), "{end:?}");
        ensure!(end.after < LOST_DEADLINE, "{end:?}");
    }
    Ok(())
}

/// How a connection ended.
#[derive(Debug)]
struct End {
    #[expect(dead_code, reason = "shown in messages")]
    whose: String,
    error: String,
    after: Duration,
}

/// Holds connections to the services, lets `happen` happen, and says how long after that each of them ended.
fn ends_after(
    rig: &Rig,
    addresses: &[String],
    happen: impl FnOnce(&Rig) -> Result<()>,
) -> Result<Vec<End>> {
    let marker = std::env::temp_dir().join(format!("tulle-e2e-{}", std::process::id()));
    let marker_text = marker.to_string_lossy().into_owned();
    let mut arguments = vec!["wait", &marker_text];
    arguments.extend(addresses.iter().map(String::as_str));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| client(rig, &arguments));
        rig.wait_for("the connections", READY_DEADLINE, || {
            Ok(Path::new(&marker).exists() || waiter.is_finished())
        })?;
        happen(rig)?;
        let happened = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let text = waiter
            .join()
            .map_err(|_| anyhow::anyhow!("the client's thread broke off"))??;
        eprint!("{text}");
        text.lines().map(|line| end_of(line, happened)).collect()
    })
}

fn end_of(line: &str, happened: Duration) -> Result<End> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, address, error, at] = words[..] else {
        anyhow::bail!("{line}");
    };
    let at = Duration::from_secs_f64(at.parse()?);
    Ok(End {
        whose: format!("{kind} {address}"),
        error: error.to_owned(),
        after: at.saturating_sub(happened),
    })
}

/// Takes a pod's link down from inside.
fn cut(rig: &Rig, cluster: &str, pod: &str) -> Result<()> {
    let output = rig.inside_pod(cluster, pod, || {
        Command::new("ip")
            .args(["link", "set", "eth0", "down"])
            .output()
    })??;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn service_address(rig: &Rig, name: &str) -> Result<String> {
    let key = ObjectKey::new(Kind::Service, "default", name);
    let service = rig.lab.api("koornacht")?.get(&key)?;
    let service = service.context("no such service")?;
    let address = service.value.pointer("/spec/clusterIP");
    let address = address.and_then(|value| value.as_str());
    Ok(address
        .with_context(|| format!("{name} has no address"))?
        .to_owned())
}

fn client(rig: &Rig, arguments: &[&str]) -> Result<String> {
    let command = [&["timeout", "60", PYTHON, "-c", CLIENT], arguments].concat();
    rig.run("koornacht", "pod/client", &command)
}

/// Debian's, whatever else a developer has in the path.
const PYTHON: &str = "/usr/bin/python3";
const CLIENT: &str = include_str!("health/client.py");
const SERVER: &str = include_str!("applications/server.py");
/// `ECONNABORTED` where the kernel ended the socket, `ECONNRESET` where the proxy did.
const ABORTED: [&str; 2] = ["103", "104"];
/// From the deletion of a pod: its way through the mesh, and the reaper's grace.
const VANISHED_DEADLINE: Duration = Duration::from_secs(5);
/// From the cut: two rounds of probes.
const LOST_DEADLINE: Duration = Duration::from_secs(15);

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: half}
spec:
  selector: {half: "yes"}
  ports:
  - {name: tcp9001, port: 9001}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  selector: {name: near}
  ports:
  - {name: tcp9001, port: 9001}
  - {name: udp9000, port: 9000, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec:
  selector: {name: far}
  ports:
  - {name: tcp9001, port: 9001}
  - {name: udp9000, port: 9000, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata:
  name: abroad
  annotations: {service.cilium.io/global: "true"}
spec:
  selector: {name: abroad}
  ports:
  - {name: tcp9001, port: 9001}
  - {name: udp9000, port: 9000, protocol: UDP}
"#;
