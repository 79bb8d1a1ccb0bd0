//! Interop with Cilium's Cluster Mesh: what a clustermesh-apiserver keeps in its etcd, read into facts of the mesh, and the own
//! facts written in the same layout. Pure; the etcd is the store's.
//!
//! A Cilium cluster has no identities that anybody could prove: its workloads are reached in plain, under a trust domain that
//! nobody signs for.

mod export;
mod keyed;
pub mod keys;
mod labels;
pub mod values;
mod view;

pub(crate) use export::{CiliumExport, NodeFacts};
pub(crate) use keyed::CiliumKeys;
