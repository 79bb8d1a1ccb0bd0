//! Limits of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Allows as many open files as the process may ask for: each connection needs two, each pod some ten.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => tracing::debug!(files = ?limit.maximum, "limit of open files raised"),
        Err(error) => {
            tracing::warn!(%error, files = ?limit.current, "the limit of open files stays low")
        }
    }
}
