//! Reading and writing the context of the `cgroup/*` address hooks, and who runs them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::{
        bpf_get_socket_cookie, bpf_set_retval,
        generated::{bpf_get_current_cgroup_id, bpf_get_netns_cookie},
    },
    programs::SockAddrContext,
};
use tulle_abi::{Address, Endpoint, PROTOCOL_TCP, PROTOCOL_UDP, PodAddressKey, PodValue};

use crate::{
    maps::{POD_ADDRESSES, PODS},
    settings,
    words::words,
};

/// The answer that lets the call go on.
pub(crate) const GO_ON: i32 = 1;

/// The answer that fails the call; together with `bpf_set_retval` it says how.
pub(crate) const FAIL: i32 = 0;

/// Which of the two twins of a hook runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The address in the context, in the form of the maps.
#[inline(always)]
pub(crate) fn endpoint(ctx: &SockAddrContext, family: Family) -> Endpoint {
    let address = match family {
        Family::V4 => Address::from_v4_word(unsafe { (*ctx.sock_addr).user_ip4 }),
        Family::V6 => words(unsafe { &raw const (*ctx.sock_addr).user_ip6 }.cast()),
    };
    Endpoint::new(
        address,
        u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16),
    )
}

/// Writes an address into the context. For the v4 hooks it must be a v4 address.
#[inline(always)]
pub(crate) fn set_endpoint(ctx: &SockAddrContext, family: Family, to: &Endpoint) {
    let words = to.address.words;
    unsafe {
        match family {
            Family::V4 => (*ctx.sock_addr).user_ip4 = words[3],
            Family::V6 => {
                let ip = &raw mut (*ctx.sock_addr).user_ip6;
                // One word at a time: the verifier knows only aligned words of this field.
                core::ptr::write_volatile(ip.cast::<u32>(), words[0]);
                core::ptr::write_volatile(ip.cast::<u32>().add(1), words[1]);
                core::ptr::write_volatile(ip.cast::<u32>().add(2), words[2]);
                core::ptr::write_volatile(ip.cast::<u32>().add(3), words[3]);
            }
        }
        (*ctx.sock_addr).user_port = u32::from(to.port.to_be());
    }
}

/// The transport protocol, if it is one that the maps know.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    match unsafe { (*ctx.sock_addr).protocol } as u8 {
        PROTOCOL_TCP => Some(PROTOCOL_TCP),
        PROTOCOL_UDP => Some(PROTOCOL_UDP),
        _ => None,
    }
}

/// The captured pod that calls.
pub(crate) struct Client {
    /// Cookie of its network namespace.
    pub(crate) netns: u64,
    /// Hash of its own address.
    pub(crate) hash: u32,
    pub(crate) pod: &'static PodValue,
}

impl Client {
    /// Whether the pod itself has this address.
    #[inline(always)]
    pub(crate) fn owns(&self, address: &Address) -> bool {
        let [first, second] = &self.pod.addresses;
        if address == first || address == second {
            return true;
        }
        let key = PodAddressKey {
            netns: self.netns,
            address: *address,
        };
        self.pod.has_more != 0 && unsafe { POD_ADDRESSES.get(key) }.is_some()
    }

    /// The pod's own address of the family of another one.
    #[inline(always)]
    pub(crate) fn address_like(&self, other: &Address) -> Address {
        let [first, second] = &self.pod.addresses;
        if first.is_v4() == other.is_v4() {
            *first
        } else {
            *second
        }
    }
}

/// The pod of the calling socket if it is captured, and the caller is not the proxy itself.
#[inline(always)]
pub(crate) fn captured_client(ctx: &SockAddrContext) -> Option<Client> {
    if unsafe { bpf_get_current_cgroup_id() } == settings::proxy_cgroup() {
        return None;
    }
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let pod = unsafe { PODS.get(netns) }?;
    Some(Client {
        netns,
        hash: pod.client_hash,
        pod,
    })
}

/// The cookie of the calling socket.
#[inline(always)]
pub(crate) fn socket_cookie(ctx: &SockAddrContext) -> u64 {
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The port of the calling socket; zero while it has none.
#[inline(always)]
pub(crate) fn local_port(ctx: &SockAddrContext) -> u16 {
    unsafe { (*socket(ctx)).src_port as u16 }
}

/// The calling socket, as the storage maps want it.
#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// Fails the call with `errno`.
#[inline(always)]
pub(crate) fn fail_with(errno: i32) -> i32 {
    unsafe { bpf_set_retval(-errno) };
    FAIL
}
