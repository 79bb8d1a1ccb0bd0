//! Load-time settings of one pod's steering. A program of this kind cannot ask for its namespace's cookie, so each pod's copy is
//! told.

use tulle_abi::PodSettings;

/// Overwritten by the loader.
#[unsafe(no_mangle)]
static POD: PodSettings = PodSettings {
    netns: 0,
    tunnel_port: 0,
    is_gate_inside: 0,
    reserved: [0; 2],
};

#[inline(always)]
pub(crate) fn netns_cookie() -> u64 {
    unsafe { core::ptr::read_volatile(&raw const POD.netns) }
}

#[inline(always)]
pub(crate) fn tunnel_port() -> u16 {
    unsafe { core::ptr::read_volatile(&raw const POD.tunnel_port) }
}

#[inline(always)]
pub(crate) fn is_gate_inside() -> bool {
    unsafe { core::ptr::read_volatile(&raw const POD.is_gate_inside) != 0 }
}
