use super::*;

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::of(&AddressRange {
        address: address.parse().unwrap(),
        prefix_len: len.parse().unwrap(),
    })
}

#[test]
fn a_block_is_one_whatever_stands_behind_its_prefix() {
    assert_eq!(prefix("10.1.2.3/8"), prefix("10.0.0.0/8"));
    assert_eq!(prefix("fd00::1/64"), prefix("fd00::/64"));
    assert_eq!(prefix("10.1.2.3/0"), Prefix::WORLD[0]);
    assert_eq!(prefix("10.1.2.3/32").range().prefix_len, 32);
    assert_eq!(prefix("fd00::1/128").ends(), {
        let address = "fd00::1".parse().unwrap();
        (address, address)
    });
    assert_eq!(
        prefix("10.1.0.0/16").ends(),
        ("10.1.0.0".parse().unwrap(), "10.1.255.255".parse().unwrap())
    );
}

#[test]
fn families_never_meet() {
    assert!(prefix("0.0.0.0/0").covers(prefix("10.0.0.0/8")));
    assert!(!prefix("0.0.0.0/0").covers(prefix("::/0")));
    assert!(!prefix("10.0.0.0/8").covers(prefix("0.0.0.0/0")));
    assert!(prefix("10.0.0.0/8").covers(prefix("10.0.0.0/8")));
    assert!(!prefix("10.0.0.0/8").covers(prefix("11.0.0.0/16")));
}

#[test]
fn the_longest_block_counts_until_it_is_gone() {
    let mut table = PrefixTable::default();
    for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"] {
        table.insert(prefix(text), text);
    }
    let address = Prefix::host("10.1.2.3".parse().unwrap());
    assert_eq!(table.longest(address).unwrap().1, &"10.1.2.0/24");
    table.remove(prefix("10.1.2.0/24"));
    assert_eq!(table.longest(address).unwrap().1, &"10.1.0.0/16");
    let mapped = Prefix::host("::ffff:192.0.2.1".parse().unwrap());
    assert_eq!(table.longest(mapped).unwrap().1, &"0.0.0.0/0");
    assert!(
        table
            .longest(Prefix::host("::1".parse().unwrap()))
            .is_none()
    );
}
