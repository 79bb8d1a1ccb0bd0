//! Where node proxies are served: on threads of their own.
//!
//! A thousand nodes that are told a whole mesh are work for minutes. On the threads of the rest, each of their turns would stand between
//! another cluster and its heartbeat: connections to etcd time out, clusters count as silent, every workload of theirs changes, and a
//! thousand nodes have more to be told. So those who fan out have their own runtime, and the kernel gives the rest, which rarely works and
//! never for long, its turn at once.

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};

/// The runtime; it ends without waiting when it is dropped, so that it may be dropped anywhere.
#[derive(Debug)]
pub(super) struct NodesRuntime {
    handle: Handle,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl NodesRuntime {
    /// With a thread for each core.
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("nodes")
            .enable_all()
            .build()
            .context("cannot start the threads that serve nodes")?;
        Ok(NodesRuntime {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Where to spawn.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for NodesRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
