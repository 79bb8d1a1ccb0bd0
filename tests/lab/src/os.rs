//! The three kernel calls of the lab that Rust cannot prove safe. No decision is made here.

#![expect(
    unsafe_code,
    reason = "unshare() and code between fork() and exec() have no safe interface"
)]

use std::{io, os::fd::OwnedFd, os::unix::process::CommandExt, process::Command};

use rustix::{
    io::Errno,
    process::{Gid, Resource, Rlimit, Uid},
    thread::UnshareFlags,
};

/// Gives the calling thread its own root, working directory and umask, so that it may join another
/// mount namespace.
pub(crate) fn unshare_thread_filesystem() -> Result<(), Errno> {
    // SAFETY: only `FILES` can make descriptors of one thread invalid in another; it is not among
    // the flags.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
}

/// Moves the calling thread into a fresh copy of its mount namespace, and into a host name of its
/// own.
pub(crate) fn unshare_thread_mounts() -> Result<(), Errno> {
    let flags = UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWUTS;
    // SAFETY: only `FILES` can make descriptors of one thread invalid in another; it is not among
    // the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// What a child does to itself between `fork` and `exec`.
pub(crate) struct ChildSetup {
    /// The open `cgroup.procs` of the cgroup that the child joins.
    pub(crate) cgroup_procs: Option<OwnedFd>,
    /// A session of its own, so that no signal of the starter's terminal reaches it.
    pub(crate) new_session: bool,
    /// The user and group it becomes.
    pub(crate) user: Option<u32>,
}

/// Makes `command`'s child join a cgroup, leave the session and drop its user, before it becomes
/// the program.
pub(crate) fn prepare_child(command: &mut Command, setup: ChildSetup) {
    let hook = move || -> io::Result<()> {
        if let Some(procs) = &setup.cgroup_procs {
            rustix::io::write(procs, b"0")?;
        }
        // Servers of a lab hold thousands of connections; the usual soft limit is meant for
        // `select`.
        let files = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        };
        rustix::process::setrlimit(Resource::Nofile, raised)?;
        if setup.new_session {
            rustix::process::setsid()?;
        }
        if let Some(user) = setup.user {
            rustix::thread::set_thread_groups(&[])?;
            let gid = Gid::from_raw(user);
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            let uid = Uid::from_raw(user);
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed: the hook makes plain
    // system calls on descriptors and numbers it owns, takes no lock and allocates nothing
    // (`io::Error` from an `Errno` is a number). The child has one thread, so the calls that change
    // one thread's user change the whole process's.
    unsafe { command.pre_exec(hook) };
}
