//! The client of the fault tests: see `tulle_e2e::curls`. Ends with its standard input.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use tulle_e2e::curls;

#[derive(Debug, Parser)]
enum Command {
    /// Ask at a steady rate; prints a line of JSON for each request at the end.
    Ask {
        /// name:port
        address: String,
        /// Requests in a second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Seconds after which a request has failed.
        #[arg(long, default_value_t = 10)]
        limit: u64,
    },
    /// Ask the kernel whether anybody serves a UDP service; prints a line whenever the answer is another one.
    Watch {
        /// The service.
        service: SocketAddr,
    },
}

fn main() -> io::Result<()> {
    match Command::parse() {
        Command::Ask {
            address,
            rate,
            limit,
        } => {
            let stop = AtomicBool::new(false);
            let outcomes = thread::scope(|scope| {
                scope.spawn(|| {
                    // However it ends, the requests end.
                    io::stdin().read_to_end(&mut Vec::new()).unwrap_or_default();
                    stop.store(true, Ordering::Relaxed);
                });
                curls::ask(&address, rate, Duration::from_secs(limit), &stop)
            });
            let mut lines = io::BufWriter::new(io::stdout().lock());
            for outcome in outcomes {
                writeln!(lines, "{}", outcome.to_json())?;
            }
            lines.flush()
        }
        Command::Watch { service } => watch(service),
    }
}

/// The choice of a backend is made in `connect()`, also of a datagram's socket, and nothing leaves the machine: so this reads the
/// kernel's table, as fast as a program can be told.
fn watch(service: SocketAddr) -> io::Result<()> {
    let mut last = None;
    loop {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let served = match socket.connect(service) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(EHOSTUNREACH) => false,
            Err(error) => return Err(error),
        };
        if last != Some(served) {
            let line = json!({"at": curls::now_micros(), "served": served});
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{line}")?;
            stdout.flush()?;
            last = Some(served);
        }
        let stdin = io::stdin();
        let mut end = [PollFd::new(&stdin, PollFlags::IN)];
        if poll(&mut end, Some(&LOOK_AGAIN))? > 0 {
            return Ok(());
        }
    }
}

const EHOSTUNREACH: i32 = 113;
const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000,
};
