//! The kernel side of the datapath that a node has once: one file per hook, each of them thin. What each pod has for itself is in
//! `steering.rs`.
//!
//! Every program leaves through [`count::exit`] or a sibling of it, so that each exit is counted under its reason.

#![no_std]
#![no_main]

mod choice;
mod connect;
mod count;
mod datagram;
mod decide;
mod evict;
mod failure;
mod guard;
mod join;
mod judge;
mod kernel;
mod maps;
mod pace;
mod packet;
mod peername;
mod settings;
mod sk_msg;
mod sock_addr;
mod sockops;
mod storage;
mod verdict;
mod vouch;
mod words;

/// The verifier proves that no program gets here; the compiler wants the function anyway.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel hands some helpers (among them `probe_read_kernel`) to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
