//! One pod's resolver: bytes of a question in, what to do about them out.

use std::sync::Arc;

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tulle_balance::Viewpoint;
use tulle_model::{Directory, Locality};

use super::{
    DnsContext,
    forward::Forwarder,
    message::{Question, Refusal, Transport, refuse},
    names::NameVerdict,
    zone::{Lookup, Zone, search_list},
};
use crate::{metrics::QueryOutcome, pods::PodDescriptor};

/// Answers for one pod.
pub(crate) struct Resolver {
    context: Arc<DnsContext>,
    pod: PodDescriptor,
    search: Vec<Vec<String>>,
    forwarder: Forwarder,
    /// Places for questions that wait for other resolvers.
    waiting: Arc<Semaphore>,
}

/// What to do about a question.
pub(crate) enum Step {
    /// Nothing: there is nobody to tell.
    Drop,
    /// Send this.
    Reply(Vec<u8>),
    /// Wait for another resolver, then send what [`Resolver::finish`] returns.
    Wait(Box<Waiting>),
}

/// A question that other resolvers are to answer.
pub(crate) struct Waiting {
    question: Question,
    raw: Vec<u8>,
    transport: Transport,
    after: After,
    _place: OwnedSemaphorePermit,
}

/// Whom a question waits for.
enum After {
    /// The pod's own resolvers; with the aliases that the answer begins with, and the name to ask for instead.
    Resolvers(Option<(Vec<Record>, Name)>),
    /// Who compiles the rules of the pod, which is new.
    Rules,
}

/// What the pod's policies say of a question.
enum Judged {
    Allowed,
    Refused(Step),
    NotYet,
}

impl Resolver {
    /// A resolver for `pod` that forwards through `forwarder`.
    pub(crate) fn new(context: Arc<DnsContext>, pod: PodDescriptor, forwarder: Forwarder) -> Self {
        let search = search_list(&pod.search, &pod.namespace);
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        Resolver {
            context,
            pod,
            search,
            forwarder,
            waiting,
        }
    }

    /// Answers from the view where it can; never waits.
    pub(crate) fn take(&self, bytes: &[u8], transport: Transport) -> Step {
        let question = match Question::parse(bytes) {
            Ok(question) => question,
            Err(refusal) => {
                self.context.metrics.query(outcome_of(refusal));
                return refuse(bytes, refusal).map_or(Step::Drop, Step::Reply);
            }
        };
        let directory = self.context.directory.snapshot();
        let unsettled = match self.judge(&question, &directory, transport) {
            Judged::Allowed => false,
            Judged::Refused(step) => return step,
            Judged::NotYet => true,
        };
        if unsettled {
            return self.wait(question, bytes, transport, After::Rules);
        }
        let lookup = self.with_viewpoint(&directory, |viewpoint| {
            let ejected = self.context.health.ejected();
            let zone = Zone {
                directory: &directory,
                viewpoint,
                ejected: &ejected,
                search: &self.search,
                rotation: usize::from(question.id()),
            };
            zone.look_up(question.query().name(), question.query().query_type())
        });
        let outcome = match &lookup {
            Lookup::Records { .. } => QueryOutcome::Answered,
            Lookup::NoData => QueryOutcome::NoData,
            Lookup::NoSuchName => QueryOutcome::NoSuchName,
            Lookup::NotOurs | Lookup::Elsewhere { .. } => QueryOutcome::Forwarded,
        };
        let aliased = match &lookup {
            Lookup::Elsewhere { aliases, target } => Some((aliases.clone(), target.clone())),
            _ => None,
        };
        if let Some(answer) = question.answer(lookup, transport) {
            self.context.metrics.query(outcome);
            return Step::Reply(answer);
        }
        let step = self.wait(question, bytes, transport, After::Resolvers(aliased));
        if matches!(step, Step::Wait(_)) {
            self.context.metrics.query(outcome);
        }
        step
    }

    fn wait(&self, question: Question, bytes: &[u8], transport: Transport, after: After) -> Step {
        match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(place) => Step::Wait(Box::new(Waiting {
                question,
                raw: bytes.to_vec(),
                transport,
                after,
                _place: place,
            })),
            Err(_) => {
                self.context.metrics.query(QueryOutcome::Busy);
                Step::Reply(question.failure(ResponseCode::ServFail))
            }
        }
    }

    /// Waits for whom the question has to wait; `None` = nothing is sent.
    pub(crate) async fn finish(&self, waiting: Box<Waiting>) -> Option<Vec<u8>> {
        match waiting.after {
            After::Resolvers(_) => Some(self.forward(*waiting).await),
            After::Rules => {
                if let Some(names) = &self.context.names {
                    names.settled(self.pod.addresses.first().copied()).await;
                }
                let (raw, transport) = (waiting.raw.clone(), waiting.transport);
                let question = waiting.question.clone();
                drop(waiting);
                match self.take(&raw, transport) {
                    Step::Drop => None,
                    Step::Reply(reply) => Some(reply),
                    Step::Wait(again) => match again.after {
                        After::Resolvers(_) => Some(self.forward(*again).await),
                        After::Rules => Some(question.failure(ResponseCode::ServFail)),
                    },
                }
            }
        }
    }

    /// Asks the pod's own resolvers.
    async fn forward(&self, waiting: Waiting) -> Vec<u8> {
        let Waiting {
            question,
            raw,
            transport,
            after,
            _place,
        } = waiting;
        let aliased = match after {
            After::Resolvers(aliased) => aliased,
            After::Rules => None,
        };
        let candidates = {
            let directory = self.context.directory.snapshot();
            self.with_viewpoint(&directory, |viewpoint| {
                let ejected = self.context.health.ejected();
                self.forwarder
                    .candidates(&directory, viewpoint, &ejected, transport)
            })
        };
        let answer = match aliased {
            None => {
                let asked = self.forwarder.ask(&candidates, &question, &raw, transport);
                asked.await
            }
            Some((aliases, target)) => {
                let (instead, raw) = question.about(target);
                let asked = self.forwarder.ask(&candidates, &instead, &raw, transport);
                question.answer_behind(aliases, &asked.await, transport)
            }
        };
        if let Some(names) = &self.context.names {
            // The kernel must know the addresses before the application does.
            names.learn(question.query().name(), &answer).await;
        }
        answer
    }

    /// Names of the mesh are no exception: Cilium asks its rules for them too.
    fn judge(&self, question: &Question, directory: &Directory, transport: Transport) -> Judged {
        let Some(names) = &self.context.names else {
            return Judged::Allowed;
        };
        let resolvers = self.with_viewpoint(directory, |viewpoint| {
            let ejected = self.context.health.ejected();
            self.forwarder
                .candidates(directory, viewpoint, &ejected, transport)
        });
        let pod = self.pod.addresses.first().copied();
        let name = question.query().name();
        let verdict = names.judge(pod, &resolvers, transport.protocol(), name);
        let (outcome, reason, step) = match verdict {
            NameVerdict::Allowed => return Judged::Allowed,
            NameVerdict::NotYet => return Judged::NotYet,
            NameVerdict::Forbidden(reason) => {
                let reply = question.failure(ResponseCode::Refused);
                (QueryOutcome::Forbidden, reason, Step::Reply(reply))
            }
            NameVerdict::Unreachable(reason) => (QueryOutcome::Denied, reason, Step::Drop),
        };
        self.context.metrics.query(outcome);
        tracing::info!(pod = self.pod.uid, %name, reason, "a question is refused by policy");
        Judged::Refused(step)
    }

    /// Counts what the transport itself had to give up.
    pub(crate) fn count(&self, outcome: QueryOutcome) {
        self.context.metrics.query(outcome);
    }

    fn with_viewpoint<T>(
        &self,
        directory: &Directory,
        use_it: impl FnOnce(Viewpoint<'_>) -> T,
    ) -> T {
        let nowhere = Locality::default();
        let workload = self
            .pod
            .addresses
            .first()
            .and_then(|ip| directory.workload_at(*ip));
        use_it(Viewpoint {
            cluster: &self.context.cluster,
            node: &self.context.node,
            locality: workload.map_or(&nowhere, |workload| &workload.locality),
        })
    }
}

fn outcome_of(refusal: Refusal) -> QueryOutcome {
    match refusal {
        Refusal::Drop => QueryOutcome::Dropped,
        Refusal::Reply(ResponseCode::NotImp) => QueryOutcome::NotImplemented,
        Refusal::Reply(ResponseCode::Refused | ResponseCode::BADVERS) => QueryOutcome::Refused,
        Refusal::Reply(_) => QueryOutcome::Malformed,
    }
}

/// One pod's questions to other resolvers at one time; each holds a socket.
const WAITING_MAX: usize = 128;

#[cfg(test)]
mod tests;
