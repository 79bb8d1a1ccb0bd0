//! Ends the connections that pods have with addresses where nobody is any more.
//!
//! A connection to a host that vanished without a word would otherwise wait for TCP's retransmissions, a quarter of an hour. The
//! kernel is asked in each pod's namespace for its sockets, and to destroy those whose far end is one of the addresses. Who is
//! dead is the caller's business.

mod netlink;
mod recheck;

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::warn;

use self::netlink::{Destroyed, Diagnosis, KINDS, Kind, SocketSeen};
pub use self::recheck::EstablishedConnection;
pub(crate) use self::recheck::{Begun, PodSockets, recheck};
use crate::DestroyConnectionsError;

/// What a call to destroy connections did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DestroyReport {
    /// Sockets that were destroyed.
    pub destroyed: usize,
    /// Sockets, and namespaces, where that failed.
    pub failed: usize,
    /// The limit was reached: there may be more.
    pub is_limited: bool,
}

/// Destroys the sockets in these namespaces whose far end is one of the addresses.
///
/// A thread of its own enters the namespaces, and ends in the last one: nobody else ever runs there.
pub(crate) fn destroy(
    namespaces: &[OwnedFd],
    to: &HashSet<IpAddr>,
    limit: usize,
) -> Result<DestroyReport, DestroyConnectionsError> {
    if to.is_empty() || namespaces.is_empty() {
        return Ok(DestroyReport::default());
    }
    in_worker(|| {
        everywhere(namespaces, limit, |_index, report| {
            destroy_here(limit, report, |_kind, socket| to.contains(&socket.far.ip()))
        })
    })
}

fn in_worker(
    work: impl FnOnce() -> Result<DestroyReport, DestroyConnectionsError> + Send,
) -> Result<DestroyReport, DestroyConnectionsError> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("destroy-sockets".to_owned())
            .spawn_scoped(scope, work)
            .map_err(DestroyConnectionsError::List)?;
        worker.join().unwrap_or_else(|_panic| {
            let sentence = "the thread that destroys sockets panicked";
            Err(DestroyConnectionsError::List(io::Error::other(sentence)))
        })
    })
}

/// Does something in each namespace, until enough is destroyed.
fn everywhere<'a>(
    namespaces: impl IntoIterator<Item = &'a OwnedFd>,
    limit: usize,
    mut work: impl FnMut(usize, &mut DestroyReport) -> io::Result<()>,
) -> Result<DestroyReport, DestroyConnectionsError> {
    let mut report = DestroyReport::default();
    let mut failure = None;
    let mut asked = 0_usize;
    for (index, netns) in namespaces.into_iter().enumerate() {
        if report.destroyed >= limit {
            report.is_limited = true;
            break;
        }
        let entered = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
        let done = entered
            .map_err(io::Error::from)
            .and_then(|()| work(index, &mut report));
        match done {
            Ok(()) => asked += 1,
            Err(err) if is_unsupported(&err) => return Err(DestroyConnectionsError::Unsupported),
            Err(err) => {
                warn!(%err, "the sockets of a pod cannot be listed");
                report.failed += 1;
                failure = Some(err);
            }
        }
    }
    match failure {
        Some(err) if asked == 0 => Err(DestroyConnectionsError::List(err)),
        _ => Ok(report),
    }
}

/// In the namespace of the calling thread.
fn destroy_here(
    limit: usize,
    report: &mut DestroyReport,
    mut is_wanted: impl FnMut(Kind, &SocketSeen) -> bool,
) -> io::Result<()> {
    let mut diagnosis = Diagnosis::open()?;
    for kind in KINDS {
        let room = limit.saturating_sub(report.destroyed);
        let (found, is_cut) = diagnosis.list(kind, room, |socket| is_wanted(kind, socket))?;
        report.is_limited |= is_cut;
        for socket in &found {
            match diagnosis.destroy(kind, socket) {
                Ok(Destroyed::Done) => report.destroyed += 1,
                Ok(Destroyed::Gone) => {}
                Err(err) if is_unsupported(&err) => return Err(err),
                Err(_) => report.failed += 1,
            }
        }
    }
    Ok(())
}

fn is_unsupported(err: &io::Error) -> bool {
    err.raw_os_error() == Some(libc::EOPNOTSUPP)
}
