//! etcd: the only module that knows `etcd-client`. Publishes the own state, reads that of others, sets up access.

mod access;
mod client;
mod dial;
mod error;
mod init;
mod plan;
mod publisher;
mod reader;

pub use access::{admit_reader, expel_reader, withdraw};
pub use client::{EtcdSettings, PemSource};
pub use error::{EtcdError, TlsFault};
pub use init::{EtcdInit, init};
pub use plan::PublishPlan;
pub use publisher::publish;
pub use reader::{KeyEvent, KeyState, List, ListedPage, Reader, WatchRange};
