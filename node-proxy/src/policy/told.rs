//! Reads what the kernel tells of verdicts, and puts it into words: the numbers in its events mean something only beside the rules
//! that they were compiled from.

use std::{
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tulle_datapath::{PolicyDirection, PolicyVerdict, Seen, VerdictEvent, VerdictEvents};
use tulle_policy::compiled::{
    CompiledPolicy, Direction, Flow, FlowPeer, Outcome, RuleId, ServerName, Verdict,
};

use super::{
    PolicyView,
    recent::{SeenAt, Told},
};
use crate::ring;

/// The task that listens to the kernel.
pub struct VerdictListener {
    /// By what was decided.
    pub view: PolicyView,
    /// What the kernel tells.
    pub events: Option<VerdictEvents>,
}

impl VerdictListener {
    /// Works until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        // Cancelling between two events loses what nobody will ask about any more.
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.listen()).await;
    }

    async fn listen(mut self) {
        let events = self.events.take().map(ring::watch).transpose();
        let mut lines = Lines::new(Instant::now());
        match events {
            Ok(Some(mut events)) => {
                if let Err(error) = self.read_all(&mut events, &mut lines).await {
                    tracing::error!(%error, "what the kernel denies is only counted from now on");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "what the kernel denies is only counted"),
        }
        std::future::pending().await
    }

    async fn read_all(
        &self,
        events: &mut AsyncFd<VerdictEvents>,
        lines: &mut Lines,
    ) -> io::Result<()> {
        loop {
            let mut ready = events.readable_mut().await?;
            for _ in 0..EVENTS_PER_TURN {
                match ready.get_inner_mut().take_next() {
                    Some(event) => self.tell(&event, lines),
                    None => {
                        ready.clear_ready();
                        break;
                    }
                }
            }
            // A flood of events must not keep the tables from the thread that both share.
            tokio::task::yield_now().await;
        }
    }

    fn tell(&self, event: &VerdictEvent, lines: &mut Lines) {
        let outcome = match event.verdict {
            PolicyVerdict::Deny => "deny",
            PolicyVerdict::Allow | PolicyVerdict::Proxy => "audit",
        };
        let direction = match event.direction {
            PolicyDirection::Ingress => Direction::Ingress,
            PolicyDirection::Egress => Direction::Egress,
        };
        let seen = match event.seen {
            Seen::AtCall => SeenAt::Call,
            Seen::OnWire => SeenAt::Wire,
        };
        let view = &self.view;
        view.metrics.decided(direction.name(), outcome, seen.name());
        let because = Reason {
            view,
            event,
            direction,
        };
        let told = Told {
            direction,
            protocol: event.protocol,
            source: event.source.ip().to_canonical(),
            destination: canonical(event.destination),
            outcome,
            seen,
            because: &because,
        };
        view.recent.note(&view.directory.snapshot(), &told);
        if let Some(unsaid) = lines.next(Instant::now()) {
            tracing::info!(
                source = %told.source,
                destination = %told.destination,
                protocol = told.protocol,
                direction = direction.name(),
                seen = seen.name(),
                unsaid,
                "{because}"
            );
        }
    }
}

/// An event's reason; looked up when it is written.
struct Reason<'a> {
    view: &'a PolicyView,
    event: &'a VerdictEvent,
    direction: Direction,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiled = self.view.compiled.snapshot();
        let rule = compiled.rule(RuleId(self.event.rule));
        if self.event.verdict != PolicyVerdict::Deny {
            return match rule {
                Some(rule) => write!(f, "allowed: {rule}, which only audits, would deny it"),
                None => f.write_str("allowed: a rule under audit that is gone would deny it"),
            };
        }
        let now = self.ask(&compiled);
        match (rule, now) {
            (Some(rule), Some(now)) if matches!(now.outcome, Outcome::NeedsL7(_)) => {
                write!(
                    f,
                    "denied: {rule} lets only a proxy decide, which sees no such packets"
                )
            }
            (Some(rule), _) => write!(f, "denied: {rule}"),
            (None, Some(now)) if now.outcome == Outcome::Deny => write!(f, "{now}"),
            (None, _) if self.event.rule != 0 => f.write_str("denied: a rule that is gone"),
            (None, _) => f.write_str("denied: no rule allowed it then"),
        }
    }
}

impl Reason<'_> {
    /// What the rules say of it now.
    fn ask(&self, compiled: &CompiledPolicy) -> Option<Verdict> {
        let directory = self.view.directory.snapshot();
        let event = self.event;
        let (source, destination) = (event.source.ip(), canonical(event.destination));
        let subject = match self.direction {
            Direction::Ingress => destination.ip(),
            Direction::Egress => source,
        };
        let subject = directory.workload_at(subject)?;
        let sender = directory.workload_at(source);
        let peer = match (self.direction, sender) {
            (Direction::Ingress, Some(sender))
                if event.peer != 0 && sender.node == subject.node =>
            {
                FlowPeer::Workload(sender)
            }
            _ => FlowPeer::Address,
        };
        Some(compiled.evaluate_unseen(&Flow {
            direction: self.direction,
            subject: &subject.uid,
            peer,
            proven: None,
            source: source.to_canonical(),
            destination,
            protocol: event.protocol,
            server_name: ServerName::NotSeen,
        }))
    }
}

/// How many lines the log takes.
struct Lines {
    since: Instant,
    said: u32,
    unsaid: u64,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Lines {
            since: now,
            said: 0,
            unsaid: 0,
        }
    }

    /// Whether there is room for one more; then, how many found none since the last one.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= SECOND {
            self.since = now;
            self.said = 0;
        }
        if self.said >= LINES_PER_SECOND {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

/// Events that are taken before others have their turn.
const EVENTS_PER_TURN: usize = 64;
/// Lines of one second; what finds no room is counted, and is in the dump.
const LINES_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{LINES_PER_SECOND, Lines};

    #[test]
    fn the_log_takes_some_lines_a_second_and_says_how_many_it_left_out() {
        let start = Instant::now();
        let mut lines = Lines::new(start);
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(lines.next(start), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(lines.next(start + Duration::from_millis(999)), None);
        }
        assert_eq!(lines.next(start + Duration::from_secs(1)), Some(3));
        assert_eq!(lines.next(start + Duration::from_secs(1)), Some(0));
    }
}
