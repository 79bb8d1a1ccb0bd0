//! Pages of the program's own files.
//!
//! Much of a program runs once: reading arguments, parsing type information, loading the kernel side. Its pages stay mapped, count
//! as the process's, and look used to the kernel when memory is short. Unmapped, they are only cached files, the first to go; what
//! is called again is mapped again by a fault that needs no disk.

use std::{
    ffi::{c_int, c_void},
    ptr, slice,
};

/// Unmaps the pages of all loaded files that no byte of is ever written. What is needed comes back by itself.
///
/// Done in the first minute and not now and then: a debugger's breakpoint or a probe lies in such a page, and would be lost.
#[expect(unsafe_code, reason = "only the loader knows what is mapped where")]
pub(super) fn forget() {
    // SAFETY: `forget_object` has the signature that is asked for, does not panic, and needs no context.
    let _always_zero = unsafe { libc::dl_iterate_phdr(Some(forget_object), ptr::null_mut()) };
}

#[expect(unsafe_code, reason = "called by the loader, with pointers")]
unsafe extern "C" fn forget_object(
    object: *mut libc::dl_phdr_info,
    _len: usize,
    _context: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a record that is valid and unchanged until this call returns.
    let Some(object) = (unsafe { object.as_ref() }) else {
        return 0;
    };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    let count = usize::from(object.dlpi_phnum);
    // SAFETY: the loader says that so many headers lie there; the object stays loaded while it is shown.
    let headers = unsafe { slice::from_raw_parts(object.dlpi_phdr, count) };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = object.dlpi_addr.wrapping_add(header.p_vaddr);
            forget_range(start, start.wrapping_add(header.p_memsz), header.p_align);
        }
    }
    0
}

/// Only whole units of a segment's alignment, which are whole pages, so that nothing of a neighbour is touched.
#[expect(unsafe_code, reason = "advice about memory is given by address")]
fn forget_range(start: u64, end: u64, align: u64) {
    let align = align.max(1);
    let Some(first) = start.checked_next_multiple_of(align) else {
        return;
    };
    let len = (end - end % align).saturating_sub(first);
    let (Ok(first), Ok(len)) = (usize::try_from(first), usize::try_from(len)) else {
        return;
    };
    let address = ptr::with_exposed_provenance_mut::<c_void>(first);
    // SAFETY: the range is of a segment that is mapped without the right to write, from a file: its pages hold what the file holds
    // and are read from it again. Relocations are written to other segments, which have that right.
    let result = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
    if result != 0 {
        tracing::debug!(
            error = %std::io::Error::last_os_error(),
            "a part of the program stays mapped"
        );
    }
}
