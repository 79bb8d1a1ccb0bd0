//! Where a connection or datagram of a captured pod goes.

use tulle_abi::{
    Endpoint, LOOPBACK_V4, LOOPBACK_V6, NOTE_DIRECT, NOTE_DNS, NOTE_PROXIED, NOTE_TRANSLATED,
    PATH_DIRECT, PATH_PROXY, PROTOCOL_TCP, Reason, ServiceKey, ServiceValue,
};

use crate::{
    choice::pick_backend,
    maps::{SERVICES, WORKLOADS},
    settings,
    sock_addr::{Client, Family},
};

/// The port of name servers.
pub(crate) const DNS_PORT: u16 = 53;

/// What becomes of a connection.
pub(crate) enum Decision {
    /// Nothing of ours.
    Leave,
    /// Fail the call.
    Refuse(Reason),
    /// Send it to `to`, having noted `kind` and `backend`.
    Send {
        to: Endpoint,
        backend: Endpoint,
        kind: u32,
        reason: Reason,
    },
}

/// Decides about a connection (TCP, or UDP's `connect`).
#[inline(always)]
pub(crate) fn decide(client: &Client, family: Family, protocol: u8, wanted: &Endpoint) -> Decision {
    if let Some(to) = name_server(wanted) {
        return Decision::Send {
            to,
            backend: to,
            kind: NOTE_DNS,
            reason: Reason::Dns,
        };
    }
    let (backend, path, is_service) = match find_service(wanted, protocol) {
        Some(service) => match pick_backend(client, service) {
            Ok(backend) => (backend.endpoint, backend.path, true),
            Err(reason) => return Decision::Refuse(reason),
        },
        None if protocol != PROTOCOL_TCP => return Decision::Leave,
        None => match unsafe { WORKLOADS.get(&wanted.address) } {
            Some(path) => (*wanted, *path, false),
            None => return Decision::Leave,
        },
    };
    let is_own = client.owns(&backend.address);
    if is_own && !is_service {
        return Decision::Leave;
    }
    if protocol == PROTOCOL_TCP && path == PATH_PROXY && !is_own {
        return Decision::Send {
            to: loopback_of(wanted, settings::outbound_port()),
            backend,
            kind: NOTE_PROXIED,
            reason: Reason::Proxied,
        };
    }
    if family == Family::V4 && !backend.address.is_v4() {
        return Decision::Refuse(Reason::FamilyMismatch);
    }
    let direct = protocol == PROTOCOL_TCP && path == PATH_DIRECT && !is_own;
    if !direct && !is_service {
        return Decision::Leave;
    }
    Decision::Send {
        to: backend,
        backend,
        kind: if direct { NOTE_DIRECT } else { NOTE_TRANSLATED },
        reason: if direct {
            Reason::Direct
        } else {
            Reason::Translated
        },
    }
}

/// The proxy's name server, if `wanted` is a name server and those are captured.
#[inline(always)]
pub(crate) fn name_server(wanted: &Endpoint) -> Option<Endpoint> {
    if settings::dns_capture() == 0 || wanted.port != DNS_PORT {
        return None;
    }
    Some(loopback_of(wanted, settings::dns_port()))
}

/// The service at an address.
#[inline(always)]
pub(crate) fn find_service(wanted: &Endpoint, protocol: u8) -> Option<&'static ServiceValue> {
    unsafe {
        SERVICES.get(ServiceKey {
            address: wanted.address,
            port: wanted.port,
            protocol,
            reserved: 0,
        })
    }
}

/// The loopback address of the family that a packet to `wanted` would have.
#[inline(always)]
fn loopback_of(wanted: &Endpoint, port: u16) -> Endpoint {
    let address = if wanted.address.is_v4() {
        LOOPBACK_V4
    } else {
        LOOPBACK_V6
    };
    Endpoint::new(address, port)
}
