use super::{Protocol, ServiceAddress};

#[test]
fn addresses_are_written_with_their_protocol() {
    let address = |socket: &str, protocol| ServiceAddress {
        socket: socket.parse().unwrap(),
        protocol,
    };
    assert_eq!(
        address("10.0.0.1:53", Protocol::Udp).to_string(),
        "10.0.0.1:53/UDP"
    );
    assert_eq!(
        address("[fd00::1]:80", Protocol::Tcp).to_string(),
        "[fd00::1]:80/TCP"
    );
}

/// The kernel compares these numbers with what is in packets.
#[test]
fn protocols_have_their_iana_numbers() {
    assert_eq!((Protocol::Tcp.number(), Protocol::Udp.number()), (6, 17));
}

#[test]
fn protocols_are_stored_as_kubernetes_writes_them() {
    for (protocol, text) in [(Protocol::Tcp, r#""TCP""#), (Protocol::Udp, r#""UDP""#)] {
        assert_eq!(serde_json::to_string(&protocol).unwrap(), text);
        assert_eq!(serde_json::from_str::<Protocol>(text).unwrap(), protocol);
    }
}
