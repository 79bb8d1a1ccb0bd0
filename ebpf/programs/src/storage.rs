//! Values that belong to a socket and go when the kernel frees it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type, bpf_sock},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
};

/// A socket-storage map, in the form that loaders recognise. aya's own serves only one kind of program and no flags.
#[repr(C)]
pub(crate) struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// Only the loader gives the fields a meaning; the kernel guards what the helpers touch.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T: Copy, const FLAGS: usize> SocketStorage<T, FLAGS> {
    pub(crate) const fn new() -> Self {
        SocketStorage {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The socket's value.
    #[inline(always)]
    pub(crate) fn of(&self, sk: *mut bpf_sock) -> Option<&T> {
        if sk.is_null() {
            return None;
        }
        let held = unsafe { bpf_sk_storage_get(self.map(), sk.cast(), core::ptr::null_mut(), 0) };
        unsafe { held.cast::<T>().as_ref() }
    }

    /// The socket's value, to be changed.
    #[inline(always)]
    pub(crate) fn of_mut(&self, sk: *mut bpf_sock) -> Option<&mut T> {
        if sk.is_null() {
            return None;
        }
        let held = unsafe { bpf_sk_storage_get(self.map(), sk.cast(), core::ptr::null_mut(), 0) };
        unsafe { held.cast::<T>().as_mut() }
    }

    /// Gives the socket a value, instead of the one it may have. False when the kernel has no memory for it.
    #[inline(always)]
    pub(crate) fn set(&self, sk: *mut bpf_sock, mut value: T) -> bool {
        if sk.is_null() {
            return false;
        }
        let held = unsafe {
            bpf_sk_storage_get(
                self.map(),
                sk.cast(),
                (&raw mut value).cast(),
                u64::from(BPF_SK_STORAGE_GET_F_CREATE),
            )
        }
        .cast::<T>();
        if held.is_null() {
            return false;
        }
        unsafe { *held = value };
        true
    }

    /// Takes the socket's value away.
    #[inline(always)]
    pub(crate) fn clear(&self, sk: *mut bpf_sock) {
        if !sk.is_null() {
            // It has none: as wanted.
            let _ = unsafe { bpf_sk_storage_delete(self.map(), sk.cast()) };
        }
    }

    #[inline(always)]
    fn map(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}
