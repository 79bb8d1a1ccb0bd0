//! Requests that come by the clock, whether earlier ones were answered or not.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    latency::Latency,
    poller::Poller,
    round_trips::{Kept, PATIENCE},
};

/// `rate` small requests per second over `connections` kept connections. A request that finds none free waits, and its latency counts from
/// when it was due: a path that stalls cannot hide that by being asked less.
///
/// # Errors
/// What the first connection that fails says; `TimedOut` when nothing comes back for 30 s.
pub fn paced(
    server: SocketAddr,
    size: usize,
    connections: usize,
    rate: u32,
    time: Duration,
) -> io::Result<Latency> {
    let mut poller = Poller::new()?;
    let message = vec![7u8; size];
    let mut kept = (0..connections)
        .map(|number| Kept::open(server, &message, &poller, number))
        .collect::<io::Result<Vec<_>>>()?;
    let mut due: Vec<Instant> = vec![Instant::now(); connections];
    let mut block = vec![0u8; size.max(1)];
    let interval = Duration::from_secs(1) / rate.max(1);
    let begun = Instant::now();
    let end = begun + time;
    let mut next = begun;
    let mut samples = Vec::new();
    loop {
        let now = Instant::now();
        for (connection, due) in kept.iter_mut().zip(&mut due) {
            if next > now || next >= end {
                break;
            }
            if connection.is_idle() {
                *due = next;
                connection.send(&message, &poller)?;
                next += interval;
            }
        }
        let any_idle = kept.iter().any(Kept::is_idle);
        let all_idle = kept.iter().all(Kept::is_idle);
        if next >= end && all_idle {
            return Ok(Latency::new(samples, begun.elapsed()));
        }
        let until_next = next.saturating_duration_since(Instant::now());
        let is_clock = any_idle && next < end;
        let ready = poller.wait(if is_clock { until_next } else { PATIENCE })?;
        if ready.is_empty() && !is_clock {
            return Err(ErrorKind::TimedOut.into());
        }
        for number in ready {
            let (Some(connection), Some(due)) = (kept.get_mut(number), due.get(number)) else {
                continue;
            };
            connection.flush(&message, &poller)?;
            if connection.receive(&mut block)? {
                samples.push(due.elapsed());
            }
        }
    }
}
