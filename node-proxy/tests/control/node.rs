//! One node for one test: cgroups, pins, a pod directory, a pod's namespace, and the program itself.
//!
//! Everything carries the process id in its name; each run first removes what dead runs left behind.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, geteuid, kill_process},
    thread::UnshareFlags,
};
use tulle_datapath::Datapath;
use tulle_node_proxy::netns::NamespaceHandle;

use crate::server::ControlPlane;

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    cgroup: PathBuf,
    bpffs: PathBuf,
    pod_netns: OwnedFd,
    admin: SocketAddr,
}

/// A running program; killed when it is dropped.
pub(crate) struct Proxy {
    child: Child,
}

impl Node {
    pub(crate) fn new(test: &str) -> Self {
        assert!(
            geteuid().is_root(),
            "this test loads programs into the kernel: run it as root"
        );
        let name = format!("{PREFIX}{}-{test}", std::process::id());
        remove_leftovers();
        let cgroup = cgroup_mount().join(&name);
        fs::create_dir(&cgroup).unwrap();
        fs::create_dir(cgroup.join("pods")).unwrap();
        fs::create_dir(cgroup.join("proxy")).unwrap();
        let bpffs = Path::new("/run").join(&name);
        fs::create_dir(&bpffs).unwrap();
        mount("bpf", &bpffs, "bpf", MountFlags::empty(), None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pods")).unwrap();
        fs::write(dir.path().join("token"), "the-token\n").unwrap();
        // A port that was free a moment ago; the program says so if somebody else took it.
        let admin = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        Node {
            dir,
            cgroup,
            bpffs,
            pod_netns: pod_namespace(),
            admin,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn pin_dir(&self) -> PathBuf {
        self.bpffs.join("node")
    }

    /// The pod's namespace as a path that other processes can open.
    pub(crate) fn netns_path(&self) -> PathBuf {
        let fd = self.pod_netns.as_raw_fd();
        PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()))
    }

    pub(crate) fn start(&self, server: &ControlPlane) -> Proxy {
        fs::write(self.path("root.pem"), &server.root_pem).unwrap();
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path("log"))
            .unwrap();
        // As a service manager does it: the process is in its cgroup before the program begins.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#])
            .arg(self.cgroup.join("proxy"))
            .arg(env!("CARGO_BIN_EXE_node-proxy"))
            .args(["--cluster", "koornacht", "--node", "koornacht-worker"])
            .args(["--trust-domain", "koornacht.tulle", "--drain-timeout", "2"])
            .args(["--xds", &format!("https://{}", server.address)])
            .args(["--admin", &self.admin.to_string()])
            .arg("--pod-dir")
            .arg(self.path("pods"))
            .arg("--xds-root")
            .arg(self.path("root.pem"))
            .arg("--token")
            .arg(self.path("token"))
            .arg("--capture-cgroup")
            .arg(self.cgroup.join("pods"))
            .arg("--proxy-cgroup")
            .arg(self.cgroup.join("proxy"))
            .arg("--pin-dir")
            .arg(self.pin_dir())
            .arg("--state")
            .arg(self.path("state"))
            .stdin(Stdio::null())
            .stderr(log);
        Proxy {
            child: command.spawn().unwrap(),
        }
    }

    /// Describes the pod, as a CNI plugin does.
    pub(crate) fn add_pod(&self, uid: &str) {
        let text = format!(
            r#"{{"uid":"{uid}","name":"x-wing","namespace":"default","serviceAccount":"pilot",
                "addresses":["{POD_ADDRESS}"],"netns":"{}"}}"#,
            self.netns_path().display()
        );
        let draft = self.path("pods/draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.path("pods/default_x-wing.json")).unwrap();
    }

    /// Status and body of an admin page; `None` while nobody listens.
    pub(crate) fn admin(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                let ready = self.admin("/readyz");
                panic!("not in time: {what}; readiness: {ready:?}; the program said:\n{log}");
            }
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub(crate) fn wait_ready(&self) {
        self.wait("readiness", || {
            self.admin("/readyz")
                .is_some_and(|(status, _)| status == 200)
        });
    }

    pub(crate) fn marker(&self) -> Option<String> {
        fs::read_to_string(self.path("pods/default_x-wing.captured")).ok()
    }

    /// A socket in the pod that talks to the pod's name server.
    pub(crate) fn dns_socket(&self) -> UdpSocket {
        let namespace = NamespaceHandle::open(&self.netns_path()).unwrap();
        let open = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = namespace.run_in(open).unwrap();
        socket.connect("127.0.0.1:15053").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Whether somebody listens at `address` in the pod.
    pub(crate) fn listens(&self, address: &str) -> bool {
        let address: SocketAddr = address.parse().unwrap();
        let namespace = NamespaceHandle::open(&self.netns_path()).unwrap();
        namespace
            .run_in(|| TcpStream::connect(address).is_ok())
            .unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let removed = Datapath::remove(&self.pin_dir()).is_ok();
        let unmounted = unmount(&self.bpffs, UnmountFlags::DETACH).is_ok();
        let _rest = fs::remove_dir(&self.bpffs);
        let cgroups = remove_cgroup(&self.cgroup);
        if !thread::panicking() {
            assert!(
                removed && unmounted && cgroups,
                "the node leaves something behind"
            );
        }
    }
}

impl Proxy {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not end");
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A new namespace with a pod's address; it lives as long as its descriptor.
fn pod_namespace() -> OwnedFd {
    let made = thread::spawn(|| {
        leave_namespace();
        for arguments in [
            "link set lo up",
            // Its gate needs a link to hang on.
            "link add eth0 type veth peer name eth1",
            &format!("addr add {POD_ADDRESS}/32 dev lo"),
        ] {
            let status = Command::new("ip")
                .args(arguments.split(' '))
                .status()
                .unwrap();
            assert!(status.success(), "ip {arguments}");
        }
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    });
    made.join().unwrap()
}

#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of file tables"
)]
fn leave_namespace() {
    // SAFETY: only the network namespace is left; no memory or descriptor is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}

fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let line = line.expect("cgroup v2 must be mounted: `mount -t cgroup2 none /sys/fs/cgroup`");
    PathBuf::from(line.split(' ').nth(4).unwrap())
}

fn remove_cgroup(cgroup: &Path) -> bool {
    ["pods", "proxy", ""]
        .iter()
        .all(|name| fs::remove_dir(cgroup.join(name)).is_ok())
}

/// Removes what runs that were killed left behind.
fn remove_leftovers() {
    let dead = |name: &str| {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for root in [cgroup_mount(), PathBuf::from("/run")] {
        for entry in fs::read_dir(&root).unwrap().flatten() {
            if !entry.file_name().to_str().is_some_and(dead) {
                continue;
            }
            let path = entry.path();
            let _pins = Datapath::remove(&path.join("node"));
            let _mount = unmount(&path, UnmountFlags::DETACH);
            let _cgroups = remove_cgroup(&path);
            let _dir = fs::remove_dir(&path);
        }
    }
}

const PREFIX: &str = "tulle-control-";
pub(crate) const POD_ADDRESS: &str = "10.99.0.5";
