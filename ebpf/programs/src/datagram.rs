//! `cgroup/sendmsg4/6`, `cgroup/recvmsg4/6`: load-balances unconnected UDP, and shows the service as the source of the answer.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use tulle_abi::{
    ENFORCEMENT_REJECT, Endpoint, PATH_PLAIN, PROTOCOL_UDP, Program, Reason, ServiceValue,
    UdpFlowKey, UdpFlowValue,
};

use crate::{
    choice::{path_of_member, pick_backend},
    count::exit,
    decide::{black_hole, find_service, judge_name_server, name_server},
    judge::{Call, Way, is_enforced, is_proxys, judge},
    maps::{NOTES, UDP_FORWARD, UDP_REVERSE},
    settings,
    sock_addr::{
        Client, Family, GO_ON, captured_client, endpoint, fail_with, local_port, set_endpoint,
        socket, socket_cookie,
    },
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&ctx, Program::Sendmsg4, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&ctx, Program::Sendmsg6, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    receive(&ctx, Program::Recvmsg4, Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    receive(&ctx, Program::Recvmsg6, Family::V6)
}

#[inline(always)]
fn send(ctx: &SockAddrContext, program: Program, family: Family) -> i32 {
    let wanted = endpoint(ctx, family);
    let is_inside = wanted.address.is_loopback();
    if is_inside && !is_enforced() {
        return exit(program, Reason::Passed, GO_ON);
    }
    let Some(client) = captured_client(ctx) else {
        return exit(program, Reason::Passed, GO_ON);
    };
    if is_enforced() && is_proxys(wanted.port) {
        return deny(ctx, (program, family), &wanted, Reason::ProxyPort);
    }
    if is_inside {
        return exit(program, Reason::Passed, GO_ON);
    }
    let service = find_service(&wanted, PROTOCOL_UDP);
    let socket = socket_cookie(ctx);
    if let Some(to) = name_server(&wanted) {
        let way = judge_name_server(program, &client, PROTOCOL_UDP, &wanted, service);
        if let Way::Denied(reason) = way {
            return deny(ctx, (program, family), &wanted, reason);
        }
        remember_reverse(socket, &to, &wanted);
        set_endpoint(ctx, family, &to);
        return exit(program, Reason::Dns, GO_ON);
    }
    let backend = match service {
        Some(service) => match choose(&client, socket, &wanted, service) {
            Ok(backend) => backend,
            Err(reason) => return exit(program, reason, fail_with(EHOSTUNREACH)),
        },
        None => wanted,
    };
    if is_enforced() && !client.owns(&backend.address) {
        let way = judge(&Call {
            program,
            client: &client,
            protocol: PROTOCOL_UDP,
            backend,
            path: PATH_PLAIN,
            local_port: local_port(ctx),
        });
        if let Way::Denied(reason) = way {
            return deny(ctx, (program, family), &wanted, reason);
        }
    }
    if service.is_none() {
        return exit(program, Reason::Passed, GO_ON);
    }
    // The kernel refuses to turn an IPv6 datagram into an IPv4 one, and cannot turn an IPv4 one into IPv6.
    if backend.address.is_v4() != wanted.address.is_v4() {
        return exit(program, Reason::FamilyMismatch, fail_with(EHOSTUNREACH));
    }
    remember_reverse(socket, &backend, &wanted);
    set_endpoint(ctx, family, &backend);
    exit(program, Reason::Translated, GO_ON)
}

/// The datagram goes where nothing is answered, or the call fails.
#[inline(always)]
fn deny(
    ctx: &SockAddrContext,
    (program, family): (Program, Family),
    wanted: &Endpoint,
    reason: Reason,
) -> i32 {
    if settings::enforcement() == ENFORCEMENT_REJECT {
        return exit(program, reason, fail_with(EPERM));
    }
    set_endpoint(ctx, family, &black_hole(wanted));
    exit(program, reason, GO_ON)
}

#[inline(always)]
fn receive(ctx: &SockAddrContext, program: Program, family: Family) -> i32 {
    let source = endpoint(ctx, family);
    if let Some(note) = NOTES.of(socket(ctx))
        && note.backend == source
    {
        set_endpoint(ctx, family, &note.shown);
        return exit(program, Reason::Shown, GO_ON);
    }
    let key = UdpFlowKey {
        socket: socket_cookie(ctx),
        far: source,
        reserved: 0,
    };
    match unsafe { UDP_REVERSE.get(key) } {
        Some(flow) => {
            let shown = flow.endpoint;
            set_endpoint(ctx, family, &shown);
            exit(program, Reason::Shown, GO_ON)
        }
        None => exit(program, Reason::Passed, GO_ON),
    }
}

/// The backend of this socket's conversation with the service: the same as before while it still serves.
#[inline(always)]
fn choose(
    client: &Client,
    socket: u64,
    wanted: &Endpoint,
    service: &ServiceValue,
) -> Result<Endpoint, Reason> {
    // What the pod keeps holds for all its sockets, and each datagram renews it.
    if service.affinity_seconds != 0 {
        return pick_backend(client, service).map(|backend| backend.endpoint);
    }
    let id = service.id;
    let key = UdpFlowKey {
        socket,
        far: *wanted,
        reserved: 0,
    };
    if let Some(flow) = unsafe { UDP_FORWARD.get(key) } {
        let endpoint = flow.endpoint;
        if flow.service == id && path_of_member(id, &endpoint).is_some() {
            return Ok(endpoint);
        }
    }
    let backend = pick_backend(client, service)?.endpoint;
    let flow = UdpFlowValue {
        endpoint: backend,
        service: id,
    };
    // Without memory for it the conversation is merely less stable.
    let _ = UDP_FORWARD.insert(key, flow, 0);
    Ok(backend)
}

/// Remembers what the application called the far end, so that the answer comes from there.
#[inline(always)]
fn remember_reverse(socket: u64, far: &Endpoint, wanted: &Endpoint) {
    let key = UdpFlowKey {
        socket,
        far: *far,
        reserved: 0,
    };
    if let Some(flow) = unsafe { UDP_REVERSE.get(key) }
        && flow.endpoint == *wanted
    {
        return;
    }
    let flow = UdpFlowValue {
        endpoint: *wanted,
        service: 0,
    };
    let _ = UDP_REVERSE.insert(key, flow, 0);
}

/// No route to host: what a client sees when nobody serves the service.
const EHOSTUNREACH: i32 = 113;
/// Not permitted: what a sender sees when policy denies and is to be seen to.
const EPERM: i32 = 1;
