//! Brings the object file into the kernel: maps from their pins or new, programs always new.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    panic, thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, PerCpuArray, RingBuf, SockHash},
    programs::{Program, ProgramError},
};
use tulle_abi::{MAPS, PodSettings, Settings};

use crate::{
    OpenDatapathError,
    object::{NODE, STEERING},
    pins::Pins,
    policy::PolicyMaps,
    raw::{Listeners, Raw, Table},
    sys::AttachType,
};

/// A program that hangs on a cgroup, on a map or on a namespace.
pub(crate) struct Hook {
    /// Name of the function in the object file, of the pin, and in messages.
    pub(crate) name: &'static str,
    /// How it is attached.
    pub(crate) attach_type: AttachType,
    /// The loaded program.
    pub(crate) program: OwnedFd,
}

/// The programs that a node has once.
pub(crate) struct Programs {
    /// Programs for the captured cgroup.
    pub(crate) cgroup_hooks: Vec<Hook>,
    /// Vouches for what the proxy sends, if policy is enforced.
    pub(crate) vouch: Option<Hook>,
    /// What the sockmap needs, unless it is off.
    pub(crate) sockmap: Option<SockmapPrograms>,
}

/// The programs that a pod has for itself.
pub(crate) struct PodPrograms {
    pub(crate) steer: Hook,
    /// Its gate, if policy is enforced.
    pub(crate) gate: Option<Gate>,
}

/// The programs on a pod's link.
pub(crate) struct Gate {
    pub(crate) from_pod: Hook,
    pub(crate) to_pod: Hook,
}

/// The programs of the sockmap.
pub(crate) struct SockmapPrograms {
    /// The redirecting program.
    pub(crate) redirect: Hook,
    /// The programs that take a socket out before a call on it can wait; or why the kernel refuses them.
    pub(crate) guards: Result<Guards, OpenDatapathError>,
    /// Lets a connection join.
    pub(crate) join: OwnedFd,
    /// The mode that they were loaded for, a number of the kernel side.
    pub(crate) mode: u32,
}

/// The programs that keep calls from waiting inside the sockmap.
pub(crate) struct Guards {
    pub(crate) hooks: Vec<Hook>,
    /// Prepares the evictions; to be run once.
    pub(crate) arm: OwnedFd,
}

/// The maps that user space works with.
pub(crate) struct Maps {
    pub(crate) services: Table<tulle_abi::ServiceKey, tulle_abi::ServiceValue>,
    pub(crate) backends: Table<tulle_abi::BackendKey, tulle_abi::BackendValue>,
    pub(crate) members: Table<tulle_abi::MemberKey, u32>,
    pub(crate) maglev: Table<tulle_abi::MaglevKey, tulle_abi::MaglevChunk>,
    pub(crate) workloads: Table<tulle_abi::Address, u32>,
    pub(crate) pods: Table<u64, tulle_abi::PodValue>,
    pub(crate) pod_addresses: Table<tulle_abi::PodAddressKey, u32>,
    pub(crate) owners: Table<tulle_abi::Address, u64>,
    pub(crate) listeners: Listeners,
    pub(crate) originals: Table<tulle_abi::OriginalKey, tulle_abi::OriginalValue>,
    pub(crate) announced: Table<u64, tulle_abi::Endpoint>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) events: RingBuf<MapData>,
    pub(crate) policy: PolicyMaps,
    pub(crate) verdicts: RingBuf<MapData>,
    pub(crate) host_addresses: Table<tulle_abi::Address, u32>,
    pub(crate) directs: Table<tulle_abi::TupleKey, u32>,
    pub(crate) flows: Table<tulle_abi::FlowKey, tulle_abi::FlowValue>,
    pub(crate) applications: Sockets<tulle_abi::TupleKey>,
    pub(crate) proxies: Sockets<tulle_abi::TupleKey>,
}

/// A map of sockets.
pub(crate) type Sockets<K> = SockHash<MapData, Raw<K>>;

/// Loads the object file with these settings.
pub(crate) fn load(
    pins: &Pins,
    settings: &Settings,
) -> Result<(Programs, Maps), OpenDatapathError> {
    let settings = Raw(*settings);
    let kernel_types = Btf::from_sys_fs().ok();
    let mut loader = EbpfLoader::new();
    loader.btf(kernel_types.as_ref());
    loader.override_global("SETTINGS", &settings, true);
    for map in MAPS {
        loader.map_pin_path(map.name, pins.map(map));
    }
    let mut object = loader
        .load(NODE)
        .map_err(|err| OpenDatapathError::Load(Box::new(err)))?;
    let cgroup_hooks = CGROUP_HOOKS
        .iter()
        .map(|(name, attach_type)| load_program(&mut object, name, *attach_type))
        .collect::<Result<_, _>>()?;
    let vouch = match settings.0.enforcement {
        tulle_abi::ENFORCEMENT_OFF => None,
        _ => Some(load_program(&mut object, VOUCH, AttachType::CgroupEgress)?),
    };
    let sockmap = match kernel_types {
        Some(types) if settings.0.sockmap != tulle_abi::SOCKMAP_OFF => {
            Some(load_sockmap(&mut object, &types, settings.0.sockmap)?)
        }
        _ => None,
    };
    let programs = Programs {
        cgroup_hooks,
        vouch,
        sockmap,
    };
    Ok((programs, Maps::take(&mut object)?))
}

fn load_sockmap(
    object: &mut Ebpf,
    types: &Btf,
    mode: u32,
) -> Result<SockmapPrograms, OpenDatapathError> {
    Ok(SockmapPrograms {
        redirect: load_program(object, REDIRECT, AttachType::SkMsgVerdict)?,
        guards: load_guards(object, types),
        join: load_runnable(object, JOIN)?,
        mode,
    })
}

fn load_guards(object: &mut Ebpf, types: &Btf) -> Result<Guards, OpenDatapathError> {
    let hooks = GUARDS
        .iter()
        .map(|(name, function)| load_guard(object, types, name, function))
        .collect::<Result<_, _>>()?;
    let arm = load_runnable(object, ARM)?;
    Ok(Guards { hooks, arm })
}

fn load_guard(
    object: &mut Ebpf,
    types: &Btf,
    name: &'static str,
    function: &str,
) -> Result<Hook, OpenDatapathError> {
    let refuse = refuse(name);
    let Some(Program::FEntry(program)) = object.program_mut(name) else {
        return Err(OpenDatapathError::Missing { name });
    };
    retry(|| program.load(function, types)).map_err(&refuse)?;
    let program = own(program.fd().map_err(&refuse)?.as_fd(), name)?;
    Ok(Hook {
        name,
        attach_type: AttachType::TraceFentry,
        program,
    })
}

/// A program that hangs nowhere: user space runs it.
fn load_runnable(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd, OpenDatapathError> {
    let refuse = refuse(name);
    let Some(Program::SchedClassifier(program)) = object.program_mut(name) else {
        return Err(OpenDatapathError::Missing { name });
    };
    retry(|| program.load()).map_err(&refuse)?;
    own(program.fd().map_err(&refuse)?.as_fd(), name)
}

impl Maps {
    fn take(object: &mut Ebpf) -> Result<Self, OpenDatapathError> {
        Ok(Maps {
            services: take(object, "SERVICES")?,
            backends: take(object, "BACKENDS")?,
            members: take(object, "MEMBERS")?,
            maglev: take(object, "MAGLEV")?,
            workloads: take(object, "WORKLOADS")?,
            pods: take(object, "PODS")?,
            pod_addresses: take(object, "POD_ADDRESSES")?,
            owners: take(object, "OWNERS")?,
            listeners: take(object, "LISTENERS")?,
            originals: take(object, "ORIGINALS")?,
            announced: take(object, "ANNOUNCED")?,
            counters: take(object, "COUNTERS")?,
            events: take(object, "EVENTS")?,
            policy: PolicyMaps {
                identities: take(object, "IDENTITIES")?,
                blocks: take(object, "BLOCKS")?,
                peers: take(object, "POLICY")?,
                ports: take(object, "PORTS")?,
                state: take(object, "POLICY_STATE")?,
            },
            verdicts: take(object, "VERDICTS")?,
            host_addresses: take(object, "HOST_ADDRESSES")?,
            directs: take(object, "DIRECTS")?,
            flows: take(object, "FLOWS")?,
            applications: take(object, "APPLICATIONS")?,
            proxies: take(object, "PROXIES")?,
        })
    }
}

/// Loads the programs of one pod.
///
/// On a thread of its own: the loader parses all of the kernel's types into small objects and frees them again. With the allocator of
/// the C library, whose threads have heaps of their own, what others allocate meanwhile would lie scattered among them and hold their
/// pages for as long as the pod lives.
pub(crate) fn load_pod(
    pins: &Pins,
    pod: &PodSettings,
    with_gate: bool,
) -> Result<PodPrograms, OpenDatapathError> {
    let load = || load_pod_here(pins, pod, with_gate);
    thread::scope(
        |scope| match thread::Builder::new().spawn_scoped(scope, load) {
            Ok(loading) => loading
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic)),
            // A machine without room for another thread: scattered, but captured.
            Err(_) => load(),
        },
    )
}

fn load_pod_here(
    pins: &Pins,
    pod: &PodSettings,
    with_gate: bool,
) -> Result<PodPrograms, OpenDatapathError> {
    let pod = Raw(*pod);
    let mut loader = EbpfLoader::new();
    loader.override_global("POD", &pod, true);
    for map in MAPS {
        loader.map_pin_path(map.name, pins.map(map));
    }
    let mut object = loader
        .load(STEERING)
        .map_err(|err| OpenDatapathError::Load(Box::new(err)))?;
    let gate = if with_gate {
        Some(Gate {
            from_pod: load_program(&mut object, FROM_POD, AttachType::TcxIngress)?,
            to_pod: load_program(&mut object, TO_POD, AttachType::TcxEgress)?,
        })
    } else {
        None
    };
    Ok(PodPrograms {
        steer: load_program(&mut object, STEER, AttachType::SkLookup)?,
        gate,
    })
}

fn take<T: TryFrom<Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<T, OpenDatapathError> {
    let map = object
        .take_map(name)
        .ok_or(OpenDatapathError::Missing { name })?;
    T::try_from(map).map_err(|err| OpenDatapathError::ReadMap {
        map: name,
        source: Box::new(err),
    })
}

fn load_program(
    object: &mut Ebpf,
    name: &'static str,
    attach_type: AttachType,
) -> Result<Hook, OpenDatapathError> {
    let program = object
        .program_mut(name)
        .ok_or(OpenDatapathError::Missing { name })?;
    let refuse = refuse(name);
    load_patiently(program)
        .ok_or(OpenDatapathError::Missing { name })?
        .map_err(&refuse)?;
    let program = own(program.fd().map_err(&refuse)?.as_fd(), name)?;
    Ok(Hook {
        name,
        attach_type,
        program,
    })
}

/// Loads a program of a kind that the object file has; `None` for any other.
fn load_patiently(program: &mut Program) -> Option<Result<(), ProgramError>> {
    Some(match program {
        Program::CgroupSockAddr(program) => retry(|| program.load()),
        Program::SockOps(program) => retry(|| program.load()),
        Program::SkMsg(program) => retry(|| program.load()),
        Program::SkLookup(program) => retry(|| program.load()),
        Program::SchedClassifier(program) => retry(|| program.load()),
        Program::CgroupSkb(program) => retry(|| program.load()),
        _ => return None,
    })
}

/// A signal that arrives while the verifier works makes it give up with `EAGAIN`, which says nothing about the program.
fn retry(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..LOAD_TRIES_MAX {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    load()
}

/// How often the verifier may be interrupted.
const LOAD_TRIES_MAX: u32 = 64;

fn refuse(name: &'static str) -> impl Fn(ProgramError) -> OpenDatapathError {
    move |source| OpenDatapathError::Program {
        program: name,
        source: Box::new(source),
    }
}

fn own(program: BorrowedFd<'_>, name: &'static str) -> Result<OwnedFd, OpenDatapathError> {
    program
        .try_clone_to_owned()
        .map_err(|source| OpenDatapathError::Program {
            program: name,
            source: Box::new(source),
        })
}

/// Functions of the object file that hang on cgroups.
const CGROUP_HOOKS: &[(&str, AttachType)] = &[
    ("getpeername4", AttachType::Getpeername4),
    ("getpeername6", AttachType::Getpeername6),
    ("recvmsg4", AttachType::Recvmsg4),
    ("recvmsg6", AttachType::Recvmsg6),
    (TRACK, AttachType::SockOps),
    ("sendmsg4", AttachType::Sendmsg4),
    ("sendmsg6", AttachType::Sendmsg6),
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
];
/// The function of the sockops hook: also attached to the proxy's cgroup.
pub(crate) const TRACK: &str = "track";
/// The function of the sockmap's hook.
const REDIRECT: &str = "redirect";
/// Functions of the object file that hang on functions of the kernel, and on which.
const GUARDS: &[(&str, &str)] = &[
    ("guard_receive", "tcp_bpf_recvmsg"),
    ("guard_receive_2", "tcp_bpf_recvmsg"),
    ("guard_send", "tcp_bpf_sendmsg"),
    ("guard_send_2", "tcp_bpf_sendmsg"),
];
const ARM: &str = "arm";
const JOIN: &str = "join";
/// The function that hangs on the proxy's cgroup.
pub(crate) const VOUCH: &str = "vouch";
/// The functions that hang on each pod's link.
const FROM_POD: &str = "from_pod";
const TO_POD: &str = "to_pod";
/// The function that hangs on each pod's namespace.
const STEER: &str = "steer";
