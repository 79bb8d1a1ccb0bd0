//! Hangs programs on cgroups, maps and namespaces so that they outlive this process.
//!
//! **Invariant:** where a pinned link exists and still leads to the wanted target, its program is exchanged in place: at no
//! moment is the hook without a program. Held by the test `a_restart_opens_no_gap`.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{
    OpenDatapathError,
    cgroup::Cgroup,
    load::{Hook, Sockets},
    pins::{Pins, remove_file},
    raw::Raw,
    sys::{self, AttachType, LinkTarget},
};

/// Attaches a hook to a cgroup, or exchanges the program of the link that is pinned for it.
pub(crate) fn attach_cgroup(
    pins: &Pins,
    pin_name: &str,
    hook: &Hook,
    cgroup: &Cgroup,
) -> Result<(), OpenDatapathError> {
    adopt_or_create(
        &pins.link(pin_name),
        hook.program.as_fd(),
        hook.attach_type,
        cgroup.fd.as_fd(),
        LinkTarget::Cgroup(cgroup.id),
    )
    .map_err(|source| OpenDatapathError::Attach {
        program: hook.name,
        target: cgroup.path.clone(),
        source,
    })
}

/// Attaches a hook to a network namespace, or exchanges the program of the link that is pinned for it.
pub(crate) fn attach_netns(pin: &Path, hook: &Hook, netns: BorrowedFd<'_>) -> io::Result<()> {
    let inode = rustix::fs::fstat(netns)?.st_ino;
    let target = LinkTarget::Netns(u32::try_from(inode).map_err(io::Error::other)?);
    adopt_or_create(pin, hook.program.as_fd(), hook.attach_type, netns, target)
}

/// Attaches a classifier to an interface of the calling thread's namespace, or exchanges the program of the link that is pinned for it.
pub(crate) fn adopt_or_create_at(
    pin: &Path,
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    interface: u32,
) -> io::Result<()> {
    let target = LinkTarget::Interface(interface, attach_type as u32);
    let old = match sys::open_pin(pin) {
        Ok(link) if sys::link_target(link.as_fd())? == target => {
            return sys::update_link(link.as_fd(), program);
        }
        Ok(link) => Some(link),
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => return Err(err),
    };
    let link = sys::create_interface_link(program, interface, attach_type)?;
    remove_file(pin)?;
    sys::pin(link.as_fd(), pin)?;
    drop(old);
    Ok(())
}

/// Hangs a guard on its function of the kernel. A link of this kind takes no other program, so the one of an earlier process stays
/// until the new one is there; both at once do no harm.
pub(crate) fn attach_guard(pins: &Pins, hook: &Hook) -> Result<(), OpenDatapathError> {
    let pin = pins.link(hook.name);
    let attach = || {
        let link = sys::create_tracing_link(hook.program.as_fd(), hook.attach_type)?;
        let old = sys::open_pin(&pin);
        remove_file(&pin)?;
        sys::pin(link.as_fd(), &pin)?;
        drop(old);
        Ok(())
    };
    attach().map_err(|source| OpenDatapathError::Attach {
        program: hook.name,
        target: PathBuf::from("the kernel's function"),
        source,
    })
}

/// Puts a program on a map of sockets, or takes whatever is on it off.
pub(crate) fn set_map_program<K>(
    map: &Sockets<K>,
    hook: Option<&Hook>,
    spare: &Hook,
) -> Result<(), OpenDatapathError>
where
    Raw<K>: aya::Pod,
{
    let fd = map.fd().as_fd();
    let program = hook.unwrap_or(spare);
    let attach = || {
        sys::attach_to_map(program.program.as_fd(), fd, AttachType::SkMsgVerdict)?;
        if hook.is_none() {
            // The kernel detaches only a program that the caller names, and an earlier process's program has no name here:
            // so it is first replaced by ours.
            sys::detach_from_map(program.program.as_fd(), fd, AttachType::SkMsgVerdict)?;
        }
        Ok(())
    };
    attach().map_err(|source| OpenDatapathError::Attach {
        program: program.name,
        target: PathBuf::from("the map of sockets"),
        source,
    })
}

fn adopt_or_create(
    pin: &Path,
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    target_fd: BorrowedFd<'_>,
    target: LinkTarget,
) -> io::Result<()> {
    match sys::open_pin(pin) {
        Ok(link) if sys::link_target(link.as_fd())? == target => {
            return sys::update_link(link.as_fd(), program);
        }
        // The cgroup or namespace was made anew, or is another one now.
        Ok(link) => return replace(pin, program, attach_type, target_fd, link),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err),
    }
    let link = sys::create_link(program, target_fd, attach_type)?;
    sys::pin(link.as_fd(), pin)
}

fn replace(
    pin: &Path,
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    target_fd: BorrowedFd<'_>,
    old: OwnedFd,
) -> io::Result<()> {
    let link = sys::create_link(program, target_fd, attach_type)?;
    remove_file(pin)?;
    sys::pin(link.as_fd(), pin)?;
    drop(old);
    Ok(())
}
