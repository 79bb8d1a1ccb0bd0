//! Which node proxies have a stream, and how far they have come.
//!
//! The streams write, the management API reads. Nothing here decides anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tulle_wire::management::NodeStatus;

/// The streams that are open.
#[derive(Debug, Default)]
pub struct NodeBoard {
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: BTreeMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    node: String,
    address: Option<SocketAddr>,
    since: Instant,
    sent: u64,
    answered: u64,
    acknowledged_revision: u64,
    refusals: u64,
    last_refusal: Option<String>,
}

/// A stream's line on the board; it is wiped when this is dropped.
#[derive(Debug)]
pub struct StreamLine {
    board: Arc<NodeBoard>,
    id: u64,
}

impl NodeBoard {
    /// Notes a stream of the node's proxy.
    pub fn open(self: &Arc<Self>, node: &str, address: Option<SocketAddr>) -> StreamLine {
        let mut streams = self.lock();
        let id = streams.next;
        streams.next += 1;
        let stream = Stream {
            node: node.to_owned(),
            address,
            since: Instant::now(),
            sent: 0,
            answered: 0,
            acknowledged_revision: 0,
            refusals: 0,
            last_refusal: None,
        };
        streams.open.insert(id, stream);
        drop(streams);
        StreamLine {
            board: Arc::clone(self),
            id,
        }
    }

    /// All nodes by name: those that are `expected`, and others whose proxy has a stream all the same. Of several streams
    /// of one node the newest counts: the older ones are of a proxy that is gone.
    pub fn read(&self, expected: impl IntoIterator<Item = String>) -> Vec<NodeStatus> {
        let mut nodes: BTreeMap<String, NodeStatus> = BTreeMap::new();
        for stream in self.lock().open.values() {
            nodes.insert(stream.node.clone(), stream.status());
        }
        let connected: BTreeSet<String> = nodes.keys().cloned().collect();
        for name in expected
            .into_iter()
            .filter(|name| !connected.contains(name))
        {
            let status = NodeStatus {
                name: name.clone(),
                ..NodeStatus::default()
            };
            nodes.insert(name, status);
        }
        nodes.into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn status(&self) -> NodeStatus {
        NodeStatus {
            name: self.node.clone(),
            connected: true,
            address: self.address.map(|a| a.to_string()),
            connected_seconds: self.since.elapsed().as_secs(),
            current: self.sent > 0 && self.answered >= self.sent,
            acknowledged_revision: self.acknowledged_revision,
            refusals: self.refusals,
            last_refusal: self.last_refusal.clone(),
        }
    }
}

impl StreamLine {
    /// A response is on its way.
    pub fn note_sent(&self) {
        self.change(|stream| stream.sent += 1);
    }

    /// A response was accepted; `revision` is its snapshot's, if the response is the last of its type.
    pub fn note_acknowledged(&self, revision: Option<u64>) {
        self.change(|stream| {
            stream.answered += 1;
            let revision = revision.unwrap_or_default();
            stream.acknowledged_revision = stream.acknowledged_revision.max(revision);
        });
    }

    /// A response was refused.
    pub fn note_refused(&self, message: &str) {
        self.change(|stream| {
            stream.answered += 1;
            stream.refusals += 1;
            stream.last_refusal = Some(message.to_owned());
        });
    }

    fn change(&self, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.board.lock().open.get_mut(&self.id) {
            change(stream);
        }
    }
}

impl Drop for StreamLine {
    fn drop(&mut self) {
        self.board.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
