use std::net::IpAddr;

use proptest::prelude::*;

use super::{AddressRange, Authorization, AuthorizationMatch};

fn check(block: &str, ip: &str, inside: bool) {
    let (address, len) = block.split_once('/').unwrap();
    let range = AddressRange {
        address: address.parse().unwrap(),
        prefix_len: len.parse().unwrap(),
    };
    assert_eq!(
        range.contains(ip.parse().unwrap()),
        inside,
        "{ip} in {block}"
    );
}

#[test]
fn blocks_end_where_their_prefix_says() {
    for (block, ip, inside) in [
        ("10.0.0.0/8", "10.0.0.0", true),
        ("10.0.0.0/8", "10.255.255.255", true),
        ("10.0.0.0/8", "9.255.255.255", false),
        ("10.0.0.0/8", "11.0.0.0", false),
        // Bits beyond the prefix do not count.
        ("10.1.2.3/8", "10.9.9.9", true),
        ("10.0.0.1/32", "10.0.0.1", true),
        ("10.0.0.1/32", "10.0.0.0", false),
        ("0.0.0.0/0", "255.255.255.255", true),
        ("0.0.0.0/0", "::", false),
        ("fd00::/8", "fdff:ffff::1", true),
        ("fd00::/8", "fe00::", false),
        ("fd00::1/128", "fd00::1", true),
        ("fd00::1/128", "fd00::2", false),
        ("::/0", "ffff::", true),
        ("::/0", "1.2.3.4", false),
        // Longer than the address: as long as it.
        ("10.0.0.1/255", "10.0.0.1", true),
        ("10.0.0.1/255", "10.0.0.0", false),
    ] {
        check(block, ip, inside);
    }
}

#[test]
fn stored_policies_may_leave_empty_fields_out() {
    let stored = r#"{"name":"p","namespace":"n","scope":"Global","action":"Deny","rules":[{"clauses":[{"matches":[{}]}]}]}"#;
    let policy: Authorization = serde_json::from_str(stored).unwrap();
    assert!(!policy.dry_run);
    assert_eq!(
        policy.rules[0].clauses[0].matches,
        [AuthorizationMatch::default()]
    );
    assert_eq!(policy.key().to_string(), "n/p");
}

proptest! {
    #[test]
    fn a_block_holds_its_own_address(address in any::<IpAddr>(), prefix_len in any::<u8>()) {
        let range = AddressRange { address, prefix_len };
        prop_assert!(range.contains(address));
    }

    /// A longer prefix holds nothing that a shorter one of the same address does not.
    #[test]
    fn longer_prefixes_hold_less(address in any::<u32>(), other in any::<u32>(), len in 1..=32u8) {
        let holds = |prefix_len| {
            AddressRange { address: address.to_be_bytes().into(), prefix_len }.contains(other.to_be_bytes().into())
        };
        prop_assert!(!holds(len) || holds(len - 1));
    }
}
