//! Probes of a tunnel: a peer that vanished without a word must not hold its streams for ever.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Sends a PING every interval, whatever the traffic, and waits a bounded time for the answer.
pub(super) struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the unanswered PING was sent.
    asked_at: Option<Instant>,
}

impl Keepalive {
    pub(super) fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        Keepalive {
            pings,
            interval,
            timeout,
            timer: Box::pin(sleep(interval)),
            asked_at: None,
        }
    }

    /// Ready when the peer is lost.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(asked_at) = self.asked_at
                && let Poll::Ready(answer) = self.pings.poll_pong(cx)
            {
                if answer.is_err() {
                    return Poll::Ready(());
                }
                self.asked_at = None;
                self.timer.as_mut().reset(asked_at + self.interval);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.asked_at.is_some() || self.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            let now = Instant::now();
            self.asked_at = Some(now);
            self.timer.as_mut().reset(now + self.timeout);
        }
    }
}
