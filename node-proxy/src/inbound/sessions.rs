//! The inbound connections that are open now, so that a new policy reaches them too.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tulle_identity::Peer;
use tulle_model::Directory;
use tulle_policy::{Connection, authorize};

use crate::pod::Pod;

/// The open inbound connections of one pod that policy speaks of.
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
pub(super) struct Session {
    /// `None` = plaintext.
    peer: Option<Arc<Peer>>,
    source: IpAddr,
    destination: SocketAddr,
    forbidden: Notify,
}

/// Keeps a session registered.
#[must_use]
pub(super) struct SessionGuard<'a> {
    sessions: &'a Sessions,
    key: u64,
    session: Arc<Session>,
}

impl Sessions {
    pub(super) fn open(
        &self,
        peer: Option<Arc<Peer>>,
        source: IpAddr,
        destination: SocketAddr,
    ) -> SessionGuard<'_> {
        let session = Arc::new(Session {
            peer,
            source,
            destination,
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

    fn is_empty(&self) -> bool {
        self.lock().sessions.is_empty()
    }

    /// Cuts what `directory` no longer allows.
    fn judge(&self, pod: &Pod, directory: &Directory) {
        let sessions: Vec<_> = self.lock().sessions.values().cloned().collect();
        for session in sessions {
            if !session.is_allowed(pod, directory) {
                session.forbidden.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_allowed(&self, pod: &Pod, directory: &Directory) -> bool {
        let workload = directory
            .workload_at(self.destination.ip())
            .filter(|workload| pod.is_workload(workload));
        // A workload that left the view takes its policies with it; its connections end when the pod does.
        let Some(workload) = workload else {
            return true;
        };
        let connection = Connection {
            peer: self.peer.as_ref().map(|peer| &peer.id),
            source: self.source,
            destination: self.destination,
        };
        authorize(directory, workload, &connection).is_allowed()
    }
}

impl SessionGuard<'_> {
    /// Whether policy still allows what it allowed by `judged`, in case it changed before the session was registered.
    pub(super) fn is_still_allowed(&self, pod: &Pod, judged: &Arc<Directory>) -> bool {
        let now = pod.plane.directory.snapshot();
        Arc::ptr_eq(&now, judged) || self.session.is_allowed(pod, &now)
    }

    /// Resolves when policy no longer allows the connection.
    pub(super) async fn forbidden(&self) {
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

/// Judges the pod's open connections again whenever policies, or the policies that select the pod, change; also during the drain.
pub(crate) async fn watch_policy(pod: Arc<Pod>) {
    let mut published = pod.plane.directory.clone();
    let mut judged = published.snapshot();
    loop {
        let changed = published.wait_for(|next| !std::ptr::eq(next, Arc::as_ptr(&judged)));
        let next = changed.await;
        // Without a publisher nothing changes any more.
        let Ok(next) = next else { return };
        let same_workload = match (pod.workload(&judged), pod.workload(&next)) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !(same_workload && next.shares_policies(&judged) || pod.sessions.is_empty()) {
            pod.sessions.judge(&pod, &next);
        }
        judged = next;
        // A busy mesh changes all the time; a verdict may come this much later.
        tokio::time::sleep(JUDGE_PAUSE).await;
    }
}

const JUDGE_PAUSE: Duration = Duration::from_millis(100);
