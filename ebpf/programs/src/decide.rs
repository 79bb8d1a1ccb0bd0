//! Where a connection or datagram of a captured pod goes.

use tulle_abi::{
    Endpoint, IDENTITY_NONE, LOOPBACK_V4, LOOPBACK_V6, NOTE_DIRECT, NOTE_DNS, NOTE_PROXIED,
    NOTE_PROXIED_OUTSIDE, NOTE_TRANSLATED, PATH_DIRECT, PATH_PLAIN, PATH_PROXY, PROTOCOL_TCP,
    Program, Reason, ServiceKey, ServiceValue,
};

use crate::{
    choice::pick_backend,
    judge::{Call, Way, is_enforced, judge, judge_egress},
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
    /// Policy says no.
    Deny(Reason),
    /// Send it to `to`, having noted `kind` and `backend`.
    Send {
        to: Endpoint,
        backend: Endpoint,
        kind: u32,
        reason: Reason,
    },
}

/// Decides about a connection (TCP, or UDP's `connect`) to somewhere outside of the pod's loopback.
#[inline(always)]
pub(crate) fn decide(
    program: Program,
    client: &Client,
    family: Family,
    protocol: u8,
    wanted: &Endpoint,
    local_port: u16,
) -> Decision {
    let service = find_service(wanted, protocol);
    if let Some(to) = name_server(wanted) {
        return match judge_name_server(program, client, protocol, wanted, service) {
            Way::Denied(reason) => Decision::Deny(reason),
            _ => Decision::Send {
                to,
                backend: to,
                kind: NOTE_DNS,
                reason: Reason::Dns,
            },
        };
    }
    let (backend, path, is_service) = match service {
        Some(service) => match pick_backend(client, service) {
            Ok(backend) => (backend.endpoint, backend.path, true),
            Err(reason) => return Decision::Refuse(reason),
        },
        None => (*wanted, path_to(wanted, protocol), false),
    };
    let is_own = client.owns(&backend.address);
    if is_own && !is_service {
        return Decision::Leave;
    }
    let mut way = Way::Free;
    if is_enforced() && !is_own {
        way = judge(&Call {
            program,
            client,
            protocol,
            backend,
            path,
            local_port,
        });
    }
    let must_be_proxied = match way {
        Way::Denied(reason) => return Decision::Deny(reason),
        Way::Proxy => true,
        Way::Free => path == PATH_PROXY,
    };
    if protocol == PROTOCOL_TCP && must_be_proxied && !is_own {
        return Decision::Send {
            to: loopback_of(wanted, settings::outbound_port()),
            backend,
            kind: if path == PATH_PLAIN {
                NOTE_PROXIED_OUTSIDE
            } else {
                NOTE_PROXIED
            },
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

/// The path to an address that is no service's.
#[inline(always)]
fn path_to(wanted: &Endpoint, protocol: u8) -> u32 {
    if protocol != PROTOCOL_TCP {
        return PATH_PLAIN;
    }
    match unsafe { WORKLOADS.get(&wanted.address) } {
        Some(path) => *path,
        None => PATH_PLAIN,
    }
}

/// Whether a pod may ask a name server. What it may ask the proxy's own name server decides, which answers in the other one's place.
///
/// All backends of a service count as one: the first stands for them.
#[inline(always)]
pub(crate) fn judge_name_server(
    program: Program,
    client: &Client,
    protocol: u8,
    wanted: &Endpoint,
    service: Option<&'static ServiceValue>,
) -> Way {
    if !is_enforced() || client.pod.identity == IDENTITY_NONE {
        return Way::Free;
    }
    let backend = match service {
        Some(service) if service.count != 0 => service.first[0].endpoint,
        Some(_) => return Way::Free,
        None => *wanted,
    };
    if client.owns(&backend.address) {
        return Way::Free;
    }
    match judge_egress(&Call {
        program,
        client,
        protocol,
        backend,
        path: PATH_PROXY,
        local_port: 0,
    }) {
        Way::Denied(reason) if reason as u32 != Reason::ProxyOnly as u32 => Way::Denied(reason),
        _ => Way::Free,
    }
}

/// Where nothing is answered.
#[inline(always)]
pub(crate) fn black_hole(wanted: &Endpoint) -> Endpoint {
    loopback_of(wanted, settings::black_hole_port())
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
