//! The kernel side that each pod has for itself: an object file of its own, small, since it is loaded once for every pod.

#![no_std]
#![no_main]

mod count;
mod gate;
#[path = "maps/shared.rs"]
mod maps;
mod packet;
mod pod;
mod sk_lookup;
mod verdict;
mod words;

/// The verifier proves that no program gets here; the compiler wants the function anyway.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The licence of the object file.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
