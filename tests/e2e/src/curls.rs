//! A client as `curl` is one, at a steady rate: each request resolves the name, connects anew, asks, and reads to the end.
//!
//! Requests are begun when they are due, whatever became of the earlier ones, so one that hangs does not hide those that
//! would have failed meanwhile.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When it was begun, in microseconds since 1970.
    pub began: u64,
    /// How long it took.
    pub took: Duration,
    /// The answer's body, or the step that failed.
    pub answer: Result<String, String>,
}

impl Outcome {
    /// One line of JSON.
    pub fn to_json(&self) -> Value {
        let micros = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        let (answer, error) = match &self.answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        json!({"began": self.began, "took": micros, "answer": answer, "error": error})
    }

    /// Reads what [`Outcome::to_json`] wrote.
    pub fn of_json(value: &Value) -> Option<Outcome> {
        let answer = match (value["answer"].as_str(), value["error"].as_str()) {
            (Some(answer), _) => Ok(answer.to_owned()),
            (None, error) => Err(error?.to_owned()),
        };
        Some(Outcome {
            began: value["began"].as_u64()?,
            took: Duration::from_micros(value["took"].as_u64()?),
            answer,
        })
    }
}

/// Asks `address` (`name:port`) `rate` times in a second until `stop`; the outcomes come in the order in which they end.
pub fn ask(address: &str, rate: u32, limit: Duration, stop: &AtomicBool) -> Vec<Outcome> {
    let (sender, outcomes) = mpsc::channel();
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let (address, next) = (Arc::new(address.to_owned()), Arc::new(next));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (sender, address, next) = (sender.clone(), Arc::clone(&address), Arc::clone(&next));
            scope.spawn(move || {
                // Nobody ever sends on it: a wait that ends by itself.
                let (_keep, never) = mpsc::channel::<()>();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = Duration::from_secs_f64(number as f64 / f64::from(rate.max(1)));
                    let wait = due.saturating_sub(begun.elapsed());
                    if never.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout)
                        && !stop.load(Ordering::Relaxed)
                    {
                        // The receiver lives as long as this scope.
                        sender.send(one(&address, limit)).unwrap_or_default();
                    }
                }
            });
        }
    });
    drop(sender);
    outcomes.into_iter().collect()
}

fn one(address: &str, limit: Duration) -> Outcome {
    let (began, at) = (now_micros(), Instant::now());
    let answer = exchange(address, limit);
    Outcome {
        began,
        took: at.elapsed(),
        answer,
    }
}

fn exchange(address: &str, limit: Duration) -> Result<String, String> {
    let step = |name: &'static str| move |error: io::Error| format!("{name}: {error}");
    let mut addresses = address.to_socket_addrs().map_err(step("resolve"))?;
    let server = addresses.next().ok_or("resolve: no address")?;
    let mut stream = TcpStream::connect_timeout(&server, limit).map_err(step("connect"))?;
    stream
        .set_read_timeout(Some(limit))
        .map_err(step("set up"))?;
    stream
        .set_write_timeout(Some(limit))
        .map_err(step("set up"))?;
    let name = address.split(':').next().unwrap_or_default();
    let request = format!("GET / HTTP/1.0\r\nhost: {name}\r\nuser-agent: curls\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(step("send"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(step("receive"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("receive: the answer ended after {} bytes", answer.len()))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" || body.is_empty() {
        return Err(format!("status {status}, {} bytes of content", body.len()));
    }
    Ok(body.trim().to_owned())
}

/// Microseconds since 1970, which all programs of a machine count alike.
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Requests that may hang at a time before later ones are late.
const WORKERS: usize = 200;
