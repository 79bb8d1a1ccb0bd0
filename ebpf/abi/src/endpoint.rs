//! Addresses and ports as map keys hold them: one form for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address in 16 bytes; IPv4 in its v4-mapped form (`::ffff:a.b.c.d`).
///
/// The words hold the bytes in network order as they lie in memory, which is how the kernel's hook contexts carry them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Address {
    /// The four words in memory order.
    pub words: [u32; 4],
}

const _: () = assert!(size_of::<Address>() == 16);

/// 127.0.0.1 in v4-mapped form.
pub const LOOPBACK_V4: Address = Address::from_v4_word(u32::from_ne_bytes([127, 0, 0, 1]));
/// `::1`.
pub const LOOPBACK_V6: Address = Address {
    words: [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])],
};

impl Address {
    /// The v4-mapped form of the word that the kernel's contexts call `user_ip4`, `local_ip4` and so on.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Address {
            words: [0, 0, V4_MAPPED_WORD, word],
        }
    }

    /// Whether this is an IPv4 address in v4-mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == V4_MAPPED_WORD
    }

    /// Whether packets to this address never leave the namespace: 127.0.0.0/8, `::1`, and the unspecified addresses,
    /// which `connect` takes for loopback.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            self.words[3].to_ne_bytes()[0] == 127 || self.words[3] == 0
        } else {
            self.words[0] == 0
                && self.words[1] == 0
                && self.words[2] == 0
                && (self.words[3] == LOOPBACK_V6.words[3] || self.words[3] == 0)
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        zerocopy::transmute!(octets)
    }
}

impl From<Address> for IpAddr {
    /// A v4-mapped address comes back as IPv4.
    fn from(address: Address) -> Self {
        let octets: [u8; 16] = zerocopy::transmute!(address);
        if address.is_v4() {
            let [.., a, b, c, d] = octets;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    }
}

/// An address and a port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Endpoint>() == 20);

impl Endpoint {
    /// An endpoint of its two parts.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Endpoint {
            address,
            port,
            reserved: 0,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(socket: SocketAddr) -> Self {
        Endpoint::new(socket.ip().into(), socket.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        SocketAddr::new(endpoint.address.into(), endpoint.port)
    }
}

/// The third word of every v4-mapped address.
const V4_MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

#[cfg(test)]
mod tests;
