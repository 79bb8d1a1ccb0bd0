//! The datapath on a real kernel: needs root, BTF and cgroup v2, and fails with one sentence where one of them is missing.
//!
//! Every test makes its own network namespaces, cgroups and pins (see `support`), so tests run side by side.

#[cfg(test)]
mod choice;
#[cfg(test)]
mod datagram;
#[cfg(test)]
mod destroy;
#[cfg(test)]
mod failure;
#[cfg(test)]
mod figures;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod hazards;
#[cfg(test)]
mod inbound;
#[cfg(test)]
mod outbound;
#[cfg(test)]
mod pacing;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod policy_figures;
#[cfg(test)]
mod policy_table;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod sockmap;
#[cfg(test)]
mod support;
#[cfg(test)]
mod table;
#[cfg(test)]
mod traffic;
#[cfg(test)]
mod waits;
