//! What only the machine's owner can provide: root, a recent kernel, BTF, cgroup v2.

use std::{fs, path::Path};

/// The oldest kernel on which the datapath's programs load.
const KERNEL_MIN: (u32, u32) = (5, 15);

/// Capabilities without which root cannot set up the lab, by their number in `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// One sentence per missing thing, each with what mends it.
pub(super) fn missing() -> Vec<String> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    [
        missing_root(rustix::process::geteuid().is_root()),
        missing_capabilities(&file("/proc/self/status")),
        missing_kernel(&file("/proc/sys/kernel/osrelease")),
        missing_btf(Path::new("/sys/kernel/btf/vmlinux")),
        missing_cgroup2(&file("/proc/mounts")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn missing_root(is_root: bool) -> Option<String> {
    (!is_root).then(|| {
        "network namespaces and eBPF need root: run `sudo -E env PATH=\"$PATH\" cargo xtask …`"
            .to_owned()
    })
}

fn missing_capabilities(status: &str) -> Option<String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())?;
    let lacking: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| effective & (1 << number) == 0)
        .map(|(_, name)| *name)
        .collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "this process lacks {}: run on the host, or in a container started with `docker run --privileged`",
            lacking.join(", ")
        )
    })
}

fn missing_kernel(release: &str) -> Option<String> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let (major, minor) = KERNEL_MIN;
    (version < KERNEL_MIN).then(|| {
        format!(
            "kernel {} is older than {major}.{minor}: run `apt-get install linux-image-amd64` and reboot",
            release.trim()
        )
    })
}

fn missing_btf(path: &Path) -> Option<String> {
    (!path.exists()).then(|| {
        format!(
            "the kernel has no BTF ({} is absent): boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, such as `apt-get install linux-image-amd64`",
            path.display()
        )
    })
}

fn missing_cgroup2(mounts: &str) -> Option<String> {
    let mounted = mounts
        .lines()
        .any(|mount| mount.split(' ').nth(2) == Some("cgroup2"));
    (!mounted).then(|| {
        "no cgroup v2 hierarchy is mounted: run `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`".to_owned()
    })
}

#[cfg(test)]
mod tests;
