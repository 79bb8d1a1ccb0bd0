//! Feeds the parsers of foreign bytes with what nobody would send.
//!
//! A target is a plain function of bytes that panics if a promise is broken: that no bytes make a parser panic, that what was read is
//! written as it was read, that one way to ask implies another. The driver changes what it knows to be good and keeps what reaches code
//! that was not reached before. It needs nothing but the pinned stable toolchain: the counters are LLVM's, put in by stable flags
//! into the crates of this workspace only (`rustc-coverage.sh`), so that no dependency is built a second time. libFuzzer would need a C++
//! compiler and a second build of everything. Without the counters, as in `cargo test`, the driver works without that guidance.

mod coverage;
mod driver;
mod mutate;
mod random;
mod target;

pub use driver::{Failure, Limits, Report, fuzz};
pub use target::{TARGETS, Target, find};
