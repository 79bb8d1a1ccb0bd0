//! A node with pods, for one test: a bridge between namespaces, a cgroup for pods and one for the proxy, and a bpffs for pins.
//!
//! Namespaces have no name, so the kernel removes them with the process, however it ends. Cgroups and mounts carry the process id
//! in their names; each run first removes those of processes that are gone.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::geteuid,
    thread::{LinkNameSpaceType, UnshareFlags, gettid, move_into_link_name_space},
};
use socket2::{Domain, Protocol, Socket, Type};
use tulle_datapath::{
    BlackHole, CapturePorts, Counter, Datapath, DatapathSettings, Enforcement, NetnsCookie, Pacing,
    PodCapture, SockmapMode,
};

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The proxy's ports, as the settings' default has them.
pub(crate) const OUTBOUND: u16 = 15001;
/// Likewise.
pub(crate) const INBOUND: u16 = 15006;
/// Likewise.
pub(crate) const TUNNEL: u16 = 15008;
/// Likewise.
pub(crate) const DNS: u16 = 15053;
/// Likewise.
pub(crate) const BLACK_HOLE: u16 = 15009;

/// One node.
pub(crate) struct Rig {
    pub(crate) settings: DatapathSettings,
    pub(crate) enforcement: Enforcement,
    cgroup: PathBuf,
    bpffs: PathBuf,
    node: Arc<OwnedFd>,
    pods: AtomicU8,
}

/// One pod of a node.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) cookie: NetnsCookie,
    /// See [`PodCapture::may_join`].
    pub(crate) may_join: bool,
    netns: Arc<OwnedFd>,
    pods_cgroup: PathBuf,
    proxy_cgroup: PathBuf,
}

/// The listeners that a proxy opens in a pod.
pub(crate) struct ProxyListeners {
    pub(crate) outbound_v4: TcpListener,
    pub(crate) outbound_v6: TcpListener,
    pub(crate) inbound_v4: TcpListener,
    pub(crate) inbound_v6: TcpListener,
    _black_hole: BlackHole,
}

impl Rig {
    pub(crate) fn new(test: &str) -> Self {
        require_machine();
        let root = enter_domain();
        let cgroup = root.join(test);
        for dir in [cgroup.clone(), cgroup.join("pods"), cgroup.join("proxy")] {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("cgroup.type"), "threaded").unwrap();
        }
        let bpffs = run_dir().join(test);
        fs::create_dir_all(&bpffs).unwrap();
        mount("bpf", &bpffs, "bpf", MountFlags::empty(), None).unwrap();
        let node = new_netns();
        in_netns(&node, || {
            ip("link add br0 type bridge");
            ip("link set br0 up");
        });
        Rig {
            settings: DatapathSettings {
                pin_dir: bpffs.join("node"),
                capture_cgroup: cgroup.join("pods"),
                proxy_cgroup: cgroup.join("proxy"),
                sockmap: SockmapMode::Off,
                pacing: Pacing::Auto,
                dns_capture: false,
                ports: CapturePorts::default(),
            },
            enforcement: Enforcement::Off,
            cgroup,
            bpffs,
            node: Arc::new(node),
            pods: AtomicU8::new(0),
        }
    }

    pub(crate) fn open(&self) -> Datapath {
        Datapath::open_enforcing(&self.settings, self.enforcement)
            .unwrap_or_else(|err| panic!("{}", chain(&err)))
    }

    /// A new pod, joined to the node's bridge.
    pub(crate) fn pod(&self) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let netns = new_netns();
        let pid = std::process::id();
        let netns_path = format!("/proc/{pid}/fd/{}", netns.as_raw_fd());
        in_netns(&self.node, || {
            ip(&format!(
                "link add veth{number} type veth peer name eth0 netns {netns_path}"
            ));
            ip(&format!("link set veth{number} master br0 up"));
        });
        let (v4, v6) = (
            Ipv4Addr::new(10, 77, 0, number),
            Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)),
        );
        let cookie = in_netns(&netns, || {
            ip("link set lo up");
            ip(&format!("addr add {v4}/24 dev eth0"));
            ip(&format!("addr add {v6}/64 dev eth0 nodad"));
            ip("link set eth0 up");
            ip("route add default dev eth0");
            ip("-6 route add default dev eth0");
            NetnsCookie::of_socket(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
        });
        Pod {
            uid: format!("pod-{number}"),
            v4,
            v6,
            cookie,
            may_join: true,
            netns: Arc::new(netns),
            pods_cgroup: self.settings.capture_cgroup.clone(),
            proxy_cgroup: self.settings.proxy_cgroup.clone(),
        }
    }

    /// Runs in the node's own namespace.
    pub(crate) fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.node, work)
    }

    /// Gives the node an address on the pods' network.
    pub(crate) fn give_node(&self, address: Ipv4Addr) {
        in_netns(&self.node, || ip(&format!("addr add {address}/24 dev br0")));
    }

    /// Opens the proxy's listeners in a pod and captures it.
    pub(crate) fn capture(&self, datapath: &Datapath, pod: &Pod) -> ProxyListeners {
        let listeners = pod.as_proxy(|| ProxyListeners {
            outbound_v4: listen("127.0.0.1", OUTBOUND),
            outbound_v6: listen("::1", OUTBOUND),
            inbound_v4: listen("0.0.0.0", INBOUND),
            inbound_v6: listen("::", INBOUND),
            _black_hole: BlackHole::open(true).unwrap(),
        });
        pod.register(datapath, &listeners);
        listeners
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let mut failures = Vec::new();
        failures.extend(
            Datapath::remove(&self.settings.pin_dir)
                .err()
                .map(|err| err.to_string()),
        );
        failures.extend(
            unmount(&self.bpffs, UnmountFlags::DETACH)
                .err()
                .map(|err| err.to_string()),
        );
        failures.extend(fs::remove_dir(&self.bpffs).err().map(|err| err.to_string()));
        for dir in ["pods", "proxy", ""] {
            failures.extend(
                remove_cgroup(&self.cgroup.join(dir))
                    .err()
                    .map(|err| err.to_string()),
            );
        }
        leave_domain();
        if !failures.is_empty() && !thread::panicking() {
            panic!("the rig leaves something behind: {failures:?}");
        }
    }
}

impl Pod {
    /// Moves the pod's applications into a cgroup below the captured one.
    pub(crate) fn live_in(&mut self, below: &str) {
        self.pods_cgroup.push(below);
    }

    /// Runs as an application of the pod.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.pods_cgroup, &self.netns, work)
    }

    /// Runs in the pod's namespace as a process that left the pod's cgroup.
    pub(crate) fn escaped<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.netns, work)
    }

    /// Runs as the proxy, in the pod's namespace.
    pub(crate) fn as_proxy<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.proxy_cgroup, &self.netns, work)
    }

    /// Starts an application of the pod.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (cgroup, netns) = (self.pods_cgroup.clone(), Arc::clone(&self.netns));
        thread::spawn(move || {
            enter(&cgroup, &netns);
            work()
        })
    }

    /// Starts a part of the proxy in the pod's namespace.
    pub(crate) fn spawn_proxy<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (cgroup, netns) = (self.proxy_cgroup.clone(), Arc::clone(&self.netns));
        thread::spawn(move || {
            enter(&cgroup, &netns);
            work()
        })
    }

    pub(crate) fn register(&self, datapath: &Datapath, listeners: &ProxyListeners) {
        datapath
            .capture_pod(&PodCapture {
                uid: &self.uid,
                netns: self.netns.as_fd(),
                netns_cookie: self.cookie,
                addresses: &[IpAddr::V4(self.v4), IpAddr::V6(self.v6)],
                inbound: &[listeners.inbound_v4.as_fd(), listeners.inbound_v6.as_fd()],
                may_join: self.may_join,
            })
            .unwrap_or_else(|err| panic!("{}", chain(&err)));
    }

    pub(crate) fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }
}

/// A listener whose IPv6 form takes no IPv4.
pub(crate) fn listen(ip: &str, port: u16) -> TcpListener {
    let address = SocketAddr::new(ip.parse().unwrap(), port);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// One counter's value.
pub(crate) fn count(datapath: &Datapath, program: &str, reason: &str) -> u64 {
    let counters: Vec<Counter> = datapath.counters();
    counters
        .iter()
        .find(|counter| counter.program == program && counter.reason == reason)
        .map_or(0, |counter| counter.count)
}

/// An error and what it came from.
pub(crate) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text.push_str(": ");
        text.push_str(&err.to_string());
        cause = err.source();
    }
    text
}

fn run_in<T: Send>(cgroup: &Path, netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            enter(cgroup, netns);
            work()
        });
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter(cgroup: &Path, netns: &OwnedFd) {
    let thread = gettid().as_raw_nonzero().to_string();
    fs::write(cgroup.join("cgroup.threads"), thread).unwrap();
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn in_netns<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn new_netns() -> OwnedFd {
    let thread = thread::spawn(|| {
        leave_netns().unwrap();
        File::open("/proc/thread-self/ns/net").unwrap().into()
    });
    thread.join().unwrap()
}

#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of file tables"
)]
fn leave_netns() -> io::Result<()> {
    // SAFETY: only the network namespace is left; no memory or descriptor is unshared.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("the tests need iproute2: run `cargo xtask setup`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

fn require_machine() {
    assert!(
        geteuid().is_root(),
        "these tests load programs into the kernel: run them as root"
    );
    assert!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "these tests need a kernel that describes its types: /sys/kernel/btf/vmlinux is missing (CONFIG_DEBUG_INFO_BTF)"
    );
}

/// Where cgroup v2 is mounted.
fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let path = line.and_then(|line| line.split(' ').nth(1));
    PathBuf::from(
        path.expect("these tests need cgroup v2: mount it with `mount -t cgroup2 none DIR`"),
    )
}

/// Threads of one process may live in different cgroups only below a common one: the whole process moves there once.
fn enter_domain() -> PathBuf {
    let mut rigs = RIGS.lock().unwrap_or_else(PoisonError::into_inner);
    let root = cgroup_mount().join(own_name());
    if rigs.0 == 0 {
        sweep();
        fs::create_dir_all(&root).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap();
        rigs.1 = cgroup_mount().join(own);
        fs::write(root.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
    rigs.0 += 1;
    root
}

fn leave_domain() {
    let mut rigs = RIGS.lock().unwrap_or_else(PoisonError::into_inner);
    rigs.0 -= 1;
    if rigs.0 == 0 {
        // What fails here is swept by the next run.
        let _moved = fs::write(rigs.1.join("cgroup.procs"), std::process::id().to_string());
        let _removed = remove_cgroup(&cgroup_mount().join(own_name()));
        let _removed = fs::remove_dir(run_dir());
    }
}

/// How many rigs there are, and the cgroup that the process came from.
static RIGS: Mutex<(usize, PathBuf)> = Mutex::new((0, PathBuf::new()));

/// A cgroup is busy until the kernel has seen its last thread go.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(path) {
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::park_timeout(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

fn own_name() -> String {
    format!("{NAME}{}", std::process::id())
}

fn run_dir() -> PathBuf {
    Path::new("/run").join(own_name())
}

/// Removes what runs left behind that were killed.
fn sweep() {
    let is_dead = |path: &Path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(NAME))
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let dead = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        entries.filter(|path| is_dead(path)).collect()
    };
    for run in dead(Path::new("/run")) {
        for mounted in fs::read_dir(&run).unwrap().flatten() {
            let _unmounted = unmount(mounted.path(), UnmountFlags::DETACH);
        }
        fs::remove_dir_all(&run).unwrap();
    }
    for root in dead(&cgroup_mount()) {
        for test in fs::read_dir(&root)
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir())
        {
            for part in ["pods", "proxy", ""] {
                let _removed = fs::remove_dir(test.path().join(part));
            }
        }
        let _removed = fs::remove_dir(&root);
    }
}

/// What the names of cgroups and directories begin with.
const NAME: &str = "tldp";
