//! The compiled rules, asked about names.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::timeout;
use tulle_policy::compiled::{
    Because, CompiledPolicy, Direction, Flow, FlowPeer, LearnedNames, Outcome, RequestFacts,
    ServerName, Verdict,
};

use super::{NameLearner, PolicyView};
use crate::dns::{NameQuestion, NameRules, NameVerdict};

/// The rules that are compiled on this node, for the resolvers of its pods.
pub struct CompiledNames {
    /// The rules.
    pub view: PolicyView,
    /// Where names go that were resolved.
    pub learner: Arc<NameLearner>,
}

impl CompiledNames {
    fn ask(&self, compiled: &CompiledPolicy, question: &NameQuestion<'_>) -> Option<Verdict> {
        let directory = self.view.directory.snapshot();
        let subject = directory.workload_at(question.pod)?;
        let resolver = directory.workload_at(question.resolver.ip());
        let flow = Flow {
            direction: Direction::Egress,
            subject: &subject.uid,
            peer: resolver.map_or(FlowPeer::Address, |found| FlowPeer::Workload(found)),
            // Questions leave in plain text.
            proven: None,
            source: question.pod,
            destination: question.resolver,
            protocol: question.protocol,
            server_name: ServerName::Absent,
        };
        let verdict = compiled.evaluate(&flow, Some(&RequestFacts::Dns(question.name)));
        (verdict.because != Because::NotCompiled).then_some(verdict)
    }

    /// Whether the pod's rules are compiled: any question tells.
    fn is_settled(&self, compiled: &CompiledPolicy, pod: IpAddr) -> bool {
        let question = NameQuestion {
            pod,
            resolver: (pod, 0).into(),
            protocol: 17,
            name: ".",
        };
        self.ask(compiled, &question).is_some()
    }
}

impl NameRules for CompiledNames {
    fn judge(&self, question: &NameQuestion<'_>) -> NameVerdict {
        let compiled = self.view.compiled.snapshot();
        let Some(verdict) = self.ask(&compiled, question) else {
            return NameVerdict::NotYet;
        };
        match (&verdict.outcome, &verdict.because) {
            (Outcome::Allow, _) => NameVerdict::Allowed,
            // The pod may ask the resolver about something, so it can be told that this is not it.
            (_, Because::NotAmong(_)) => NameVerdict::Forbidden(verdict.to_string()),
            (_, _) => NameVerdict::Unreachable(verdict.to_string()),
        }
    }

    fn settled(&self, pod: IpAddr) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut compiled = self.view.compiled.clone();
            let settled = compiled.wait_for(|compiled| self.is_settled(compiled, pod));
            // Whether it came in time or not: the question is judged again.
            let _waited = timeout(COMPILE_PATIENCE, settled).await;
        })
    }

    fn install(&self, names: LearnedNames) -> BoxFuture<'_, bool> {
        Box::pin(self.learner.install(names))
    }
}

/// Stub resolvers ask again after 5 s.
const COMPILE_PATIENCE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests;
