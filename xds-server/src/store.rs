//! etcd: the only module that knows `etcd-client`. Publishes the own state, reads that of others, sets up access.

mod access;
mod client;
mod init;
mod publisher;
mod reader;

pub use access::{admit_reader, expel_reader, withdraw};
pub use client::{EtcdError, EtcdSettings};
pub use init::{EtcdInit, init};
pub use publisher::publish;
pub use reader::{ListedState, ReadEvent, Reader};
