//! How long it takes from an endpoint's end in one cluster until the kernels of the other cluster's nodes know it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tulle_e2e::{curls::now_micros, delay::Delays, rig::Rig};

const CURLS: &str = env!("CARGO_BIN_EXE_curls");
/// Half of them are ends.
const CHANGES: usize = 420;
/// No single change may take longer; the target for 99 of 100 is below.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
const P99_TARGET: Duration = Duration::from_millis(100);
const NODES: [&str; 2] = ["koornacht-worker", "koornacht-worker2"];

/// The service has one endpoint, in tion, whose readiness flips. A program on each node of koornacht asks its kernel all the time
/// whether the service has a backend, by connecting a datagram's socket.
#[test]
fn unready_endpoint_leaves_the_other_clusters_kernels() -> Result<()> {
    let rig = Rig::up("flip", &[])?;
    rig.lab.apply_text(
        "tion",
        &format!("{}{}", service("172.20.2.77"), slice(true)),
    )?;
    rig.lab.apply_text("koornacht", &service("172.20.1.77"))?;
    let mut watchers = Vec::new();
    for node in NODES {
        rig.pod(
            "koornacht",
            node,
            &format!("watch-{node}"),
            &["sleep", "100000"],
        )?;
        watchers.push(Watcher::start(&rig, node)?);
    }
    for watcher in &watchers {
        watcher.wait_for(true)?;
    }
    let (mut gone, mut back) = (Delays::default(), Delays::default());
    for change in 0..CHANGES {
        let ready = change % 2 == 1;
        let at = now_micros();
        rig.lab.apply_text("tion", &slice(ready))?;
        for watcher in &watchers {
            let seen = watcher.wait_for(ready)?;
            let took = Duration::from_micros(seen.saturating_sub(at));
            if ready { &mut back } else { &mut gone }.push(took);
        }
    }
    for watcher in watchers {
        watcher.end()?;
    }
    gone.print("endpoint unready in tion, seen in koornacht's kernels");
    back.print("endpoint ready in tion, seen in koornacht's kernels");
    gone.ensure_p99("an endpoint's end", P99_TARGET)
}

fn service(address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: flip\n  annotations: {{service.cilium.io/global: \"true\"}}\n\
         spec:\n  clusterIP: {address}\n  ports:\n  - {{port: 9000, protocol: UDP}}\n"
    )
}

fn slice(ready: bool) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: flip-1\n  labels: {{kubernetes.io/service-name: flip}}\n\
         addressType: IPv4\nports:\n- {{port: 9000, protocol: UDP}}\nendpoints:\n- addresses: [10.2.9.9]\n  nodeName: tion-worker\n  \
         conditions: {{ready: {ready}, serving: {ready}, terminating: false}}\n"
    )
}

/// A program in a pod of a node that tells when its kernel's answer changes.
struct Watcher {
    node: &'static str,
    process: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Watcher {
    fn start(rig: &Rig, node: &'static str) -> Result<Watcher> {
        let tulle = std::env::var_os("TULLE_BIN_DIR").context("TULLE_BIN_DIR is not set")?;
        let pod = format!("pod/watch-{node}");
        let mut process = std::process::Command::new(std::path::Path::new(&tulle).join("tulle"))
            .args([
                "lab",
                "--rig",
                rig.lab.config().rig.as_str(),
                "exec",
                "koornacht",
            ])
            .args([pod.as_str(), "-i", "--", CURLS, "watch", "172.20.1.77:9000"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().context("no standard input")?;
        let stdout = process.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Watcher {
            node,
            process,
            stdin,
            lines,
        })
    }

    /// When the kernel's answer became `served`; earlier answers are passed over.
    fn wait_for(&self, served: bool) -> Result<u64> {
        loop {
            let line = self.lines.recv_timeout(CHANGE_LIMIT);
            let line = line.with_context(|| {
                format!(
                    "{}: `served: {served}` did not come within {CHANGE_LIMIT:?}",
                    self.node
                )
            })?;
            let line: Value = serde_json::from_str(&line)?;
            if line["served"] == served {
                return line["at"].as_u64().context("a line without its time");
            }
        }
    }

    fn end(mut self) -> Result<()> {
        drop(self.stdin);
        self.process.wait()?;
        Ok(())
    }
}

/// More than a watcher ever says before it is listened to.
const LINES_MAX: usize = 1024;
