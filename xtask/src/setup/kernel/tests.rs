use super::*;

fn check(found: Option<String>, expected: Option<&str>) {
    match (found, expected) {
        (None, None) => {}
        (Some(sentence), Some(part)) => assert!(sentence.contains(part), "{sentence}"),
        (found, expected) => panic!("found {found:?}, expected {expected:?}"),
    }
}

#[test]
fn kernel_version_is_compared_by_number() {
    check(missing_kernel("6.18.44-fc\n"), None);
    check(missing_kernel("5.15.0-1-amd64"), None);
    check(
        missing_kernel("5.4.0-generic"),
        Some("kernel 5.4.0-generic is older than 5.15"),
    );
    check(missing_kernel("10.0"), None);
}

#[test]
fn cgroup_v2_counts_beside_v1() {
    check(
        missing_cgroup2("cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"),
        None,
    );
    check(
        missing_cgroup2("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"),
        Some("mount -t cgroup2"),
    );
    check(missing_cgroup2(""), Some("mount -t cgroup2"));
}

#[test]
fn each_missing_capability_is_named() {
    check(
        missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"),
        None,
    );
    check(
        missing_capabilities("CapEff:\t0000000000001000\n"),
        Some("CAP_SYS_ADMIN, CAP_BPF"),
    );
}

#[test]
fn root_and_btf_are_asked_for() {
    check(missing_root(true), None);
    check(missing_root(false), Some("sudo"));
    check(
        missing_btf(Path::new("/proc/self/no-such-file")),
        Some("CONFIG_DEBUG_INFO_BTF"),
    );
}
