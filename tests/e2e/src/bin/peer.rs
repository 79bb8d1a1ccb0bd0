//! The traffic program of the end-to-end tests: see `tulle_e2e::peer`.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use tulle_e2e::peer::{Campaign, Discipline, reset_early, run_campaign, serve};

#[derive(Debug, Parser)]
enum Command {
    /// Serve conversations.
    Serve {
        /// Where.
        address: SocketAddr,
        /// How sockets wait.
        #[arg(long, default_value = "blocking")]
        discipline: Discipline,
    },
    /// Hold conversations with a server, print what failed, exit 1 if any did.
    Talk {
        /// The server.
        server: SocketAddr,
        /// How many conversations.
        #[arg(long, default_value_t = 1000)]
        conversations: u64,
        /// How many at once.
        #[arg(long, default_value_t = 8)]
        parallel: usize,
        /// The longest direction in bytes.
        #[arg(long, default_value_t = 8 << 20)]
        len_max: u64,
        /// Names the campaign.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How sockets wait.
        #[arg(long, default_value = "blocking")]
        discipline: Discipline,
    },
    /// Send a few bytes and reset, many times; print how many of these connections the server accepted, exit 1 if not all.
    ResetEarly {
        /// The server.
        server: SocketAddr,
        /// How many connections.
        #[arg(long, default_value_t = 300)]
        count: u64,
    },
}

/// How long a server may take to accept what waits for it.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);

#[expect(clippy::print_stdout, reason = "the summary is this program's output")]
fn main() -> anyhow::Result<()> {
    let campaign = match Command::parse() {
        Command::Serve {
            address,
            discipline,
        } => return Ok(serve(address, discipline)?),
        Command::ResetEarly { server, count } => {
            let seen = reset_early(server, count, ACCEPT_DEADLINE)?;
            println!("the server saw {seen} of {count}");
            anyhow::ensure!(seen == count, "{} were not seen", count - seen.min(count));
            return Ok(());
        }
        Command::Talk {
            server,
            conversations,
            parallel,
            len_max,
            seed,
            discipline,
        } => Campaign {
            server,
            conversations,
            parallel,
            len_max,
            seed,
            discipline,
        },
    };
    let summary = run_campaign(&campaign);
    for failure in summary.failures.iter().take(20) {
        println!("{:?}: {}", failure.plan, failure.reason);
    }
    println!(
        "passed {} failed {} bytes {} in {:?}",
        summary.passed,
        summary.failures.len(),
        summary.bytes,
        summary.elapsed
    );
    anyhow::ensure!(
        summary.failures.is_empty(),
        "{} conversations failed",
        summary.failures.len()
    );
    Ok(())
}
