//! The kernel side of one node as one value.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use rustix::system::uname;
use tracing::{info, warn};
use tulle_abi::{
    Address, Endpoint, HOST_ADDRESSES_MAX, OriginalKey, OriginalValue, Program, Reason,
    SOCKMAP_OFF, Settings, counter_index,
};

use crate::{
    AnnouncePeerError, BLACK_HOLE_PORT, CapturePodError, ConnectEvents, DatapathSettings,
    DestroyConnectionsError, DestroyReport, Enforcement, EstablishedConnection, JoinError,
    KernelTable, LocalConnection, MapFill, NetnsCookie, OpenDatapathError, OriginalDestination,
    Pacing, PodCapture, PolicyChanges, PolicyReport, PolicyTable, ReconcileError, ReconcileReport,
    ReleasePodError, RemoveDatapathError, SocketCookie, SockmapMode, TableChanges, VerdictEvents,
    attach::attach_cgroup,
    btf,
    capture::Pods,
    cgroup::Cgroup,
    gate::GateSide,
    load::{Programs, TRACK, VOUCH},
    pins::{Pins, remove_all, remove_file},
    policy::PolicyTables,
    raw::{Raw, Table},
    reconcile::{Tables, delete, read_all, write},
    sockets::{self, Begun, PodSockets},
    sockmap,
};

/// The programs and maps of one node, loaded or adopted.
///
/// Dropping it detaches nothing: the pins keep every hook in place, and the next [`Datapath::open`] adopts them.
pub struct Datapath {
    pins: Pins,
    /// Hooks that wait for the first table.
    pending: Mutex<Option<Hooks>>,
    tunnel_port: u16,
    tables: Mutex<Tables>,
    pods: Mutex<Pods>,
    announced: Mutex<Table<u64, Endpoint>>,
    originals: Table<OriginalKey, OriginalValue>,
    counters: PerCpuArray<MapData, u64>,
    /// Until somebody takes them.
    events: Mutex<Option<RingBuf<MapData>>>,
    policy: Mutex<PolicyTables>,
    /// Until somebody takes them.
    verdicts: Mutex<Option<RingBuf<MapData>>>,
    /// The program that lets a connection join the sockmap, in the mode in which the proxy decides that.
    join: Option<OwnedFd>,
    is_guarded: bool,
    is_enforcing: bool,
    host_addresses: Mutex<Table<Address, u32>>,
    begun: Begun,
    /// The id of the proxy's cgroup.
    proxy_cgroup: u64,
}

/// How often a program left for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// The hook.
    pub program: &'static str,
    /// The reason, one of a closed set.
    pub reason: &'static str,
    /// How often, over all processors, since the maps were made.
    pub count: u64,
}

impl Datapath {
    /// Loads the kernel side, or adopts what an earlier process pinned: start, restart and repair are the same.
    ///
    /// Maps are taken over with what they hold, programs are exchanged in place. A map of another layout is replaced by an empty one.
    ///
    /// # Errors
    /// When a path is not what it should be, or the kernel refuses something; what was attached before stays attached.
    pub fn open(settings: &DatapathSettings) -> Result<Datapath, OpenDatapathError> {
        Self::open_enforcing(settings, Enforcement::Off)
    }

    /// As [`Datapath::open`], and the policy tables are enforced: until the first of them all pods are pending.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_enforcing(
        settings: &DatapathSettings,
        enforcement: Enforcement,
    ) -> Result<Datapath, OpenDatapathError> {
        let capture = Cgroup::open(&settings.capture_cgroup)?;
        let proxy = Cgroup::open(&settings.proxy_cgroup)?;
        let pins = Pins::open(&settings.pin_dir)?;
        let stale = pins.stale_maps()?;
        for pin in &stale {
            remove_pin(pin)?;
        }
        let kernel = kernel_settings(settings, enforcement, &proxy)?;
        let sockmap::Loaded {
            programs,
            maps,
            join,
            is_guarded,
        } = sockmap::load(&pins, kernel, settings.sockmap == SockmapMode::Auto)?;
        let proxy_cgroup = proxy.id;
        let hooks = Hooks {
            programs,
            capture,
            proxy,
        };
        let pending = if stale.is_empty() {
            hooks.attach(&pins)?;
            None
        } else {
            // The maps are empty, and hooks that look into them would let everything pass. The old programs keep the old maps
            // until the first table is in the new ones.
            Some(hooks)
        };
        let mut tables = Tables {
            services: maps.services,
            backends: maps.backends,
            members: maps.members,
            maglev: maps.maglev,
            workloads: maps.workloads,
            held: None,
        };
        tables.held = tables.read().map(Some).unwrap_or_else(|err| {
            warn!(%err, "the service maps cannot be read yet; the first reconciliation tries again");
            None
        });
        info!(pins = %settings.pin_dir.display(), sockmap = ?settings.sockmap, is_guarded, "the kernel side is attached");
        Ok(Datapath {
            pins,
            pending: Mutex::new(pending),
            tunnel_port: settings.ports.tunnel,
            tables: Mutex::new(tables),
            pods: Mutex::new(Pods {
                pods: maps.pods,
                addresses: maps.pod_addresses,
                listeners: maps.listeners,
                namespaces: HashMap::new(),
                owners: maps.owners,
                with_gates: enforcement != Enforcement::Off,
                subjects: None,
            }),
            policy: Mutex::new(PolicyTables::new(maps.policy)),
            verdicts: Mutex::new(Some(maps.verdicts)),
            announced: Mutex::new(maps.announced),
            originals: maps.originals,
            counters: maps.counters,
            events: Mutex::new(Some(maps.events)),
            join,
            is_guarded,
            is_enforcing: enforcement != Enforcement::Off,
            host_addresses: Mutex::new(maps.host_addresses),
            begun: Begun {
                directs: maps.directs,
                flows: maps.flows,
            },
            proxy_cgroup,
        })
    }

    /// Whether the policy tables are enforced. Then each captured pod needs a [`BlackHole`](crate::BlackHole).
    pub fn is_enforcing(&self) -> bool {
        self.is_enforcing
    }

    /// Detaches and unpins everything under the directory. A directory that is not there counts as removed.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(pin_dir: &Path) -> Result<(), RemoveDatapathError> {
        remove_all(pin_dir)
    }

    /// Makes the service and workload maps hold this table, writing only what differs from what they hold.
    ///
    /// # Errors
    /// When the table is too large for a map (nothing is written then), or the kernel refuses an entry.
    pub fn reconcile(&self, table: &KernelTable) -> Result<ReconcileReport, ReconcileError> {
        let report = lock(&self.tables).reconcile(table)?;
        let mut pending = lock(&self.pending);
        if let Some(hooks) = pending.as_ref() {
            hooks
                .attach(&self.pins)
                .map_err(|err| ReconcileError::Attach(Box::new(err)))?;
            *pending = None;
        }
        Ok(report)
    }

    /// Writes what changed since the last table, at a cost that goes by the change and not by the table.
    ///
    /// # Errors
    /// When there would be too much for a map (nothing is written then), when the kernel refuses an entry, or when it is not known what
    /// the maps hold. After either of the last two only [`Datapath::reconcile`] helps.
    pub fn apply(&self, changes: &TableChanges) -> Result<ReconcileReport, ReconcileError> {
        if lock(&self.pending).is_some() {
            return Err(ReconcileError::Unknown);
        }
        lock(&self.tables).apply(changes)
    }

    /// Makes the policy maps hold this table, writing only what differs from what they hold.
    ///
    /// Numbers that an earlier process gave mean nothing: when its tables are replaced all pods are pending for as long as that
    /// takes, and the proxy judges their connections.
    ///
    /// # Errors
    /// When the table is too large for a map or gives a fixed number another meaning (nothing is written then), or the kernel
    /// refuses an entry.
    pub fn reconcile_policy(&self, table: &PolicyTable) -> Result<PolicyReport, ReconcileError> {
        let mut pods = lock(&self.pods);
        lock(&self.policy).reconcile(table, &mut pods)
    }

    /// Writes what changed since the last policy table, at a cost that goes by the change and not by the table.
    ///
    /// # Errors
    /// As [`Datapath::apply`]; then only [`Datapath::reconcile_policy`] helps.
    pub fn apply_policy(&self, changes: &PolicyChanges) -> Result<PolicyReport, ReconcileError> {
        let mut pods = lock(&self.pods);
        lock(&self.policy).apply(changes, &mut pods)
    }

    /// How full the policy maps are; nothing before the first table.
    pub fn policy_fill(&self) -> Vec<MapFill> {
        lock(&self.policy).fill()
    }

    /// What policy denied or would have denied, from now on. There is one reader: a second call has nothing.
    pub fn take_verdict_events(&self) -> Option<VerdictEvents> {
        lock(&self.verdicts).take().map(VerdictEvents::from_now_on)
    }

    /// What became of connections that lead straight to a backend, from now on. There is one reader: a second call has nothing.
    pub fn take_connect_events(&self) -> Option<ConnectEvents> {
        lock(&self.events).take().map(ConnectEvents::from_now_on)
    }

    /// Resets the connections that captured pods have with any of these addresses: TCP connections, and UDP sockets that are
    /// connected. Their applications see `ECONNABORTED` at once, and the far end, if there is one, a reset.
    ///
    /// That includes connections that the proxy holds inside the pods' namespaces, so what it carries over them is reset too.
    /// At most `limit` sockets; a report says whether there may be more. Blocks for as long as it takes to list all sockets of
    /// all pods.
    ///
    /// # Errors
    /// When the kernel cannot do it at all. What fails for one pod or one socket is counted in the report.
    pub fn destroy_connections(
        &self,
        to: &HashSet<IpAddr>,
        limit: usize,
    ) -> Result<DestroyReport, DestroyConnectionsError> {
        let namespaces: Vec<OwnedFd> = lock(&self.pods)
            .namespaces
            .values()
            .filter_map(|netns| netns.try_clone().ok())
            .collect();
        sockets::destroy(&namespaces, to, limit)
    }

    /// Ends established connections that policy no longer allows: `may` is asked about every connection of an application of a
    /// captured pod that does not lead through the proxy (see [`EstablishedConnection`]).
    ///
    /// To be called after the tables have changed. At most `limit` sockets; the report says whether there may be more. Blocks for as
    /// long as it takes to list all sockets of all pods.
    ///
    /// # Errors
    /// As [`Datapath::destroy_connections`].
    pub fn recheck(
        &self,
        limit: usize,
        may: impl Fn(&EstablishedConnection<'_>) -> bool + Sync,
    ) -> Result<DestroyReport, DestroyConnectionsError> {
        let pods: Vec<PodSockets> = lock(&self.pods)
            .namespaces
            .iter()
            .filter_map(|(uid, netns)| {
                let netns = netns.try_clone().ok()?;
                Some(PodSockets {
                    uid: uid.clone(),
                    netns,
                })
            })
            .collect();
        sockets::recheck(&pods, self.proxy_cgroup, &self.begun, limit, may)
    }

    /// Captures a pod: its outbound connections by its namespace's cookie, its inbound ones by steering in the namespace.
    ///
    /// Captures it anew with the given listeners when it is captured already.
    ///
    /// # Errors
    /// When the uid cannot name a pin, a listener is none, or the kernel refuses something.
    pub fn capture_pod(&self, pod: &PodCapture<'_>) -> Result<(), CapturePodError> {
        let side = lock(&self.pods).capture(&self.pins, self.tunnel_port, pod)?;
        if side == Some(GateSide::Pod) {
            warn!(
                uid = pod.uid,
                "the pod's gate hangs inside its namespace: the other end of its link is not in the node's"
            );
        }
        Ok(())
    }

    /// Tells which addresses are the node's own: what comes from them always reaches the pods.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses an entry.
    pub fn set_node_addresses(&self, addresses: &HashSet<IpAddr>) -> Result<(), ReconcileError> {
        if addresses.len() > HOST_ADDRESSES_MAX {
            return Err(ReconcileError::TooLarge {
                map: "HOST_ADDRESSES",
                wanted: addresses.len(),
                limit: HOST_ADDRESSES_MAX,
            });
        }
        let mut table = lock(&self.host_addresses);
        let held: HashMap<Address, u32> = read_all("HOST_ADDRESSES", &table)?;
        for ip in addresses {
            write("HOST_ADDRESSES", &mut table, (*ip).into(), 1)?;
        }
        for address in held.into_keys() {
            if !addresses.contains(&IpAddr::from(address)) {
                delete("HOST_ADDRESSES", &mut table, address)?;
            }
        }
        Ok(())
    }

    /// Releases a pod. One that was never captured counts as released.
    ///
    /// # Errors
    /// When the uid cannot name a pin, or an entry or pin cannot be removed.
    pub fn release_pod(&self, uid: &str) -> Result<(), ReleasePodError> {
        lock(&self.pods).release(&self.pins, uid)
    }

    /// The uids of the pods that are captured, by this process or an earlier one.
    ///
    /// After a restart whoever is listed here and no longer exists should be released.
    pub fn captured_pods(&self) -> Vec<String> {
        self.pins.pod_uids().unwrap_or_default()
    }

    /// Where the connection that was accepted on the capture listener wanted to go; `downstream` is the accepted socket's peer.
    ///
    /// `None` when the connection was not captured: somebody in the pod connected to the listener by himself.
    pub fn original_destination(
        &self,
        netns: NetnsCookie,
        downstream: SocketAddr,
    ) -> Option<OriginalDestination> {
        let key = OriginalKey {
            netns: netns.0,
            source: downstream.into(),
            reserved: 0,
        };
        let value = self.originals.get(&Raw(key), 0).ok()?.0;
        Some(OriginalDestination {
            requested: value.requested.into(),
            backend: value.backend.into(),
            is_outside: value.is_outside != 0,
        })
    }

    /// Announces whom the application shall see as its peer when the proxy's socket connects to it. To be called before that connect.
    ///
    /// # Errors
    /// When the kernel refuses the entry.
    pub fn announce_peer(
        &self,
        socket: SocketCookie,
        peer: SocketAddr,
    ) -> Result<(), AnnouncePeerError> {
        lock(&self.announced)
            .insert(Raw(socket.0), Raw(peer.into()), 0)
            .map_err(|err| AnnouncePeerError {
                socket,
                source: Box::new(err),
            })
    }

    /// Whether the proxy says which connections join the sockmap, by [`Datapath::join`].
    pub fn joins_late(&self) -> bool {
        self.join.is_some()
    }

    /// Whether every call that may wait is kept out of the sockmap, so that no application can tell of it.
    pub fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Lets a connection between an application and the proxy join the sockmap, if its socket is one of an event loop. True if it did.
    ///
    /// The calling thread must be in the connection's network namespace. Never true unless [`Datapath::joins_late`].
    ///
    /// # Errors
    /// When the kernel refuses to run the program that does it.
    pub fn join(&self, connection: &LocalConnection) -> Result<bool, JoinError> {
        match &self.join {
            Some(program) => sockmap::join(program.as_fd(), connection),
            None => Ok(false),
        }
    }

    /// How often each program left for each reason, since the maps were made. Pairs that never happened are left out.
    pub fn counters(&self) -> Vec<Counter> {
        let mut counters = Vec::new();
        for program in Program::ALL {
            for reason in Reason::ALL {
                let count = self.count(*program, *reason);
                if count > 0 {
                    counters.push(Counter {
                        program: program.name(),
                        reason: reason.name(),
                        count,
                    });
                }
            }
        }
        counters
    }

    fn count(&self, program: Program, reason: Reason) -> u64 {
        let index = counter_index(program, reason);
        self.counters
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

/// The settings in the form of the kernel side.
fn kernel_settings(
    settings: &DatapathSettings,
    enforcement: Enforcement,
    proxy: &Cgroup,
) -> Result<Settings, OpenDatapathError> {
    let mut sockmap = settings.sockmap.number();
    if sockmap != SOCKMAP_OFF && !charges_redirected_bytes() {
        warn!("the sockmap stays off: a kernel before 6.13 does not bound what waits for a reader");
        sockmap = SOCKMAP_OFF;
    }
    let btf = btf::read_kernel_btf().map_err(OpenDatapathError::Btf)?;
    let offsets = btf::find_offsets(&btf).unwrap_or_else(|err| {
        warn!(%err, "the sockmap stays off: its rules need a field that this kernel does not describe");
        sockmap = SOCKMAP_OFF;
        tulle_abi::KernelOffsets::default()
    });
    let error_offset = btf::find_error_offset(&btf).unwrap_or_else(|err| {
        warn!(%err, "refused connections to a backend go unnoticed, silent ones do not");
        0
    });
    Ok(Settings {
        proxy_cgroup: proxy.id,
        sockmap,
        dns_capture: u32::from(settings.dns_capture),
        outbound_port: settings.ports.outbound,
        inbound_port: settings.ports.inbound,
        tunnel_port: settings.ports.tunnel,
        dns_port: settings.ports.dns,
        queued_bytes_max: QUEUED_BYTES_MAX,
        queued_messages_max: QUEUED_MESSAGES_MAX,
        offsets,
        error_offset,
        enforcement: enforcement.number(),
        black_hole_port: BLACK_HOLE_PORT,
        unpaced: u16::from(settings.pacing == Pacing::Auto),
        reserved: [0; 2],
    })
}

/// The programs that do not belong to a single pod, and where they go.
struct Hooks {
    programs: Programs,
    capture: Cgroup,
    proxy: Cgroup,
}

impl Hooks {
    /// Attaches them, or exchanges the programs of the links that are pinned. The hooks that capture come last.
    fn attach(&self, pins: &Pins) -> Result<(), OpenDatapathError> {
        for hook in &self.programs.cgroup_hooks {
            if hook.name == TRACK {
                let pin_name = format!("{TRACK}-proxy");
                if self.proxy.is_inside(&self.capture) {
                    remove_pin(&pins.link(&pin_name))?;
                } else {
                    attach_cgroup(pins, &pin_name, hook, &self.proxy)?;
                }
            }
            attach_cgroup(pins, hook.name, hook, &self.capture)?;
        }
        match &self.programs.vouch {
            Some(hook) => attach_cgroup(pins, hook.name, hook, &self.proxy),
            None => remove_pin(&pins.link(VOUCH)),
        }
    }
}

/// Whether redirected bytes count against the reader's receive buffer, without which a reader that does not read would let the
/// kernel take bytes without end.
fn charges_redirected_bytes() -> bool {
    let release = uname();
    let mut numbers = release
        .release()
        .to_str()
        .unwrap_or_default()
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= KERNEL_CHARGING
}

fn remove_pin(path: &Path) -> Result<(), OpenDatapathError> {
    remove_file(path).map_err(|source| OpenDatapathError::Path {
        action: "remove the pin",
        path: path.to_owned(),
        source,
    })
}

/// A lock is held for a few map operations; a panic in between leaves the maps as good as any other crash does.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Redirected bytes that may wait for one reader; beyond them TCP's own window takes over.
const QUEUED_BYTES_MAX: u32 = 3_000_000;
/// Redirected messages that may wait for one reader: the kernel keeps about a kilobyte for each, so a megabyte of single bytes
/// would take a gigabyte.
const QUEUED_MESSAGES_MAX: u32 = 512;
/// The first kernel whose `bpf_tcp_ingress` charges the receiver (6.13).
const KERNEL_CHARGING: (u32, u32) = (6, 13);
