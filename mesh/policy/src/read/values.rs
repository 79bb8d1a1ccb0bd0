//! Addresses and blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tulle_model::AddressRange;

use super::{Node, ReadPolicyError};

/// A block with a length, such as `10.0.0.0/8`.
pub(crate) fn read_block(node: &Node<'_>) -> Result<AddressRange, ReadPolicyError> {
    node.text()?
        .split_once('/')
        .and_then(|(address, len)| parse_block(address, Some(len)))
        .ok_or_else(|| node.refuse("a block of addresses such as 10.0.0.0/8"))
}

/// The same, or one address.
pub(crate) fn read_address_or_block(node: &Node<'_>) -> Result<AddressRange, ReadPolicyError> {
    let text = node.text()?;
    let (address, len) = text
        .split_once('/')
        .map_or((text, None), |(address, len)| (address, Some(len)));
    parse_block(address, len)
        .ok_or_else(|| node.refuse("an address or a block of addresses such as 10.0.0.0/8"))
}

/// IPv4 written as IPv6 is refused: it would be compared with addresses of the other family.
fn parse_block(address: &str, len: Option<&str>) -> Option<AddressRange> {
    let address: IpAddr = address.parse().ok()?;
    if address.to_canonical() != address {
        return None;
    }
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix_len = match len {
        None => bits,
        Some(len) => {
            let digits = len.bytes().all(|byte| byte.is_ascii_digit());
            let canonical = len == "0" || !len.starts_with('0');
            len.parse()
                .ok()
                .filter(|len| digits && canonical && *len <= bits)?
        }
    };
    Some(masked(AddressRange {
        address,
        prefix_len,
    }))
}

/// The same block, named by its first address.
fn masked(range: AddressRange) -> AddressRange {
    let address = match range.address {
        IpAddr::V4(address) => {
            let shift = 32u32.saturating_sub(u32::from(range.prefix_len));
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let shift = 128u32.saturating_sub(u32::from(range.prefix_len));
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    };
    AddressRange {
        address,
        prefix_len: range.prefix_len,
    }
}
