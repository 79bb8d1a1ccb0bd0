//! Looks verdicts up in the policy tables, and tells of those that somebody will ask about. What the tables mean is not its business.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, maps::lpm_trie::Key};
use tulle_abi::{
    Address, BLOCK_KEY_BITS, BlockKey, IDENTITY_NONE, PORT_KEY_BITS, PORT_SET_ALLOW, PORT_SET_DENY,
    PolicyKey, PortKey, PortValue, Program, Reason, VERDICT_ALLOW, VERDICT_DENY,
    VERDICT_EVENTS_RATE_MAX, VerdictEvent,
};

use crate::{
    count::count,
    maps::{BLOCKS, EVENT_RATE, IDENTITIES, POLICY, PORTS, VERDICTS},
};

/// What the tables say of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Verdict {
    /// One of the `VERDICT_` constants.
    pub(crate) verdict: u8,
    /// The rule that said so, or that would have denied it.
    pub(crate) rule: u32,
    /// It is allowed only because the rule is under audit.
    pub(crate) is_audited: bool,
}

/// What is to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    /// Whose rules are asked.
    pub(crate) subject: u32,
    /// One of the `DIRECTION_` constants.
    pub(crate) direction: u32,
    /// Who is at the other end.
    pub(crate) peer: u32,
    /// The protocol's number.
    pub(crate) protocol: u8,
    /// The port to which the connection leads.
    pub(crate) port: u16,
}

/// Who is at an address, if the address can be believed.
#[inline(always)]
pub(crate) fn identity_of(address: &Address) -> u32 {
    let [a, b, c, d] = address.words;
    policy_identity(
        u64::from(a) | u64::from(b) << 32,
        u64::from(c) | u64::from(d) << 32,
    )
}

/// A function that the verifier looks at once, however many paths lead to it: so it takes and returns plain numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_identity(first: u64, second: u64) -> u32 {
    let address = Address {
        words: [
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ],
    };
    match unsafe { IDENTITIES.get(&address) } {
        Some(identity) => *identity,
        None => block_of(&address),
    }
}

/// Who is at an address, whoever he says he is.
#[inline(always)]
pub(crate) fn block_of(address: &Address) -> u32 {
    match BLOCKS.get(&Key::new(BLOCK_KEY_BITS, BlockKey::of(*address))) {
        Some(identity) => *identity,
        None => IDENTITY_NONE,
    }
}

/// What the tables say.
#[inline(always)]
pub(crate) fn look_up(question: &Question) -> Verdict {
    let what =
        question.direction << 24 | u32::from(question.protocol) << 16 | u32::from(question.port);
    let answer = policy_verdict(question.subject, question.peer, what);
    Verdict {
        verdict: (answer >> 32) as u8,
        rule: answer as u32,
        is_audited: answer >> 40 != 0,
    }
}

/// As [`policy_identity`], looked at once: the direction, the protocol and the port are in `what`; the answer is the rule, the verdict
/// above it, and above that whether the rule is one under audit.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_verdict(subject: u32, peer: u32, what: u32) -> u64 {
    let direction = what >> 24;
    let key = |peer| PolicyKey {
        subject,
        direction,
        peer,
    };
    let set = match unsafe { POLICY.get(key(peer)) } {
        Some(set) => *set,
        None => match unsafe { POLICY.get(key(IDENTITY_NONE)) } {
            Some(set) => *set,
            None => PORT_SET_DENY,
        },
    };
    match set {
        PORT_SET_ALLOW => u64::from(VERDICT_ALLOW) << 32,
        PORT_SET_DENY => u64::from(VERDICT_DENY) << 32,
        set => in_port_set(set, (what >> 16) as u8, what as u16),
    }
}

/// The entry with the longest prefix; one for the very protocol before one for any.
#[inline(always)]
fn in_port_set(set: u32, protocol: u8, port: u16) -> u64 {
    let entry = |protocol| {
        let key = PortKey {
            set,
            protocol,
            reserved: 0,
            port: port.to_be_bytes(),
        };
        PORTS.get(&Key::new(PORT_KEY_BITS, key))
    };
    let exact = entry(protocol);
    if let Some(exact) = exact
        && exact.prefix_len == PORT_BITS
    {
        return answer(exact);
    }
    match (exact, entry(ANY_PROTOCOL)) {
        (Some(exact), Some(any)) if any.prefix_len > exact.prefix_len => answer(any),
        (Some(exact), _) => answer(exact),
        (None, Some(any)) => answer(any),
        (None, None) => u64::from(VERDICT_DENY) << 32,
    }
}

#[inline(always)]
fn answer(entry: &PortValue) -> u64 {
    let verdict = u64::from(entry.verdict) << 32;
    if entry.verdict != VERDICT_DENY && entry.audit != 0 {
        return 1 << 40 | verdict | u64::from(entry.audit);
    }
    verdict | u64::from(entry.rule)
}

impl Verdict {
    #[inline(always)]
    pub(crate) fn plain(verdict: u8) -> Self {
        Verdict {
            verdict,
            rule: 0,
            is_audited: false,
        }
    }

    /// Whether somebody wants to be told of it.
    #[inline(always)]
    pub(crate) fn is_worth_telling(&self) -> bool {
        self.verdict == VERDICT_DENY || self.is_audited
    }
}

/// Tells of a verdict, unless this processor has told enough in this second.
#[inline(always)]
pub(crate) fn tell(program: Program, mut event: VerdictEvent) {
    event.time = unsafe { bpf_ktime_get_ns() };
    if !has_turn(event.time) {
        count(program, Reason::EventLimited);
        return;
    }
    let reason = match VERDICTS.output(event, 0) {
        Ok(()) => Reason::EventTold,
        Err(_) => Reason::EventDropped,
    };
    count(program, reason);
}

/// Whether the present second has room for one more event.
#[inline(always)]
fn has_turn(now: u64) -> bool {
    let Some(rate) = EVENT_RATE.get_ptr_mut(0) else {
        return false;
    };
    // The slot is this processor's own: a lost or added event is the worst that an interruption does.
    unsafe {
        if now.wrapping_sub((*rate).since) > NANOS_PER_SECOND {
            (*rate).since = now;
            (*rate).count = 0;
        }
        (*rate).count += 1;
        (*rate).count <= VERDICT_EVENTS_RATE_MAX
    }
}

/// The entry of a port set for protocols that have none of their own.
const ANY_PROTOCOL: u8 = 0;
/// Bits of a whole port.
const PORT_BITS: u8 = 16;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
