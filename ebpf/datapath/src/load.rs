//! Brings the object file into the kernel: maps from their pins or new, programs always new.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, PerCpuArray, RingBuf, SockHash},
    programs::{Program, ProgramError},
};
use tulle_abi::{MAPS, PodSettings, Settings};

use crate::{
    OpenDatapathError,
    object::{NODE, STEERING},
    pins::Pins,
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
    /// The redirecting program, unless the sockmap is off.
    pub(crate) redirect: Option<Hook>,
    /// The mode that they were loaded for, a number of the kernel side.
    pub(crate) sockmap: u32,
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
    pub(crate) listeners: Listeners,
    pub(crate) originals: Table<tulle_abi::OriginalKey, tulle_abi::OriginalValue>,
    pub(crate) announced: Table<u64, tulle_abi::Endpoint>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) events: RingBuf<MapData>,
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
    let mut loader = EbpfLoader::new();
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
    let redirect = (settings.0.sockmap != tulle_abi::SOCKMAP_OFF)
        .then(|| load_program(&mut object, REDIRECT, AttachType::SkMsgVerdict))
        .transpose()?;
    let programs = Programs {
        cgroup_hooks,
        redirect,
        sockmap: settings.0.sockmap,
    };
    Ok((programs, Maps::take(&mut object)?))
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
            listeners: take(object, "LISTENERS")?,
            originals: take(object, "ORIGINALS")?,
            announced: take(object, "ANNOUNCED")?,
            counters: take(object, "COUNTERS")?,
            events: take(object, "EVENTS")?,
            applications: take(object, "APPLICATIONS")?,
            proxies: take(object, "PROXIES")?,
        })
    }
}

/// Loads the steering program of one pod.
pub(crate) fn load_steering(pins: &Pins, pod: &PodSettings) -> Result<Hook, OpenDatapathError> {
    let pod = Raw(*pod);
    let mut loader = EbpfLoader::new();
    loader.override_global("POD", &pod, true);
    for map in MAPS {
        loader.map_pin_path(map.name, pins.map(map));
    }
    let mut object = loader
        .load(STEERING)
        .map_err(|err| OpenDatapathError::Load(Box::new(err)))?;
    load_program(&mut object, STEER, AttachType::SkLookup)
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
    let refuse = |source: ProgramError| OpenDatapathError::Program {
        program: name,
        source: Box::new(source),
    };
    load_patiently(program)
        .ok_or(OpenDatapathError::Missing { name })?
        .map_err(refuse)?;
    let program = program
        .fd()
        .map_err(refuse)?
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| OpenDatapathError::Program {
            program: name,
            source: Box::new(source),
        })?;
    Ok(Hook {
        name,
        attach_type,
        program,
    })
}

/// Loads a program of a kind that the object file has; `None` for any other.
///
/// A signal that arrives while the verifier works makes it give up with `EAGAIN`, which says nothing about the program.
fn load_patiently(program: &mut Program) -> Option<Result<(), ProgramError>> {
    let mut tries = 0;
    loop {
        let result = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::SkMsg(program) => program.load(),
            Program::SkLookup(program) => program.load(),
            _ => return None,
        };
        tries += 1;
        match result {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock && tries < LOAD_TRIES_MAX => {}
            done => return Some(done),
        }
    }
}

/// How often the verifier may be interrupted.
const LOAD_TRIES_MAX: u32 = 8;

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
/// The function that hangs on each pod's namespace.
const STEER: &str = "steer";
