//! What policy says of a call, before it leaves the pod: it may go on, must take the way through the proxy, or may not be.
//!
//! Both ends are judged where both are known: the acceptor's rules only when it is a pod of this node, since elsewhere its own node
//! judges by what the peer can prove.

use tulle_abi::{
    Address, BEGUN_BY_FAR, BEGUN_BY_POD, BEGUN_BY_PROXY, BEGUN_TRUSTED, DIRECTION_EGRESS,
    DIRECTION_INGRESS, ENFORCEMENT_OFF, Endpoint, FlowKey, IDENTITY_NONE, PATH_PROXY,
    POD_EGRESS_ENFORCED, POD_EGRESS_PROXIED, POD_INGRESS_ENFORCED, POD_INGRESS_PROXIED,
    PROTOCOL_TCP, PodValue, Program, Reason, SEEN_AT_CALL, VERDICT_DENY, VERDICT_PROXY,
    VerdictEvent,
};

use crate::{
    maps::{FLOWS, OWNERS, PODS},
    settings,
    sock_addr::Client,
    verdict::{Question, Verdict, identity_of, look_up, tell},
};

/// What policy asks for.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// The path that is there anyway.
    Free,
    /// Through the proxy, which judges.
    Proxy,
    /// None.
    Denied(Reason),
}

/// A call to be judged.
pub(crate) struct Call<'a> {
    pub(crate) program: Program,
    pub(crate) client: &'a Client,
    pub(crate) protocol: u8,
    /// To where it would lead.
    pub(crate) backend: Endpoint,
    /// One of the `PATH_` constants.
    pub(crate) path: u32,
    /// The socket's own port, if it has one already.
    pub(crate) local_port: u16,
}

/// Whether policy is enforced on this node.
#[inline(always)]
pub(crate) fn is_enforced() -> bool {
    settings::enforcement() != ENFORCEMENT_OFF
}

/// Whether nobody but the proxy has business at this port of a pod.
#[inline(always)]
pub(crate) fn is_proxys(port: u16) -> bool {
    port == settings::outbound_port()
        || port == settings::inbound_port()
        || port == settings::tunnel_port()
        || port == settings::dns_port()
        || port == settings::black_hole_port()
}

/// Judges a call that leads to somebody else than the pod itself.
#[inline(always)]
pub(crate) fn judge(call: &Call<'_>) -> Way {
    if is_answer(call) {
        return Way::Free;
    }
    let begins = match judge_egress(call) {
        Way::Denied(reason) => return Way::Denied(reason),
        way => way,
    };
    let is_tcp = call.protocol == PROTOCOL_TCP;
    if is_tcp && call.path == PATH_PROXY {
        return begins;
    }
    let Some(acceptor) = owner(&call.backend.address) else {
        return begins;
    };
    if is_asked_for(call) {
        return begins;
    }
    if is_proxys(call.backend.port) {
        return Way::Denied(Reason::ProxyPort);
    }
    match judge_ingress(call, acceptor) {
        Way::Free => begins,
        way => way,
    }
}

/// Whether a datagram answers somebody who was allowed to ask. The gate, which knows, sees it once more.
#[inline(always)]
fn is_answer(call: &Call<'_>) -> bool {
    if call.protocol == PROTOCOL_TCP
        || call.local_port == 0
        || call.client.pod.flags & POD_EGRESS_ENFORCED == 0
    {
        return false;
    }
    let own = call.client.address_like(&call.backend.address);
    let key = FlowKey {
        pod: Endpoint::new(own, call.local_port),
        far: call.backend,
        protocol: u32::from(call.protocol),
    };
    match unsafe { FLOWS.get(key) } {
        Some(flow) => flow.begun == BEGUN_BY_FAR || flow.begun == BEGUN_TRUSTED,
        None => false,
    }
}

/// Whether a datagram is what another pod of this node asked for: its own rules were asked when it did. Its gate, which knows, sees the
/// answer once more.
#[inline(always)]
fn is_asked_for(call: &Call<'_>) -> bool {
    if call.protocol == PROTOCOL_TCP || call.local_port == 0 {
        return false;
    }
    let own = call.client.address_like(&call.backend.address);
    let key = FlowKey {
        pod: call.backend,
        far: Endpoint::new(own, call.local_port),
        protocol: u32::from(call.protocol),
    };
    match unsafe { FLOWS.get(key) } {
        Some(flow) => flow.begun == BEGUN_BY_POD || flow.begun == BEGUN_BY_PROXY,
        None => false,
    }
}

/// Judges by the rules of the pod that calls.
#[inline(always)]
pub(crate) fn judge_egress(call: &Call<'_>) -> Way {
    let pod = call.client.pod;
    let is_tcp = call.protocol == PROTOCOL_TCP;
    let (identity, flags) = (pod.identity, pod.flags);
    if identity == IDENTITY_NONE {
        return pending(is_tcp);
    }
    let proxied = is_tcp && flags & POD_EGRESS_PROXIED != 0;
    if flags & POD_EGRESS_ENFORCED == 0 {
        return if proxied { Way::Proxy } else { Way::Free };
    }
    let question = Question {
        subject: identity,
        direction: DIRECTION_EGRESS,
        peer: identity_of(&call.backend.address),
        protocol: call.protocol,
        port: call.backend.port,
    };
    let verdict = look_up(&question);
    if verdict.is_worth_telling() || is_proxy_only(&verdict, is_tcp) {
        tell_of(call, &question, &verdict);
    }
    way(&verdict, proxied, is_tcp, Reason::EgressDenied)
}

/// Judges by the rules of the pod that would accept. Who calls is who has its address: what rules of its own a pod is under says less,
/// since to others also the blocks and services count that it is in.
#[inline(always)]
fn judge_ingress(call: &Call<'_>, acceptor: &PodValue) -> Way {
    let is_tcp = call.protocol == PROTOCOL_TCP;
    let (identity, flags) = (acceptor.identity, acceptor.flags);
    if identity == IDENTITY_NONE {
        return pending(is_tcp);
    }
    let proxied = is_tcp && flags & POD_INGRESS_PROXIED != 0;
    if flags & POD_INGRESS_ENFORCED == 0 {
        return if proxied { Way::Proxy } else { Way::Free };
    }
    let question = Question {
        subject: identity,
        direction: DIRECTION_INGRESS,
        peer: identity_of(&call.client.address_like(&call.backend.address)),
        protocol: call.protocol,
        port: call.backend.port,
    };
    let verdict = look_up(&question);
    if verdict.is_worth_telling() || is_proxy_only(&verdict, is_tcp) {
        tell_of(call, &question, &verdict);
    }
    way(&verdict, proxied, is_tcp, Reason::IngressDenied)
}

/// The proxy waits for the rules of a pod whose rules are not there yet; a datagram cannot wait.
#[inline(always)]
fn pending(is_tcp: bool) -> Way {
    if is_tcp {
        Way::Proxy
    } else {
        Way::Denied(Reason::Pending)
    }
}

/// The proxy carries no datagrams, so what only it can judge may not be by UDP.
#[inline(always)]
fn way(verdict: &Verdict, proxied: bool, is_tcp: bool, denied: Reason) -> Way {
    match verdict.verdict {
        VERDICT_DENY => Way::Denied(denied),
        VERDICT_PROXY if is_tcp => Way::Proxy,
        VERDICT_PROXY => Way::Denied(Reason::ProxyOnly),
        _ if proxied => Way::Proxy,
        _ => Way::Free,
    }
}

/// Whether it is denied since the proxy, which would have to judge it, does not carry it.
#[inline(always)]
fn is_proxy_only(verdict: &Verdict, is_tcp: bool) -> bool {
    !is_tcp && verdict.verdict == VERDICT_PROXY
}

/// The captured pod that has an address.
#[inline(always)]
fn owner(address: &Address) -> Option<&'static PodValue> {
    let netns = unsafe { OWNERS.get(address) }?;
    unsafe { PODS.get(netns) }
}

#[inline(always)]
fn tell_of(call: &Call<'_>, question: &Question, verdict: &Verdict) {
    tell(
        call.program,
        VerdictEvent {
            time: 0,
            subject: question.subject,
            peer: question.peer,
            source: Endpoint::new(call.client.address_like(&call.backend.address), 0),
            destination: call.backend,
            rule: verdict.rule,
            direction: question.direction as u8,
            protocol: question.protocol,
            verdict: if is_proxy_only(verdict, question.protocol == PROTOCOL_TCP) {
                VERDICT_DENY
            } else {
                verdict.verdict
            },
            seen: SEEN_AT_CALL,
        },
    );
}
