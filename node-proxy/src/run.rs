//! Wires the program: runtimes, tasks, signals, the order of start and end. No decision about traffic is made here.
//!
//! Three runtimes: the data plane has all cores; the control side (xDS, kernel tables, certificates) and the admin server have a
//! thread each, so that neither a huge update nor a slow reader of the dump can hold up a connection.

mod bundles;
mod collectors;
mod limits;
mod memory;
mod policy;
mod wiring;

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tulle_datapath::{Datapath, OpenDatapathError, ReconcileError};
use tulle_identity::OpenCaClientError;

use crate::{
    admin::Admin,
    config::{Config, own_cgroup},
};

use wiring::{datapath_settings, wire};

/// Runs the node proxy until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Something that it cannot work without is missing.
pub fn run(config: Config) -> Result<(), RunError> {
    memory::bound_heaps();
    limits::raise_open_files();
    check_cgroup(&config)?;
    let admin_listener = TcpListener::bind(config.admin).map_err(|source| RunError::Admin {
        address: config.admin,
        source,
    })?;
    let datapath = Arc::new(Datapath::open_enforcing(
        &datapath_settings(&config),
        config.denied,
    )?);
    datapath
        .set_node_addresses(&config.host_addresses.iter().copied().collect())
        .map_err(RunError::NodeAddresses)?;
    let data = runtime::Builder::new_multi_thread()
        .thread_name("data-plane")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let control = runtime::Builder::new_current_thread()
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = control.block_on(supervise(config, datapath, admin_listener, &data));
    // What still runs had its time; what it holds is in the kernel's hands.
    data.shutdown_timeout(SHUTDOWN_TIMEOUT);
    control.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

/// The kernel's side knows the proxy's own sockets by its cgroup: outside of it nothing would fail, but no application would
/// see its true peer.
fn check_cgroup(config: &Config) -> Result<(), RunError> {
    match own_cgroup() {
        Ok(own) if !own.starts_with(&config.proxy_cgroup) => Err(RunError::OutsideCgroup {
            own,
            expected: config.proxy_cgroup.clone(),
        }),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(error = chain(&error), "the proxy's own cgroup is not known");
            Ok(())
        }
    }
}

/// Starts everything in order, waits for the end, ends everything in order.
async fn supervise(
    config: Config,
    datapath: Arc<Datapath>,
    admin_listener: TcpListener,
    data: &Runtime,
) -> Result<(), RunError> {
    // Before anything else: a signal that comes early must not end the process halfway.
    let mut signals = Signals::new().map_err(RunError::Signal)?;
    let stop = Stops::default();
    let wired = wire(&config, datapath, &stop, data.handle())?;
    let admin = serve_admin(wired.admin, admin_listener, stop.everything.clone())?;
    let mut tables = wired.control.kernel_sync.status.subscribe();
    let mut rules = wired.control.policies.keeper.status.subscribe();
    let mut control = wired.control.spawn(&stop);

    // A pod that is captured before the kernel knows the mesh would speak plaintext to it.
    let first_tables = async {
        let _tables = tables.wait_for(|status| status.applied > 0).await;
        rules.wait_for(|status| status.applied > 0).await
    };
    // All arms are cancel-safe: a signal stays pending, a wait and a join lose nothing.
    let mut outcome = tokio::select! {
        _applied = first_tables => Ok(None),
        () = signals.next() => Ok(Some(Ending::Signal)),
        ended = control.join_next() => Err(unexpected(ended)),
    };
    let mut pods = JoinSet::new();
    if let Ok(None) = outcome {
        pods.spawn_on(wired.pods.run(stop.pods.clone()), data.handle());
        memory::give_back();
        tracing::info!("the mesh is known: capturing pods");
        outcome = tokio::select! {
            () = signals.next() => Ok(Some(Ending::Signal)),
            ended = control.join_next() => Err(unexpected(ended)),
            _ended = pods.join_next() => Err(RunError::TaskEnded { task: "the keeper of pods".to_owned() }),
        };
    }

    tracing::info!(drain_timeout = ?config.drain_timeout, "ending: connections are drained");
    stop.draining.cancel();
    // The kernel keeps working from its last tables; pods that are being drained must not change them.
    stop.tables.cancel();
    stop.pods.cancel();
    tokio::select! {
        _all = pods.join_next() => {}
        () = signals.next() => tracing::warn!("a second signal: ending at once"),
    }
    stop.everything.cancel();
    let rest = async { while control.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_TIMEOUT, rest).await.is_err() {
        tracing::warn!("the control side did not end in time");
    }
    drop(admin);
    outcome.map(|_ending| ())
}

/// Why the process ends in good order.
enum Ending {
    Signal,
}

/// What ends when; each on its own.
#[derive(Default)]
struct Stops {
    /// Readiness.
    draining: CancellationToken,
    /// Changes of the kernel's tables.
    tables: CancellationToken,
    /// Pods' proxies.
    pods: CancellationToken,
    /// The rest.
    everything: CancellationToken,
}

/// Starts the admin server on a thread of its own.
fn serve_admin(
    admin: Admin,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<thread::JoinHandle<()>, RunError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let serve = move || {
        if let Err(error) = runtime.block_on(admin.serve(listener, cancel)) {
            tracing::error!(%error, "the admin server failed");
        }
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    };
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(serve)
        .map_err(RunError::Runtime)
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// A task that runs as long as the process ended: it failed, whatever it says.
fn unexpected(ended: Option<Result<&'static str, JoinError>>) -> RunError {
    let task = match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "a task".to_owned(),
    };
    RunError::TaskEnded { task }
}

/// The two signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    ///
    /// # Cancel safety
    /// A signal that was not returned is returned by the next call.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// The proxy cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The admin server's address is not free.
    #[error("the admin server cannot listen at {address}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel's side does not take the node's own addresses.
    #[error("the kernel's side does not take the node's own addresses")]
    NodeAddresses(#[source] ReconcileError),
    /// The process is not where its configuration says.
    #[error("this process is in the cgroup {}, expected below {}: applications would not see their true peers", own.display(), expected.display())]
    OutsideCgroup {
        /// Where it is.
        own: PathBuf,
        /// The proxy's cgroup.
        expected: PathBuf,
    },
    /// The kernel's side cannot be loaded.
    #[error("the kernel's side cannot be set up")]
    Datapath(#[from] OpenDatapathError),
    /// The client for certificates cannot be set up.
    #[error("the client for certificates cannot be set up")]
    Certificates(#[from] OpenCaClientError),
    /// A runtime or thread cannot be made.
    #[error("a runtime cannot be started")]
    Runtime(#[source] io::Error),
    /// Signals cannot be received.
    #[error("signals cannot be received")]
    Signal(#[source] io::Error),
    /// A task that must run for ever ended.
    #[error("{task} ended unexpectedly")]
    TaskEnded {
        /// Which.
        task: String,
    },
}

/// What is done after the drain takes milliseconds; only a hanging disk takes longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
