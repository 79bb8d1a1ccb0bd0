//! The rules that lead a pod's connections to the ztunnel's sockets in the pod's namespace: those of its own CNI plugin
//! (`scripts/ztunnel-redirect-inpod.sh` of its repository), told to nftables instead of iptables. The loads speak IPv4, and so do they.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{bench::stage::run_inside, rig::streams};

/// Whether the machine has what the rules need.
pub(super) fn check() -> Result<()> {
    let output = Command::new("nft").arg("--version").output();
    let output = output
        .context("the program `nft` is missing, which leads the pods' connections to a ztunnel; `apt-get install nftables` mends it")?;
    ensure!(
        output.status.success(),
        "nft --version: {}",
        streams(&output)
    );
    Ok(())
}

/// Sets the rules in a pod's namespace; it is no fault if they are there.
pub(super) fn capture(namespace: &Path) -> Result<()> {
    feed_nft(namespace, RULES)?;
    run_inside(namespace, &ROUTE)?;
    // `ip rule add` would add a second one.
    run_inside(namespace, &["sh", "-c", RULE])
}

fn feed_nft(namespace: &Path, rules: &str) -> Result<()> {
    let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
    let output = thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<std::process::Output> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let mut child = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("nft")?;
            let mut stdin = child.stdin.take().context("nft takes no input")?;
            stdin.write_all(rules.as_bytes()).context("nft")?;
            drop(stdin);
            child.wait_with_output().context("nft")
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("nft broke off")))
    })?;
    ensure!(
        output.status.success(),
        "nft in {}: {}",
        namespace.display(),
        streams(&output)
    );
    Ok(())
}

/// Marks: 0x539 is on all that the ztunnel sends, 0x111 on connections that it opened with the client's address.
const RULES: &str = "\
table ip ztunnel {}
delete table ip ztunnel
table ip ztunnel {
  chain mark_in {
    type filter hook prerouting priority mangle;
    meta mark & 0xfff == 0x539 ct mark set 0x111
  }
  chain mark_out {
    type route hook output priority mangle;
    ct mark & 0xfff == 0x111 meta mark set ct mark
  }
  chain redirect_out {
    type nat hook output priority -100;
    ip daddr 169.254.7.127 meta l4proto tcp accept
    oifname != \"lo\" meta mark & 0xfff != 0x539 udp dport 53 redirect to :15053
    ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 tcp dport 53 redirect to :15053
    meta l4proto tcp meta mark & 0xfff == 0x111 accept
    ip daddr != 127.0.0.1 oifname \"lo\" accept
    ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
  }
  chain redirect_in {
    type nat hook prerouting priority dstnat;
    ip saddr 169.254.7.127 meta l4proto tcp accept
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }
}
";
const ROUTE: [&str; 9] = [
    "ip",
    "route",
    "replace",
    "local",
    "0.0.0.0/0",
    "dev",
    "lo",
    "table",
    "100",
];
const RULE: &str = "ip rule show | grep -q 'fwmark 0x111/0xfff' || ip rule add fwmark 0x111/0xfff pref 32764 lookup 100";
