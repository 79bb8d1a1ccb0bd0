//! The traffic program of the end-to-end tests: see `tulle_e2e::peer`.

use std::net::SocketAddr;

use clap::Parser;
use tulle_e2e::peer::{Campaign, Discipline, run_campaign, serve};

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
}

#[expect(clippy::print_stdout, reason = "the summary is this program's output")]
fn main() -> anyhow::Result<()> {
    let campaign = match Command::parse() {
        Command::Serve {
            address,
            discipline,
        } => return Ok(serve(address, discipline)?),
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
