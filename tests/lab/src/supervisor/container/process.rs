//! The process of a container: waiting for its end.

use std::{
    process::{Child, ExitStatus},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags},
};

/// A container's first process.
pub(super) enum Process {
    /// Started by this supervisor.
    Started(Child),
    /// Started by an earlier one.
    Adopted(i32),
}

/// Waits for the end of a process; the exit code as a shell would show it.
pub(super) fn wait_for_end(process: Process) -> i32 {
    match process {
        Process::Started(mut child) => child.wait().map_or(UNKNOWN_EXIT_CODE, exit_code),
        Process::Adopted(number) => {
            let pidfd = Pid::from_raw(number)
                .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
            if let Some(pidfd) = pidfd {
                while let Err(rustix::io::Errno::INTR) =
                    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None)
                {
                }
            }
            // Only the parent may ask for the status, and the parent was the supervisor before this
            // one.
            UNKNOWN_EXIT_CODE
        }
    }
}

/// Waits for the end of a child, at most until `deadline`.
pub(crate) fn wait_for_child(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id()).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// An exit status as a shell shows it.
fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| SIGNAL_EXIT_CODE + status.signal().unwrap_or_default())
}

const SIGNAL_EXIT_CODE: i32 = 128;
/// How a process ended that somebody else's child was: as if killed.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 137;
