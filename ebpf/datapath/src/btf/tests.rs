use super::{Btf, FindOffsetError, find_offsets, read_kernel_btf};

/// A BTF with `struct outer { int first; union { int inner; }; struct outer2 deep; }` and `typedef` of the inner struct.
fn sample() -> Vec<u8> {
    let strings = b"\0outer\0first\0inner\0deep\0named\0leaf\0int\0";
    let at = |name: &str| -> u32 {
        let needle = [&[0], name.as_bytes(), &[0]].concat();
        let found = strings
            .windows(needle.len())
            .position(|window| window == needle);
        u32::try_from(found.unwrap() + 1).unwrap()
    };
    let kind = |kind: u32, len: u32| kind << 24 | len;
    let types: Vec<u32> = vec![
        // 1: int
        at("int"),
        kind(1, 0),
        4,
        32,
        // 2: unnamed union { int inner; }
        0,
        kind(5, 1),
        4,
        at("inner"),
        1,
        0,
        // 3: struct named { int; int leaf; }
        at("named"),
        kind(4, 1),
        8,
        at("leaf"),
        1,
        32,
        // 4: typedef named
        at("named"),
        kind(8, 0),
        3,
        // 5: struct outer
        at("outer"),
        kind(4, 3),
        16,
        at("first"),
        1,
        0,
        0,
        2,
        32,
        at("deep"),
        4,
        64,
    ];
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_ne_bytes();
    let mut btf = 0xeb9f_u16.to_ne_bytes().to_vec();
    btf.extend([1, 0]);
    btf.extend(24u32.to_ne_bytes());
    btf.extend(0u32.to_ne_bytes());
    btf.extend(len(&types));
    btf.extend(len(&types));
    btf.extend(len(strings));
    btf.extend(types);
    btf.extend(strings);
    btf
}

fn check(path: &[&str], expected: Result<u32, FindOffsetError>) {
    let bytes = sample();
    assert_eq!(Btf::parse(&bytes).unwrap().offset("outer", path), expected);
}

#[test]
fn members_are_found_directly_through_unnamed_unions_and_through_aliases() {
    check(&["first"], Ok(0));
    check(&["inner"], Ok(4));
    check(&["deep", "leaf"], Ok(12));
    check(
        &["missing"],
        Err(FindOffsetError::Absent("outer.missing".to_owned())),
    );
}

#[test]
fn cut_or_changed_bytes_never_panic() {
    let bytes = sample();
    for cut in 0..bytes.len() {
        if let Ok(btf) = Btf::parse(&bytes[..cut]) {
            let _offset = btf.offset("outer", &["deep", "leaf"]);
        }
    }
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 0xff;
        if let Ok(btf) = Btf::parse(&changed) {
            let _offset = btf.offset("outer", &["deep", "leaf"]);
        }
    }
}

#[test]
fn the_running_kernel_has_every_field() {
    let btf = read_kernel_btf()
        .expect("/sys/kernel/btf/vmlinux must be readable: the tests need a kernel with BTF");
    let offsets = find_offsets(&btf).unwrap();
    assert!(
        offsets.snd_una > offsets.socket,
        "tcp_sock begins with the whole of sock"
    );
    assert_ne!(offsets.rcv_nxt, offsets.copied_seq);
}
