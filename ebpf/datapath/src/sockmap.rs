//! The sockmap: whether it can be had here, and which connections join it.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use tracing::{info, warn};
use tulle_abi::{Endpoint, JoinRequest, SOCKMAP_FULL, SOCKMAP_OFF, Settings, TupleKey};
use zerocopy::IntoBytes as _;

use crate::{
    JoinError, NetnsCookie, OpenDatapathError,
    attach::{attach_guard, set_map_program},
    load::{self, Guards, Maps, Programs},
    pins::Pins,
    sys,
};

/// A connection between an application of a pod and the node proxy, as the proxy's end names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalConnection {
    /// The cookie of the network namespace that it lies in.
    pub netns: NetnsCookie,
    /// The proxy's end.
    pub proxy: SocketAddr,
    /// The application's end.
    pub application: SocketAddr,
}

/// The kernel side, and what the sockmap came to.
pub(crate) struct Loaded {
    pub(crate) programs: Programs,
    pub(crate) maps: Maps,
    /// The program that lets connections join, in the mode that has one.
    pub(crate) join: Option<OwnedFd>,
    /// Whether the guards are in place.
    pub(crate) is_guarded: bool,
}

/// Loads the kernel side; without the sockmap where that is to be guarded and the kernel refuses the guards.
pub(crate) fn load(
    pins: &Pins,
    mut settings: Settings,
    must_be_guarded: bool,
) -> Result<Loaded, OpenDatapathError> {
    let (mut programs, maps) = load::load(pins, &settings)?;
    let Some(sockmap) = programs.sockmap.take() else {
        return Ok(Loaded {
            programs,
            maps,
            join: None,
            is_guarded: false,
        });
    };
    let guarded = sockmap.guards.and_then(|guards| set_guards(pins, &guards));
    let is_guarded = guarded.is_ok();
    if let Err(err) = guarded {
        let cause = &err as &dyn std::error::Error;
        if must_be_guarded {
            // For the kernel side the mode is a constant, so all is loaded anew.
            info!(
                cause,
                "the sockmap stays off: the kernel refuses its guards"
            );
            settings.sockmap = SOCKMAP_OFF;
            return load(pins, settings, false);
        }
        warn!(
            cause,
            "the sockmap is unguarded: a program that switches its socket to blocking may see EAGAIN"
        );
    }
    // The redirecting program hangs on the applications' sockets, and on the proxy's only where bytes may go the other way too.
    let redirect = &sockmap.redirect;
    let is_full = sockmap.mode == SOCKMAP_FULL;
    set_map_program(&maps.applications, Some(redirect), redirect)?;
    set_map_program(&maps.proxies, is_full.then_some(redirect), redirect)?;
    Ok(Loaded {
        programs,
        maps,
        join: (!is_full).then_some(sockmap.join),
        is_guarded,
    })
}

fn set_guards(pins: &Pins, guards: &Guards) -> Result<(), OpenDatapathError> {
    let armed = sys::run_program(guards.arm.as_fd(), &[0; PACKET_LEN_MIN]);
    if !armed.is_ok_and(|answer| answer == YES) {
        return Err(OpenDatapathError::Evictions);
    }
    guards
        .hooks
        .iter()
        .try_for_each(|guard| attach_guard(pins, guard))
}

/// Runs the program that lets a connection join.
pub(crate) fn join(
    program: BorrowedFd<'_>,
    connection: &LocalConnection,
) -> Result<bool, JoinError> {
    let (proxy, application): (Endpoint, Endpoint) =
        (connection.proxy.into(), connection.application.into());
    // As the kernel's programs name connections: those that never leave their namespace carry its cookie.
    let is_inside = proxy.address.is_loopback()
        || application.address.is_loopback()
        || proxy.address == application.address;
    let netns = if is_inside { connection.netns.0 } else { 0 };
    let key = |local, remote| TupleKey {
        netns,
        local,
        remote,
    };
    let request = JoinRequest {
        application: key(application, proxy),
        proxy: key(proxy, application),
    };
    let mut packet = [0; REQUEST_AT + size_of::<JoinRequest>()];
    let (_, place) = packet.split_at_mut(REQUEST_AT);
    place.copy_from_slice(request.as_bytes());
    let answer = sys::run_program(program, &packet).map_err(|source| JoinError {
        application: connection.application,
        proxy: connection.proxy,
        source,
    })?;
    Ok(answer == YES)
}

/// What the programs answer when they did it.
const YES: u32 = 1;
/// The kernel runs classifiers on nothing shorter than an Ethernet header.
const PACKET_LEN_MIN: usize = 16;
/// Where the request begins in the packet; the kernel takes what is before it for an Ethernet header.
const REQUEST_AT: usize = 16;
