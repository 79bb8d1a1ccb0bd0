//! Asks the compiled rules about one connection, and about everything that is asked over it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tulle_model::{Directory, SpiffeId, WorkloadUid};
use tulle_policy::compiled::{
    Because, CompiledPolicy, Direction, Flow, FlowPeer, RequestFacts, ServerName, Verdict,
};

use super::{
    PolicyMetrics,
    recent::{RecentVerdicts, SeenAt, Told},
};
use crate::published::Published;

/// What both ends of a decision share: the rules, and who they speak of.
#[derive(Debug, Clone)]
pub struct PolicyView {
    /// The compiled rules.
    pub compiled: Published<CompiledPolicy>,
    /// The mesh.
    pub directory: Published<Directory>,
    /// What is counted.
    pub metrics: Arc<PolicyMetrics>,
    /// What was denied last.
    pub recent: Arc<RecentVerdicts>,
}

/// One connection as policy sees it. Asking costs a few look-ups, so it is asked anew whenever something may have changed.
#[derive(Debug)]
pub(crate) struct Judge {
    view: PolicyView,
    direction: Direction,
    /// The captured pod at our end.
    subject: WorkloadUid,
    /// What the far end proved, or has to prove.
    proven: Option<SpiffeId>,
    source: IpAddr,
    destination: SocketAddr,
}

impl Judge {
    /// A connection to the pod. `proven` = what its peer proved; `None` = it came in plain text.
    pub(crate) fn inbound(
        view: PolicyView,
        subject: WorkloadUid,
        proven: Option<SpiffeId>,
        source: IpAddr,
        destination: SocketAddr,
    ) -> Self {
        Judge {
            view,
            direction: Direction::Ingress,
            subject,
            proven,
            source: source.to_canonical(),
            destination: canonical(destination),
        }
    }

    /// A connection from the pod. `proven` = what its endpoint will have to prove; `None` = it leaves in plain text.
    pub(crate) fn outbound(
        view: PolicyView,
        subject: WorkloadUid,
        proven: Option<SpiffeId>,
        source: IpAddr,
        destination: SocketAddr,
    ) -> Self {
        Judge {
            view,
            direction: Direction::Egress,
            subject,
            proven,
            source: source.to_canonical(),
            destination: canonical(destination),
        }
    }

    /// About the connection as a whole.
    pub(crate) fn connection(&self) -> Verdict {
        self.ask(&self.view.compiled.snapshot(), ServerName::NotSeen, None)
    }

    /// The same, once the pod's rules are compiled: a new pod's first connections come before them.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn settled_connection(&self) -> Verdict {
        let first = self.connection();
        if first.because != Because::NotCompiled {
            return self.counted(first);
        }
        let mut compiled = self.view.compiled.clone();
        let settled = compiled.wait_for(|compiled| {
            let verdict = self.ask(compiled, ServerName::NotSeen, None);
            verdict.because != Because::NotCompiled
        });
        // Whether it came in time or not: what is not compiled is denied.
        let _waited = tokio::time::timeout(COMPILE_PATIENCE, settled).await;
        self.counted(self.connection())
    }

    /// About the connection, now that the name in its TLS hello is known.
    pub(crate) fn server_name(&self, name: ServerName<'_>) -> Verdict {
        let verdict = self.ask(&self.view.compiled.snapshot(), name, None);
        self.counted(verdict)
    }

    /// About one request.
    pub(crate) fn request(&self, request: &RequestFacts<'_>) -> Verdict {
        let compiled = self.view.compiled.snapshot();
        let verdict = self.ask(&compiled, ServerName::Absent, Some(request));
        self.counted(verdict)
    }

    /// Ends when `is_over` says so; it is asked now and after every change of the compiled rules.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn wait_until(&self, mut is_over: impl FnMut() -> bool) {
        let mut compiled = self.view.compiled.clone();
        if compiled.wait_for(|_| is_over()).await.is_err() {
            // Nobody compiles any more: what may go on may do so until the end.
            std::future::pending().await
        }
    }

    fn ask(
        &self,
        compiled: &CompiledPolicy,
        server_name: ServerName<'_>,
        request: Option<&RequestFacts<'_>>,
    ) -> Verdict {
        let directory = self.view.directory.snapshot();
        let far = match self.direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination.ip(),
        };
        let workload = directory.workload_at(far);
        let peer = match (self.direction, &self.proven, workload) {
            // A proof counts for the workload that is at the very address; anybody else with the same account is not it.
            (_, Some(proven), Some(workload)) if workload.identity() == *proven => {
                FlowPeer::Workload(workload)
            }
            (Direction::Ingress, Some(_), _) => FlowPeer::Nobody,
            (Direction::Ingress, None, _) => FlowPeer::Address,
            (Direction::Egress, _, Some(workload)) => FlowPeer::Workload(workload),
            (Direction::Egress, _, None) => FlowPeer::Address,
        };
        let flow = Flow {
            direction: self.direction,
            subject: &self.subject,
            peer,
            proven: self.proven.as_ref(),
            source: self.source,
            destination: self.destination,
            protocol: TCP,
            server_name,
        };
        compiled.evaluate(&flow, request)
    }

    fn counted(&self, verdict: Verdict) -> Verdict {
        let (direction, seen) = (self.direction.name(), SeenAt::Proxy.name());
        let outcome = outcome(&verdict);
        self.view.metrics.decided(direction, outcome, seen);
        if outcome == DENY {
            self.keep(DENY, &verdict);
        } else if !verdict.audited.is_empty() {
            self.view.metrics.decided(direction, AUDIT, seen);
            self.keep(AUDIT, &verdict);
            tracing::info!(subject = %self.subject, source = %self.source, destination = %self.destination, %verdict, "an audited policy would deny this");
        }
        verdict
    }

    /// For whoever asks why.
    fn keep(&self, outcome: &'static str, verdict: &Verdict) {
        let told = Told {
            direction: self.direction,
            protocol: TCP,
            source: self.source,
            destination: self.destination,
            outcome,
            seen: SeenAt::Proxy,
            because: verdict,
        };
        let directory = self.view.directory.snapshot();
        self.view.recent.note(&directory, &told);
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    use tulle_policy::compiled::Outcome;
    match verdict.outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => DENY,
        Outcome::NeedsL7(_) => "needs_l7",
    }
}

/// A dual-stack socket sees IPv4 as `::ffff:a.b.c.d`; rules speak of IPv4.
fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

const DENY: &str = "deny";
const AUDIT: &str = "audit";
/// The number of TCP in an IP header.
const TCP: u8 = 6;
/// How long a connection of a new pod waits for the pod's rules; clients send their first packet again after a second, so this is
/// less than they take for a failure.
const COMPILE_PATIENCE: Duration = Duration::from_secs(10);
