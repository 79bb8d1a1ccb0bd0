//! Wires the program: configuration, runtime, signals.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tulle_xds_server::{
    config::{Command, Config, RawConfig},
    run, store,
};

fn main() -> ExitCode {
    let raw = RawConfig::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    let command = match Command::try_from(raw) {
        Ok(command) => command,
        Err(error) => {
            tracing::error!("the command line is not usable:\n{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match execute(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Serve(config) => serve(*config).await,
            Command::EtcdInit(init) => {
                store::init(&init).await.context("cannot set etcd up")?;
                tracing::info!(cluster = %init.cluster, "etcd is set up");
                Ok(())
            }
        }
    })
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let running = run::start(config).await?;
    let asked = tokio::select! { // Cancel-safe: all arms only wait.
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = running.failed() => false,
    };
    tracing::info!("stopping");
    running.stop().await;
    anyhow::ensure!(
        asked,
        "a part of the server ended by itself; the log says which"
    );
    Ok(())
}

const EXIT_USAGE: u8 = 2;
