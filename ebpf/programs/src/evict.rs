//! Taking an application's socket out of the sockmap, from programs that the kernel does not let change sockmaps.
//!
//! Only some kinds of programs may delete from a sockmap, and the tracing programs that see a call before it can wait are not
//! among them. But a timer may be started by any program, and its callback has the rights of the program that set it. So
//! [`arm`](crate::join::arm), which may, sets the callbacks once; a tracing program names the socket, starts the timer with
//! no delay on its own processor, and looks until the socket is out: the interrupt comes within microseconds.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    },
};
use tulle_abi::{EvictionSlot, MEMBER_JOINED, MEMBER_LEFT, PROCESSORS_MAX, Program, Reason};

use crate::{
    count::count,
    kernel,
    maps::{APPLICATIONS, EVICTIONS, JOINED, SOCKETS, evict},
};

/// Takes the socket out of the sockmap before the caller goes on, unless redirected bytes wait in it: then the call will find
/// those, and not wait.
///
/// `evictor` is the number of the calling program: no other program may use it.
#[inline(always)]
pub(crate) fn evict_now(sk: *mut bpf_sock, evictor: u32, program: Program) {
    let Some(member) = JOINED.of_mut(sk) else {
        return;
    };
    let sock = sk as kernel::Pointer;
    if member.state != MEMBER_JOINED || !kernel::has_empty_ingress(sock) {
        return;
    }
    let processor = unsafe { bpf_get_smp_processor_id() };
    let index = evictor * PROCESSORS_MAX as u32 + processor;
    let Some(slot) = EVICTIONS.get_ptr_mut(index) else {
        count(program, Reason::EvictionLate);
        return;
    };
    // The slot is this program's on this processor, and the kernel does not enter a program twice on one processor.
    unsafe { (*slot).key = member.key };
    let status = unsafe { bpf_timer_start((&raw mut (*slot).timer).cast(), 0, ON_THIS_PROCESSOR) };
    if status != 0 {
        count(program, Reason::EvictionLate);
        return;
    }
    let mut wait = Wait { sock, is_out: 0 };
    unsafe {
        bpf_loop(
            LOOKS_MAX,
            look as *const () as *mut c_void,
            (&raw mut wait).cast(),
            0,
        );
    }
    if wait.is_out == 0 {
        count(program, Reason::EvictionLate);
        return;
    }
    member.state = MEMBER_LEFT;
    count(program, Reason::SocketEvicted);
}

/// Sets the callback of one slot's timer, from a program that may change sockmaps.
#[inline(always)]
pub(crate) fn arm_slot(index: u32) -> bool {
    let Some(slot) = EVICTIONS.get_ptr_mut(index) else {
        return false;
    };
    let timer = unsafe { &raw mut (*slot).timer };
    // A slot that an earlier process armed says that it is busy, and takes the new callback.
    let _ = unsafe {
        bpf_timer_init(
            timer.cast(),
            (&raw const EVICTIONS).cast_mut().cast(),
            CLOCK_MONOTONIC,
        )
    };
    let status =
        unsafe { bpf_timer_set_callback(timer.cast(), let_go as *const () as *mut c_void) };
    status == 0
}

/// The timer's callback.
#[inline(never)]
extern "C" fn let_go(_map: *mut c_void, _index: *mut u32, slot: *mut EvictionSlot) -> i64 {
    let key = unsafe { &(*slot).key };
    evict(&APPLICATIONS, key);
    let _ = SOCKETS.remove(key);
    0
}

struct Wait {
    sock: kernel::Pointer,
    is_out: u64,
}

/// Another thread that is in the middle of a send keeps the socket there until that send is over, which never waits.
#[inline(never)]
extern "C" fn look(_index: u64, wait: *mut Wait) -> i64 {
    if kernel::is_in_sockmap(unsafe { (*wait).sock }) {
        return 0;
    }
    unsafe { (*wait).is_out = 1 };
    1
}

/// How often the eviction is looked for: some 50 ms, a thousand times what it takes.
const LOOKS_MAX: u32 = 1 << 22;
const CLOCK_MONOTONIC: u64 = 1;
/// `BPF_F_TIMER_CPU_PIN`
const ON_THIS_PROCESSOR: u64 = 2;
