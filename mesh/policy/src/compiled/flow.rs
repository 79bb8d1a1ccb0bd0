//! What is asked of the compiled form, and what it answers.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tulle_model::{Language, RulesKey, SpiffeId, Workload, WorkloadUid};

use super::{Direction, RuleRef};
use crate::{evaluate::DenyReason, l7::HeaderEdit};

/// A connection, or a datagram, as one of its ends sees it.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// From the subject or to it.
    pub direction: Direction,
    /// The captured pod whose rules are asked.
    pub subject: &'a WorkloadUid,
    /// Who is at the far end.
    pub peer: FlowPeer<'a>,
    /// What the far end proved by mTLS, or has to prove since the tunnel to it accepts nobody else; `None` = plain text.
    pub proven: Option<&'a SpiffeId>,
    /// The address that it comes from.
    pub source: IpAddr,
    /// The address and port at which the destination itself listens, not those of a service.
    pub destination: SocketAddr,
    /// The number of the protocol in an IP header; for ICMP the destination's port is the type.
    pub protocol: u8,
    /// The name in the TLS hello of the application's own TLS.
    pub server_name: ServerName<'a>,
}

/// Who is at the far end of a flow.
#[derive(Debug, Clone, Copy)]
pub enum FlowPeer<'a> {
    /// This workload, or this node: chosen by us, or proven to us.
    Workload(&'a Workload),
    /// Whoever has the far end's address. For a connection to the subject that is the block of the address, never a workload; for
    /// one from it, also a learned name or an endpoint of a service.
    Address,
    /// Somebody whose proof and address do not agree: only rules for everyone speak of it.
    Nobody,
}

/// What is known of the name in a TLS hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerName<'a> {
    /// Nobody has looked yet.
    NotSeen,
    /// There is no TLS, or no name in it.
    Absent,
    /// This name.
    Name(&'a str),
}

/// What is known of one request.
#[derive(Debug, Clone, Copy)]
pub enum RequestFacts<'a> {
    /// An HTTP request, as the server will see it.
    Http(HttpFacts<'a>),
    /// A DNS question: the name with its final dot.
    Dns(&'a str),
    /// There are no requests: it was looked at, and it is neither.
    NotHttp,
}

/// An HTTP request, as the server will see it.
#[derive(Debug, Clone, Copy)]
pub struct HttpFacts<'a> {
    /// The method.
    pub method: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// The host as the client wrote it, with the port if it wrote one.
    pub authority: &'a str,
    /// Names in lower case; a name may come several times.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Whether a flow may pass, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// What may happen.
    pub outcome: Outcome,
    /// Why.
    pub because: Because,
    /// Rules of audited policies that would deny it.
    pub audited: Vec<RuleRef>,
    /// What audited policies say depends on requests: whoever sees them should ask again, whatever the outcome says.
    pub audits_requests: bool,
    /// What has to be done to the request's headers before it passes.
    pub edits: Vec<HeaderEdit>,
}

impl Verdict {
    /// Whether it may pass as it is.
    pub fn is_allowed(&self) -> bool {
        self.outcome == Outcome::Allow
    }
}

/// What may happen with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// It depends on more than was told; ask again with that.
    NeedsL7(Needs),
}

/// What has to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The name in the TLS hello.
    pub server_name: bool,
    /// Each HTTP request.
    pub http: bool,
    /// Each DNS question.
    pub dns: bool,
}

/// Why a verdict is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// This rule allows or denies it, or wants to see the requests.
    Rule(RuleRef),
    /// A language denies what none of its rules allows.
    DefaultDeny {
        /// Which connections of the subject.
        direction: Direction,
        /// Which language.
        language: Language,
        /// The objects of the language that make it so.
        by: Vec<RulesKey>,
    },
    /// Rules allow some requests, server names or proofs, but not this one.
    NotAmong(Vec<RuleRef>),
    /// No policy speaks of it.
    NoPolicy,
    /// It comes from the pod's own node, which must be able to probe it.
    Host,
    /// It is the pod's own address.
    Own,
    /// A policy of Istio.
    Authorization(DenyReason),
    /// The pod's rules are not compiled yet.
    NotCompiled,
    /// A bound of the compiled form is reached.
    LimitReached,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.outcome {
            Outcome::Allow => "allowed: ",
            Outcome::Deny => "denied: ",
            Outcome::NeedsL7(_) => "depends on what is asked: ",
        })?;
        write!(f, "{}", self.because)?;
        if let Some(first) = self.audited.first() {
            write!(f, "; {first}, which only audits, would deny it")?;
        }
        Ok(())
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Because::Rule(rule) => write!(f, "{rule}"),
            Because::DefaultDeny { by, direction, .. } => {
                f.write_str("no rule of ")?;
                write_some(f, by)?;
                write!(f, " allows it at {}", direction.name())
            }
            Because::NotAmong(rules) => {
                f.write_str("it is not among what ")?;
                write_some(f, rules)?;
                f.write_str(" allows")
            }
            Because::NoPolicy => f.write_str("no policy speaks of it"),
            Because::Host => f.write_str("a node may always reach its own pods"),
            Because::Own => f.write_str("a pod may always reach itself"),
            Because::Authorization(reason) => write!(f, "{reason}"),
            Because::NotCompiled => f.write_str("the rules for this pod are not compiled yet"),
            Because::LimitReached => {
                f.write_str("the rules for it exceed a bound of the node (see its log)")
            }
        }
    }
}

/// The first few of them, and how many more there are.
fn write_some<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().take(NAMED_MAX).enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    match items.len().saturating_sub(NAMED_MAX) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

/// How many policies a sentence names.
const NAMED_MAX: usize = 4;
