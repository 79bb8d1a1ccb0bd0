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
    /// The aliases that the answer begins with, and the name to ask for instead.
    aliased: Option<(Vec<Record>, Name)>,
    _place: OwnedSemaphorePermit,
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
        let lookup = self.with_viewpoint(&directory, |viewpoint| {
            let zone = Zone {
                directory: &directory,
                viewpoint,
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
        match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(place) => {
                self.context.metrics.query(outcome);
                let raw = bytes.to_vec();
                Step::Wait(Box::new(Waiting {
                    question,
                    raw,
                    transport,
                    aliased,
                    _place: place,
                }))
            }
            Err(_) => {
                self.context.metrics.query(QueryOutcome::Busy);
                Step::Reply(question.failure(ResponseCode::ServFail))
            }
        }
    }

    /// Asks the pod's own resolvers.
    pub(crate) async fn finish(&self, waiting: Box<Waiting>) -> Vec<u8> {
        let Waiting {
            question,
            raw,
            transport,
            aliased,
            _place,
        } = *waiting;
        let candidates = {
            let directory = self.context.directory.snapshot();
            self.with_viewpoint(&directory, |viewpoint| {
                self.forwarder.candidates(&directory, viewpoint, transport)
            })
        };
        let Some((aliases, target)) = aliased else {
            let asked = self.forwarder.ask(&candidates, &question, &raw, transport);
            return asked.await;
        };
        let (instead, raw) = question.about(target);
        let asked = self.forwarder.ask(&candidates, &instead, &raw, transport);
        question.answer_behind(aliases, &asked.await, transport)
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
