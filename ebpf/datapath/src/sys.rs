//! The few commands of the `bpf` system call that the datapath needs and aya keeps to itself: links and pins.
//!
//! Links are handled here from end to end, so that there is one way to make, adopt, update and drop them.

#![expect(
    unsafe_code,
    reason = "the bpf system call has no safe wrapper for links"
)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// What a link is attached to, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// A cgroup, by its id; zero once the cgroup is gone.
    Cgroup(u64),
    /// A network namespace, by its inode; zero once the namespace is gone.
    Netns(u32),
    /// An interface, by its index, and the way of the packets; the index is zero once the interface is gone.
    Interface(u32, u32),
    /// Anything else.
    Other,
}

/// Numbers of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    CgroupEgress = 1,
    SockOps = 3,
    SkMsgVerdict = 7,
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    TraceFentry = 24,
    Getpeername4 = 29,
    Getpeername6 = 30,
    SkLookup = 36,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// Attaches a tracing program to the function of the kernel that it was loaded for.
pub(crate) fn create_tracing_link(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: program.as_raw_fd(),
        target: 0,
        attach_type: attach_type as u32,
        flags: 0,
    };
    new_fd(Command::LinkCreate, &mut attr)
}

/// Runs a program once on the packet `input`, in this thread. Returns what it answered.
pub(crate) fn run_program(program: BorrowedFd<'_>, input: &[u8]) -> io::Result<u32> {
    let mut attr = TestRun {
        program: program.as_raw_fd(),
        answer: 0,
        input_len: u32::try_from(input.len()).map_err(io::Error::other)?,
        output_len: 0,
        input: input.as_ptr() as u64,
        output: 0,
        repeat: 1,
        duration: 0,
    };
    call(Command::ProgramTestRun, &mut attr)?;
    Ok(attr.answer)
}

/// Attaches a program by a link.
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: program.as_raw_fd(),
        target: target.as_raw_fd(),
        attach_type: attach_type as u32,
        flags: 0,
    };
    new_fd(Command::LinkCreate, &mut attr)
}

/// Attaches a classifier to an interface of the calling thread's namespace (Linux 6.6), behind those that are there.
pub(crate) fn create_interface_link(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: program.as_raw_fd(),
        target: RawFd::try_from(interface).map_err(io::Error::other)?,
        attach_type: attach_type as u32,
        flags: 0,
    };
    new_fd(Command::LinkCreate, &mut attr).map_err(|err| match err.raw_os_error() {
        Some(libc::EINVAL) => {
            let sentence = "the kernel has no TCX links (needs Linux 6.6)";
            io::Error::new(io::ErrorKind::Unsupported, sentence)
        }
        _ => err,
    })
}

/// Replaces the program of a link; packets see either the old one or the new one.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link: link.as_raw_fd(),
        program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    call(Command::LinkUpdate, &mut attr).map(drop)
}

/// Attaches a program to a map, instead of the one that may be there.
pub(crate) fn attach_to_map(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<()> {
    let mut attr = ProgramAttach {
        target: map.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: attach_type as u32,
        flags: 0,
    };
    call(Command::ProgramAttach, &mut attr).map(drop)
}

/// Takes the program of that kind off a map. Fails with `NotFound` when there is none.
pub(crate) fn detach_from_map(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<()> {
    let mut attr = ProgramAttach {
        target: map.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: attach_type as u32,
        flags: 0,
    };
    call(Command::ProgramDetach, &mut attr).map(drop)
}

/// Pins an object.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        object: object.as_raw_fd(),
        flags: 0,
    };
    call(Command::ObjectPin, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        object: 0,
        flags: 0,
    };
    new_fd(Command::ObjectGet, &mut attr)
}

/// What a link is attached to.
pub(crate) fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    let mut info = LinkInfo::default();
    let mut attr = InfoByFd {
        object: link.as_raw_fd(),
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    call(Command::ObjectInfo, &mut attr)?;
    Ok(match info.kind {
        LINK_CGROUP => {
            LinkTarget::Cgroup(u64::from(info.words[0]) | u64::from(info.words[1]) << 32)
        }
        LINK_NETNS => LinkTarget::Netns(info.words[0]),
        LINK_TCX => LinkTarget::Interface(info.words[0], info.words[1]),
        _ => LinkTarget::Other,
    })
}

/// Numbers of `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Command {
    ObjectPin = 6,
    ObjectGet = 7,
    ProgramAttach = 8,
    ProgramDetach = 9,
    ProgramTestRun = 10,
    ObjectInfo = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
}

/// The argument blocks of `union bpf_attr`. Each is plain numbers without padding.
///
/// # Safety
/// Whoever implements it promises that the struct has the layout of its command's block, and that every pointer or
/// descriptor in it is good for the length of the call.
unsafe trait Attr {}

#[repr(C)]
struct LinkCreate {
    program: RawFd,
    target: RawFd,
    attach_type: u32,
    flags: u32,
}
// SAFETY: the layout is that of `link_create`; the descriptors are borrowed for the call.
unsafe impl Attr for LinkCreate {}

#[repr(C)]
struct LinkUpdate {
    link: RawFd,
    program: RawFd,
    flags: u32,
    old_program: u32,
}
// SAFETY: the layout is that of `link_update`; the descriptors are borrowed for the call.
unsafe impl Attr for LinkUpdate {}

#[repr(C)]
struct ProgramAttach {
    target: RawFd,
    program: RawFd,
    attach_type: u32,
    flags: u32,
}
// SAFETY: the layout is that of the block of `BPF_PROG_ATTACH`; the descriptors are borrowed for the call.
unsafe impl Attr for ProgramAttach {}

#[repr(C)]
struct TestRun {
    program: RawFd,
    answer: u32,
    input_len: u32,
    output_len: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
}
// SAFETY: the layout is that of `test`; the input is a slice that is borrowed for the call, and there is no output.
unsafe impl Attr for TestRun {}

#[repr(C)]
struct Object {
    path: u64,
    object: RawFd,
    flags: u32,
}
// SAFETY: the layout is that of the block of `BPF_OBJ_*`; the path is a C string that its maker keeps until after the call.
unsafe impl Attr for Object {}

#[repr(C)]
struct InfoByFd {
    object: RawFd,
    info_len: u32,
    info: u64,
}
// SAFETY: the layout is that of `info`; it points to a `LinkInfo` of the stated length that outlives the call.
unsafe impl Attr for InfoByFd {}

/// The beginning of `struct bpf_link_info`.
#[derive(Default)]
#[repr(C, align(8))]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    words: [u32; 8],
}

const LINK_CGROUP: u32 = 3;
const LINK_NETNS: u32 = 5;
const LINK_TCX: u32 = 11;

fn new_fd<A: Attr>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<A: Attr>(command: Command, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live block of the stated size; what it points to is good by the promise of `Attr`.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
