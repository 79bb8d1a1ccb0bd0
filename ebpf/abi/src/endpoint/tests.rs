use core::net::{IpAddr, SocketAddr};

use super::{Address, Endpoint, LOOPBACK_V4, LOOPBACK_V6};

fn check(text: &str, v4: bool, loopback: bool) {
    let socket: SocketAddr = text.parse().unwrap();
    let endpoint = Endpoint::from(socket);
    assert_eq!(SocketAddr::from(endpoint), socket);
    assert_eq!(endpoint.address.is_v4(), v4, "{text}");
    assert_eq!(endpoint.address.is_loopback(), loopback, "{text}");
}

#[test]
fn both_families_keep_their_value_and_kind() {
    check("10.1.1.5:80", true, false);
    check("127.0.0.1:15001", true, true);
    check("127.255.255.254:1", true, true);
    check("128.0.0.1:1", true, false);
    check("0.0.0.0:1", true, true);
    check("[::1]:15001", false, true);
    check("[::2]:1", false, false);
    check("[::]:1", false, true);
    check("[fd00:20:1::10]:443", false, false);
}

#[test]
fn a_v4_mapped_v6_address_is_the_v4_address() {
    let mapped: IpAddr = "::ffff:10.1.1.5".parse().unwrap();
    let plain: IpAddr = "10.1.1.5".parse().unwrap();
    assert_eq!(Address::from(mapped), Address::from(plain));
    assert_eq!(IpAddr::from(Address::from(mapped)), plain);
}

#[test]
fn loopback_constants_are_what_they_say() {
    assert_eq!(
        IpAddr::from(LOOPBACK_V4),
        "127.0.0.1".parse::<IpAddr>().unwrap()
    );
    assert_eq!(IpAddr::from(LOOPBACK_V6), "::1".parse::<IpAddr>().unwrap());
}
