//! A lab for one test: brought up under the test's own name, taken down when the test ends, however it ends.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    path::PathBuf,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tulle_lab::{BUILT_IN, DownGuard, Kind, Lab, LabConfig, ObjectKey, UpOptions};

use crate::fast_paths::FastPath;

/// A rig with both clusters, and the guard that removes it.
#[derive(Debug)]
pub struct Rig {
    /// The lab's own interface.
    pub lab: Lab,
    _down: DownGuard,
}

impl Rig {
    /// Brings up a rig of that name (≤ 5 characters are enough for everything that is derived from it), without the fast path that the whole
    /// run does without.
    ///
    /// # Errors
    /// When `TULLE_BIN_DIR` is not set or the lab does not come up; what stood before under the name is removed first.
    pub fn up(name: &str, clusters: &[&str]) -> Result<Rig> {
        let left_out = FastPath::left_out()?;
        Rig::up_with(name, clusters, left_out.map_or(&[], FastPath::off))
    }

    /// As [`Rig::up`], with these arguments for every node proxy.
    ///
    /// # Errors
    /// As [`Rig::up`].
    pub fn up_with(name: &str, clusters: &[&str], node_proxy: &[&str]) -> Result<Rig> {
        let binaries = std::env::var_os("TULLE_BIN_DIR").map(PathBuf::from).context(
            "TULLE_BIN_DIR is not set: run `cargo xtask test`, or set it to target/release after `cargo build --release`",
        )?;
        // The guard exists before the rig does, so that half a rig is removed as well.
        let down = DownGuard::fresh(name)?;
        let config = LabConfig::parse(name, &lab_file(name, node_proxy)?)?;
        let lab = Lab::up(UpOptions {
            config: Some(config),
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            binaries: Some(binaries),
            ..UpOptions::default()
        })?;
        Ok(Rig { lab, _down: down })
    }

    /// Runs a command in a pod and returns its standard output.
    ///
    /// # Errors
    /// When it fails; with both of its streams.
    pub fn run(&self, cluster: &str, target: &str, command: &[&str]) -> Result<String> {
        let output = self.lab.exec(cluster, target, command)?;
        let text = streams(&output);
        ensure!(
            output.status.success(),
            "{cluster} {target}: {command:?}: {}\n{text}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The first address of a pod, of the wanted family.
    ///
    /// # Errors
    /// When the pod is not there or has none.
    pub fn address(&self, cluster: &str, pod: &str, v6: bool) -> Result<IpAddr> {
        let text = self.run(
            cluster,
            pod,
            &["ip", "-o", "addr", "show", "scope", "global"],
        )?;
        let family = if v6 { "inet6" } else { "inet" };
        let mut words = text.split_whitespace().skip_while(|word| *word != family);
        let address = words.nth(1).and_then(|word| word.split('/').next());
        address
            .context("no address")?
            .parse()
            .with_context(|| format!("an address in {text}"))
    }

    /// A pod on a given node that runs `command` on the host's root file system.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn pod(&self, cluster: &str, node: &str, name: &str, command: &[&str]) -> Result<()> {
        let command = serde_json::to_string(command)?;
        self.lab.apply_text(
            cluster,
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
                 containers:\n  - name: main\n    image: tulle.test/host:1\n    command: {command}\n"
            ),
        )?;
        let key = ObjectKey::new(Kind::Pod, "default", name);
        self.lab.wait_pod_ready(cluster, &key, READY_DEADLINE)?;
        Ok(())
    }

    /// What the node proxy of a node counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self, node: &str) -> Result<String> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PROXY_ADMIN_PORT);
        let text = self.lab.inside_node(node, || http_get(admin, "/metrics"))?;
        text.with_context(|| format!("the metrics of {node}"))
    }

    /// Everything that the node proxy of a node knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn dump(&self, node: &str) -> Result<serde_json::Value> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PROXY_ADMIN_PORT);
        let text = self.lab.inside_node(node, || http_get(admin, "/dump"))?;
        let text = text.with_context(|| format!("the dump of {node}"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs code on a thread inside a pod's network namespace, but outside its cgroup: a program that nothing captures.
    ///
    /// # Errors
    /// When the namespace is not there.
    pub fn inside_pod<T: Send>(
        &self,
        cluster: &str,
        pod: &str,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        let namespace = File::open(self.lab.pod_namespace(cluster, "default", pod))?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| -> Result<T> {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind)?;
                Ok(work())
            });
            worker
                .join()
                .unwrap_or_else(|_| anyhow::bail!("the work inside {pod} broke off"))
        })
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// When it does not within `deadline`; with the condition's last answer.
    pub fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let mut last = String::from("no");
        let met = tulle_lab::wait_until(Instant::now() + deadline, || match condition() {
            Ok(met) => met,
            Err(error) => {
                last = format!("{error:#}");
                false
            }
        });
        if met {
            return Ok(());
        }
        anyhow::bail!("not within {deadline:?}: {what} (last: {last})")
    }
}

/// The built-in lab under another name, with more arguments for every node proxy. A lab keeps its file's text, so what is to differ must
/// stand in that.
pub(crate) fn lab_file(rig: &str, node_proxy: &[&str]) -> Result<String> {
    let arguments = serde_json::to_string(node_proxy)?;
    let kept = BUILT_IN.lines().filter(|line| !line.starts_with("rig:"));
    let mut lines = vec![
        format!("rig: {rig}"),
        format!("nodeProxyArguments: {arguments}"),
    ];
    lines.extend(kept.map(str::to_owned));
    Ok(lines.join("\n"))
}

/// Both streams of a finished command, for messages.
pub fn streams(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The body of an answer to a plain GET.
///
/// # Errors
/// When there is no answer, or none with status 200.
pub fn http_get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, HTTP_DEADLINE)?;
    stream.set_read_timeout(Some(HTTP_DEADLINE))?;
    // HTTP/1.0: the body ends with the connection, and is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {server}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split_whitespace().nth(1);
    if status != Some("200") {
        return Err(io::Error::other(format!(
            "{server}{path} answers {status:?}"
        )));
    }
    Ok(body.to_owned())
}

/// The sum of a metric's series that have all the given labels (`name="value"`).
pub fn sum_of(metrics: &str, name: &str, labels: &[impl AsRef<str>]) -> u64 {
    let series = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
        let fits = found == name
            && labels
                .iter()
                .all(|label| found_labels.contains(label.as_ref()));
        fits.then(|| value.parse::<u64>().ok()).flatten()
    });
    series.sum()
}

/// Where a node proxy answers questions, in its node's namespace.
pub const PROXY_ADMIN_PORT: u16 = 15000;
/// How long an answer on one machine may take.
const HTTP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a pod may take to become ready.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
