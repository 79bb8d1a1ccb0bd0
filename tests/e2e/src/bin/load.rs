//! The load program of the benchmarks: see `tulle_e2e::load`. Prints one line of JSON.

use std::{io::Read, net::SocketAddr, time::Duration};

use clap::Parser;
use serde_json::json;
use tulle_e2e::load;

#[derive(Debug, Parser)]
enum Command {
    /// Serve loads.
    Serve {
        /// Where.
        address: SocketAddr,
    },
    /// Round trips on one connection.
    Latency {
        /// The server.
        server: SocketAddr,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// How long.
        #[arg(long, default_value_t = 2)]
        seconds: u64,
    },
    /// New connections.
    Connect {
        /// The server.
        server: SocketAddr,
        /// How many at once.
        #[arg(long, default_value_t = 1)]
        clients: usize,
        /// How long.
        #[arg(long, default_value_t = 2)]
        seconds: u64,
    },
    /// Bytes to the server.
    Upload {
        /// The server.
        server: SocketAddr,
        /// How many connections.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// How long.
        #[arg(long, default_value_t = 2)]
        seconds: u64,
    },
    /// Idle connections, until standard input ends; prints "held" when all stand.
    Hold {
        /// The server.
        server: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn main() -> anyhow::Result<()> {
    let seconds = Duration::from_secs;
    match Command::parse() {
        Command::Serve { address } => load::serve(address)?,
        Command::Latency {
            server,
            size,
            seconds: time,
        } => {
            println!(
                "{}",
                latencies(&load::round_trips(server, size, seconds(time))?)
            );
        }
        Command::Connect {
            server,
            clients,
            seconds: time,
        } => {
            println!(
                "{}",
                latencies(&load::new_connections(server, clients, seconds(time))?)
            );
        }
        Command::Upload {
            server,
            streams,
            seconds: time,
        } => {
            let moved = load::upload(server, streams, seconds(time))?;
            let rate = moved.per_second();
            println!(
                "{}",
                json!({ "bytes": moved.bytes, "bytes_per_second": rate })
            );
        }
        Command::Hold {
            server,
            connections,
        } => load::hold(server, connections, || {
            println!("held");
            // Whoever started us closes our standard input when it has seen enough.
            let mut rest = Vec::new();
            if let Err(error) = std::io::stdin().read_to_end(&mut rest) {
                eprintln!("standard input: {error}");
            }
        })?,
    }
    Ok(())
}

fn latencies(latency: &load::Latency) -> serde_json::Value {
    let micros = |share| latency.permille(share).as_secs_f64() * 1e6;
    json!({
        "per_second": latency.rate(),
        "p50_us": micros(500),
        "p90_us": micros(900),
        "p99_us": micros(990),
    })
}
