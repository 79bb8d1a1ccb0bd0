//! The load program of the benchmarks: see `tulle_e2e::load`. Prints one line of JSON.

use std::{io::Read as _, net::SocketAddr, time::Duration};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tulle_e2e::load::{self, Closing, Latency, Length, Window};

#[derive(Debug, Parser)]
enum Command {
    /// Serve loads.
    Serve {
        /// Where.
        address: SocketAddr,
    },
    /// Round trips on kept connections.
    Latency {
        /// The server.
        server: SocketAddr,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// How many at once.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// How long.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
        /// How many, instead of how long.
        #[arg(long)]
        requests: Option<usize>,
    },
    /// New connections.
    Connect {
        /// The server.
        server: SocketAddr,
        /// How many at once.
        #[arg(long, default_value_t = 1)]
        clients: usize,
        /// Who closes first.
        #[arg(long, value_enum, default_value_t = Closing::Server)]
        closes: Closing,
        /// How long each window is.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
        /// How many windows; with more than one, failures are counted and do not end the load.
        #[arg(long, default_value_t = 1)]
        windows: usize,
    },
    /// Bytes to the server.
    Upload {
        /// The server.
        server: SocketAddr,
        /// How many connections.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// How long.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
    },
    /// Idle connections, until standard input ends; prints "held" when all stand.
    Hold {
        /// The server.
        server: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        /// How many bytes come down each of them before it is idle.
        #[arg(long, default_value_t = 0)]
        moved: u64,
    },
    /// Requests by the clock.
    Paced {
        /// The server.
        server: SocketAddr,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// How many connections they have.
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// How many per second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// How long.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
    },
    /// Round trips of datagrams.
    Udp {
        /// The server.
        server: SocketAddr,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// How long.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
    },
    /// What `connect()` costs.
    Dial {
        /// The server.
        server: SocketAddr,
        /// How long.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
    },
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn main() -> anyhow::Result<()> {
    allow_many_files()?;
    let command = Command::parse();
    match command {
        Command::Serve { address } => load::serve(address)?,
        Command::Hold {
            server,
            connections,
            moved,
        } => load::hold(server, connections, moved, || {
            println!("held");
            // Whoever started us closes our standard input when it has seen enough.
            let mut rest = Vec::new();
            if let Err(error) = std::io::stdin().read_to_end(&mut rest) {
                eprintln!("standard input: {error}");
            }
        })?,
        other => println!("{}", measure(other)?),
    }
    Ok(())
}

fn measure(command: Command) -> anyhow::Result<Value> {
    Ok(match command {
        Command::Latency {
            server,
            size,
            connections,
            seconds,
            requests,
        } => {
            let length = requests.map_or(Length::Time(seconds), Length::Requests);
            latencies(&load::round_trips(server, size, connections, length)?)
        }
        Command::Connect {
            server,
            clients,
            closes,
            seconds,
            windows,
        } => {
            let seen = load::new_connections(server, clients, closes, windows, seconds)?;
            connections(&seen)?
        }
        Command::Upload {
            server,
            streams,
            seconds,
        } => {
            let moved = load::upload(server, streams, seconds)?;
            json!({ "bytes": moved.bytes, "bytes_per_second": moved.per_second() })
        }
        Command::Paced {
            server,
            size,
            connections,
            rate,
            seconds,
        } => latencies(&load::paced(server, size, connections, rate, seconds)?),
        Command::Udp {
            server,
            size,
            seconds,
        } => {
            let (latency, lost) = load::datagram_round_trips(server, size, seconds)?;
            let mut answer = latencies(&latency);
            answer["lost"] = json!(lost);
            answer
        }
        Command::Dial { server, seconds } => latencies(&load::dial(server, seconds)?),
        Command::Serve { .. } | Command::Hold { .. } => anyhow::bail!("this measures nothing"),
    })
}

/// One window's figures, or those of each. A single window with failures has no rate that could be compared.
fn connections(seen: &[Window]) -> anyhow::Result<Value> {
    if let [only] = seen {
        anyhow::ensure!(only.errors == 0, "{} connections failed", only.errors);
        return Ok(latencies(&only.latency));
    }
    let windows: Vec<Value> = seen
        .iter()
        .map(|window| {
            let mut answer = latencies(&window.latency);
            answer["errors"] = json!(window.errors);
            answer
        })
        .collect();
    Ok(json!({ "windows": windows }))
}

fn latencies(latency: &Latency) -> Value {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    json!({
        "count": latency.count(),
        "per_second": latency.rate(),
        "p50_us": micros(latency.permille(500)),
        "p90_us": micros(latency.permille(900)),
        "p99_us": micros(latency.permille(990)),
        "max_us": micros(latency.longest()),
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// Ten thousand connections need as many descriptors.
fn allow_many_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, wanted)?)
}
