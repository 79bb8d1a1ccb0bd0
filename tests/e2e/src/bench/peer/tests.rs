use super::{
    Peer,
    zds::{self, Pod},
};

#[test]
fn messages_to_a_ztunnel_are_those_of_its_protocol() {
    let pod = Pod {
        uid: "u".to_owned(),
        name: "n".repeat(130),
        namespace: "s".to_owned(),
        service_account: "a".to_owned(),
    };
    let mut info = vec![0x0a, 0x82, 0x01];
    info.extend([b'n'; 130]);
    info.extend([0x12, 1, b's', 0x1a, 1, b'a']);
    let mut add = vec![0x0a, 1, b'u', 0x12, 0x8b, 0x01];
    add.extend(&info);
    let mut expected = vec![0x0a, 0x91, 0x01];
    expected.extend(&add);
    assert_eq!(zds::add(&pod), expected);
    // The uid of a pod that goes has the number 2; as number 1 it would be ignored in silence.
    assert_eq!(zds::remove("u"), [0x12, 3, 0x12, 1, b'u']);
    assert_eq!(zds::snapshot_sent(), [0x1a, 0]);
}

#[test]
fn answers_of_a_ztunnel_are_read() {
    assert!(zds::check_hello(&[0x08, 0x01]).is_ok());
    assert!(zds::check_hello(&[0x08, 0x02]).is_err());
    assert_eq!(zds::complaint(&[0x0a, 0x00]).unwrap(), None);
    let complaint = zds::complaint(&[0x0a, 0x04, 0x0a, 0x02, b'n', b'o']).unwrap();
    assert_eq!(complaint.as_deref(), Some("no"));
    for broken in [
        &[][..],
        &[0x12, 0x00],
        &[0x0a],
        &[0x0a, 0x05, 0x0a],
        &[0x0a, 0x02, 0x12, 0x00],
        &[
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ],
    ] {
        assert!(zds::complaint(broken).is_err(), "{broken:02x?}");
    }
}

#[test]
fn a_peer_is_named_with_its_program() {
    let refusal = |text: &str| text.parse::<Peer>().unwrap_err().to_string();
    assert!(refusal("/bin/sh").contains("is not `ztunnel=PATH`"));
    assert!(refusal("envoy=/bin/sh").contains("there is no peer `envoy`"));
    assert!(refusal("ztunnel=/no/such/file").contains("/no/such/file is not there"));
    assert!(refusal("ztunnel=/etc/passwd").contains("is not an executable file"));
    assert!(refusal("ztunnel=/etc").contains("is not an executable file"));
    assert!("ztunnel=/bin/sh".parse::<Peer>().is_ok());
}
