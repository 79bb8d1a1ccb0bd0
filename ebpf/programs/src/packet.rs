//! What a packet says of itself, as far as policy asks. Everything read here was written by others; a packet that does not parse is
//! none.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use tulle_abi::{Address, PROTOCOL_TCP, PROTOCOL_UDP};

/// The beginning of a TCP connection.
pub(crate) const KIND_BEGIN: u8 = 1;
/// Any other packet of a flow.
pub(crate) const KIND_PLAIN: u8 = 2;
/// An ICMP error about another packet.
pub(crate) const KIND_ERROR: u8 = 3;
/// What neighbours on a link tell each other (ICMPv6).
pub(crate) const KIND_NEIGHBOUR: u8 = 4;
/// A part of a packet whose first part said what it is.
pub(crate) const KIND_LATER_FRAGMENT: u8 = 5;

/// ICMP of IPv4.
pub(crate) const PROTOCOL_ICMP: u8 = 1;
/// ICMP of IPv6.
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

/// A packet.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// The message's type, of ICMP.
    pub(crate) icmp_type: u16,
    pub(crate) protocol: u8,
    /// One of the `KIND_` constants.
    pub(crate) kind: u8,
    /// What its fragments have in common, if it is one.
    pub(crate) fragment_id: u32,
    /// Where its payload begins, after the IP headers.
    pub(crate) payload: u32,
    /// 1: more fragments follow.
    pub(crate) is_first_fragment: u32,
}

/// Where the headers of IP end, and what they say.
struct Network {
    source: Address,
    destination: Address,
    protocol: u8,
    payload: u32,
    fragment_id: u32,
    fragment_offset: u16,
    has_more: bool,
}

/// Reads a packet whose IP header begins at `at`.
#[inline(always)]
pub(crate) fn parse(skb: *mut __sk_buff, at: u32, is_v4: bool) -> Option<Packet> {
    let network = if is_v4 {
        parse_v4(skb, at)?
    } else {
        parse_v6(skb, at)?
    };
    let mut packet = Packet {
        source: network.source,
        destination: network.destination,
        source_port: 0,
        destination_port: 0,
        icmp_type: 0,
        protocol: network.protocol,
        kind: KIND_PLAIN,
        fragment_id: network.fragment_id,
        payload: network.payload,
        is_first_fragment: u32::from(network.has_more),
    };
    if network.fragment_offset != 0 {
        packet.kind = KIND_LATER_FRAGMENT;
        packet.is_first_fragment = 0;
        return Some(packet);
    }
    match network.protocol {
        PROTOCOL_TCP => {
            let header: [u8; 14] = load(skb, network.payload)?;
            set_ports(&mut packet, [header[0], header[1], header[2], header[3]]);
            if header[13] & (TCP_SYN | TCP_ACK) == TCP_SYN {
                packet.kind = KIND_BEGIN;
            }
        }
        PROTOCOL_UDP | PROTOCOL_DCCP | PROTOCOL_SCTP | PROTOCOL_UDP_LITE => {
            set_ports(&mut packet, load(skb, network.payload)?);
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
            let header: [u8; 8] = load(skb, network.payload)?;
            set_icmp(
                &mut packet,
                header[0],
                u16::from_be_bytes([header[4], header[5]]),
            );
        }
        _ => {}
    }
    Some(packet)
}

#[inline(always)]
fn set_ports(packet: &mut Packet, ports: [u8; 4]) {
    packet.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    packet.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
}

/// Questions and their answers have an identifier in common, which stands in for the ports.
#[inline(always)]
fn set_icmp(packet: &mut Packet, icmp_type: u8, identifier: u16) {
    packet.icmp_type = u16::from(icmp_type);
    let is_v4 = packet.protocol == PROTOCOL_ICMP;
    let asks = if is_v4 {
        matches!(icmp_type, 0 | 8 | 13 | 14)
    } else {
        matches!(icmp_type, 128 | 129)
    };
    let is_error = if is_v4 {
        matches!(icmp_type, 3 | 4 | 5 | 11 | 12)
    } else {
        icmp_type < 128
    };
    if asks {
        packet.source_port = identifier;
        packet.destination_port = identifier;
        // An answer is judged like its question.
        match icmp_type {
            0 => packet.icmp_type = 8,
            14 => packet.icmp_type = 13,
            129 => packet.icmp_type = 128,
            _ => {}
        }
    } else if is_error {
        packet.kind = KIND_ERROR;
    } else if !is_v4 && matches!(icmp_type, 130..=137 | 143) {
        packet.kind = KIND_NEIGHBOUR;
    }
}

#[inline(always)]
fn parse_v4(skb: *mut __sk_buff, at: u32) -> Option<Network> {
    let header: [u32; 5] = load(skb, at)?;
    let first: [u8; 4] = header[0].to_ne_bytes();
    let third: [u8; 4] = header[2].to_ne_bytes();
    let second: [u8; 4] = header[1].to_ne_bytes();
    let header_len = u32::from(first[0] & 0x0f) * 4;
    if first[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let fragment = u16::from_be_bytes([second[2], second[3]]);
    let is_fragment = fragment & (V4_MORE | V4_OFFSET) != 0;
    Some(Network {
        source: Address::from_v4_word(header[3]),
        destination: Address::from_v4_word(header[4]),
        protocol: third[1],
        payload: at + header_len,
        fragment_id: if is_fragment {
            u32::from(u16::from_be_bytes([second[0], second[1]]))
        } else {
            0
        },
        fragment_offset: fragment & V4_OFFSET,
        has_more: fragment & V4_MORE != 0,
    })
}

/// Extension headers are followed as far as anybody uses them.
#[inline(always)]
fn parse_v6(skb: *mut __sk_buff, at: u32) -> Option<Network> {
    let header: [u32; 10] = load(skb, at)?;
    let first: [u8; 4] = header[0].to_ne_bytes();
    let second: [u8; 4] = header[1].to_ne_bytes();
    if first[0] >> 4 != 6 {
        return None;
    }
    let mut network = Network {
        source: Address {
            words: [header[2], header[3], header[4], header[5]],
        },
        destination: Address {
            words: [header[6], header[7], header[8], header[9]],
        },
        protocol: second[2],
        payload: at + 40,
        fragment_id: 0,
        fragment_offset: 0,
        has_more: false,
    };
    for _ in 0..V6_HEADERS_MAX {
        match network.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION => {
                let extension: [u8; 2] = load(skb, network.payload)?;
                let len = u32::from(extension[1]);
                network.payload += if network.protocol == AUTHENTICATION {
                    (len + 2) * 4
                } else {
                    (len + 1) * 8
                };
                network.protocol = extension[0];
            }
            FRAGMENT => {
                let extension: [u8; 8] = load(skb, network.payload)?;
                let offset = u16::from_be_bytes([extension[2], extension[3]]);
                network.fragment_offset = offset & V6_OFFSET;
                network.has_more = offset & V6_MORE != 0;
                network.fragment_id =
                    u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                network.payload += 8;
                network.protocol = extension[0];
                if network.fragment_offset != 0 {
                    return Some(network);
                }
            }
            _ => return Some(network),
        }
    }
    None
}

#[inline(always)]
fn load<T>(skb: *mut __sk_buff, at: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let status = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            at,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        )
    };
    (status == 0).then(|| unsafe { value.assume_init() })
}

const PROTOCOL_DCCP: u8 = 33;
const PROTOCOL_SCTP: u8 = 132;
const PROTOCOL_UDP_LITE: u8 = 136;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
/// More fragments follow.
const V4_MORE: u16 = 0x2000;
const V4_OFFSET: u16 = 0x1fff;
const V6_MORE: u16 = 1;
const V6_OFFSET: u16 = 0xfff8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// Each kind once, and destination options twice (RFC 8200, section 4.1).
const V6_HEADERS_MAX: u32 = 6;
