//! The connections that are open now, in both directions, so that a new policy reaches them too.
//!
//! Whatever changed, each is asked about again: a verdict costs a few look-ups, and what might be left out would be a connection that
//! outlives its permission (with ztunnel only inbound ones are looked at again).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tulle_policy::compiled::{Because, Outcome, Verdict};

use super::Judge;
use crate::pod::Pod;

/// The open connections of one pod that policy speaks of.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    sessions: HashMap<u64, Arc<Session>>,
}

/// What policy needs to know of one connection, and how to end it.
#[derive(Debug)]
struct Session {
    judge: Arc<Judge>,
    /// Policy wanted to see what is asked, and does.
    is_judged: bool,
    forbidden: Notify,
}

/// Keeps a session registered.
#[must_use]
pub(crate) struct SessionGuard<'a> {
    sessions: &'a Sessions,
    key: u64,
    session: Arc<Session>,
}

impl Sessions {
    /// Registers a connection that policy allowed.
    pub(crate) fn open(&self, judge: Arc<Judge>) -> SessionGuard<'_> {
        let session = Arc::new(Session {
            is_judged: wants_requests(&judge.connection()),
            judge,
            forbidden: Notify::new(),
        });
        let mut live = self.lock();
        live.next += 1;
        let key = live.next;
        live.sessions.insert(key, Arc::clone(&session));
        SessionGuard {
            sessions: self,
            key,
            session,
        }
    }

    /// Cuts what is no longer allowed.
    fn judge(&self) {
        let sessions: Vec<_> = self.lock().sessions.values().cloned().collect();
        for session in sessions {
            if !session.is_allowed() {
                session.forbidden.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_allowed(&self) -> bool {
        let verdict = self.judge.connection();
        match verdict.outcome {
            // What is asked on a connection that nobody looked into cannot be seen any more.
            Outcome::NeedsL7(_) => self.is_judged,
            Outcome::Allow => true,
            // A workload that left the view takes its policies with it; its connections end when the pod does.
            Outcome::Deny => verdict.because == Because::NotCompiled,
        }
    }
}

/// Whether policy has more to say once it sees what is asked.
fn wants_requests(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::NeedsL7(_))
        || (verdict.is_allowed() && verdict.audits_requests)
}

impl SessionGuard<'_> {
    /// Whether policy still allows what it allowed, in case it changed before the session was registered.
    pub(crate) fn is_still_allowed(&self) -> bool {
        self.session.is_allowed()
    }

    /// Who judges what is asked, where policy wants to see it.
    pub(crate) fn request_judge(&self) -> Option<Arc<Judge>> {
        let judge = &self.session.judge;
        self.session.is_judged.then(|| Arc::clone(judge))
    }

    /// Resolves when policy no longer allows the connection.
    pub(crate) async fn forbidden(&self) {
        self.session.forbidden.notified().await;
    }
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        let mut live = self.sessions.lock();
        live.sessions.remove(&self.key);
        if live.sessions.is_empty() {
            live.sessions = HashMap::new();
        }
    }
}

/// Judges the pod's open connections again whenever rules or the mesh changed; also during the drain.
pub(crate) async fn watch_policy(pod: Arc<Pod>) {
    let view = &pod.plane.policy;
    let mut published = (view.directory.clone(), view.compiled.clone());
    let mut judged = (published.0.snapshot(), published.1.snapshot());
    loop {
        let (directory, compiled) = (&mut published.0, &mut published.1);
        let changed = tokio::select! { // Both arms are cancel-safe.
            changed = directory.wait_for(|next| !next.shares_policies(&judged.0)) => changed.is_ok(),
            changed = compiled.wait_for(|next| !std::ptr::eq(next, Arc::as_ptr(&judged.1))) => changed.is_ok(),
        };
        // Without a publisher nothing changes any more.
        if !changed {
            return;
        }
        judged = (published.0.snapshot(), published.1.snapshot());
        pod.sessions.judge();
        // A busy mesh changes all the time; a verdict may come this much later.
        tokio::time::sleep(JUDGE_PAUSE).await;
    }
}

const JUDGE_PAUSE: Duration = Duration::from_millis(100);
