//! What a tunnel is busy with: read by the pool when it looks for room, written by the streams as they go.
//!
//! Plain counters without order among them: a stale reading only makes a worse choice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures::task::AtomicWaker;

use super::{CONNECTION_WINDOW_LEN, CONNECTION_WINDOW_LEN_MAX, STREAM_WINDOW_LEN};
use crate::plane::PlaneSettings;

/// The load of one tunnel.
#[derive(Debug)]
pub(crate) struct TunnelLoad {
    since: Instant,
    streams: AtomicUsize,
    /// Streams that wait for room because their reader is slow: they may hold the whole tunnel's window.
    waiting: AtomicUsize,
    /// Bytes accepted from applications and not written yet.
    unsent: AtomicUsize,
    /// Bytes received and not yet taken by applications.
    held: AtomicUsize,
    /// The same over all tunnels of the process.
    held_total: Arc<HeldBytes>,
    /// Milliseconds until which the tunnel counts as busy with bulk.
    bulk_until: AtomicU64,
    /// Milliseconds at which the last stream ended.
    idle_since: AtomicU64,
    closed: AtomicBool,
    bulk_len: u64,
    bulk_period_millis: u64,
}

impl TunnelLoad {
    pub(crate) fn new(settings: &PlaneSettings, held_total: &Arc<HeldBytes>) -> Arc<Self> {
        Arc::new(TunnelLoad {
            since: Instant::now(),
            streams: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            held_total: Arc::clone(held_total),
            bulk_until: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            bulk_len: settings.bulk_len,
            bulk_period_millis: u64::try_from(settings.bulk_period.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Opens a stream's account; the stream counts until the account is dropped.
    pub(crate) fn open_stream(self: &Arc<Self>) -> Arc<StreamLoad> {
        self.streams.fetch_add(1, Relaxed);
        Arc::new(StreamLoad {
            tunnel: Arc::clone(self),
            unsent: AtomicUsize::new(0),
            flushed: AtomicWaker::new(),
        })
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Whether a small message would have to wait behind others.
    pub(crate) fn is_busy(&self) -> bool {
        self.waiting.load(Relaxed) > 0
            || self.unsent.load(Relaxed) > UNSENT_LEN_FREE
            || self.held.load(Relaxed) > HELD_LEN_FREE
            || self.bulk_until.load(Relaxed) > self.now()
    }

    /// How large the tunnel's window should be: what slow applications hold must not take the others' share, within bounds.
    pub(super) fn window_len(&self) -> u32 {
        let held = self.held.load(Relaxed);
        if held <= HELD_LEN_FREE || self.held_total.0.load(Relaxed) > HELD_TOTAL_LEN_MAX {
            return CONNECTION_WINDOW_LEN;
        }
        // In steps, so that the window is not changed with every piece.
        let steps = u32::try_from(held / HELD_LEN_FREE).unwrap_or(u32::MAX);
        let extra = steps.saturating_mul(STREAM_WINDOW_LEN / 4);
        CONNECTION_WINDOW_LEN
            .saturating_add(extra)
            .min(CONNECTION_WINDOW_LEN_MAX)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// For how many milliseconds no stream was open; `None` while one is.
    pub(crate) fn idle_millis(&self) -> Option<u64> {
        (self.streams() == 0).then(|| self.now().saturating_sub(self.idle_since.load(Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Bytes that all tunnels received and applications have not taken yet.
#[derive(Debug, Default)]
pub(crate) struct HeldBytes(AtomicUsize);

/// The part of one stream in its tunnel's load.
#[derive(Debug)]
pub(crate) struct StreamLoad {
    tunnel: Arc<TunnelLoad>,
    unsent: AtomicUsize,
    flushed: AtomicWaker,
}

impl StreamLoad {
    pub(super) fn add_unsent(&self, len: usize) {
        self.unsent.fetch_add(len, Relaxed);
        self.tunnel.unsent.fetch_add(len, Relaxed);
    }

    pub(super) fn sub_unsent(&self, len: usize) {
        self.tunnel.unsent.fetch_sub(len, Relaxed);
        if self.unsent.fetch_sub(len, Relaxed) == len {
            self.flushed.wake();
        }
    }

    /// Ready when the tunnel has written everything of this stream.
    pub(super) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.flushed.register(cx.waker());
        if self.unsent.load(Relaxed) == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    pub(super) fn add_held(&self, len: usize) {
        self.tunnel.held.fetch_add(len, Relaxed);
        self.tunnel.held_total.0.fetch_add(len, Relaxed);
    }

    pub(super) fn sub_held(&self, len: usize) {
        self.tunnel.held.fetch_sub(len, Relaxed);
        self.tunnel.held_total.0.fetch_sub(len, Relaxed);
    }

    pub(super) fn begin_wait(&self) {
        self.tunnel.waiting.fetch_add(1, Relaxed);
    }

    pub(super) fn end_wait(&self) {
        self.tunnel.waiting.fetch_sub(1, Relaxed);
    }
}

impl Drop for StreamLoad {
    fn drop(&mut self) {
        self.tunnel.idle_since.store(self.tunnel.now(), Relaxed);
        self.tunnel.streams.fetch_sub(1, Relaxed);
    }
}

/// Notices when one direction of a stream turns into bulk.
#[derive(Debug, Default)]
pub(super) struct BulkMeter {
    len: u64,
    since: u64,
}

impl BulkMeter {
    /// Counts bytes; marks the tunnel if too many came too fast. Reads the clock once per `bulk_len`.
    pub(super) fn count(&mut self, len: usize, load: &StreamLoad) {
        self.len += len as u64;
        if self.len < load.tunnel.bulk_len {
            return;
        }
        let now = load.tunnel.now();
        if now.saturating_sub(self.since) <= load.tunnel.bulk_period_millis {
            let until = now.saturating_add(load.tunnel.bulk_period_millis);
            load.tunnel.bulk_until.fetch_max(until, Relaxed);
        }
        self.len = 0;
        self.since = now;
    }
}

/// Unsent bytes that do not matter to a newcomer: they leave within a scheduling turn.
const UNSENT_LEN_FREE: usize = 64 * 1024;
/// Received bytes that wait for applications without anybody standing still.
const HELD_LEN_FREE: usize = 1024 * 1024;
/// Beyond this sum no tunnel gets more than its usual window.
const HELD_TOTAL_LEN_MAX: usize = 256 * 1024 * 1024;
