//! Command lines.

use super::*;

const GOOD: &str = "--cluster koornacht --cluster-id 1 --trust-domain koornacht.tulle --manifests m --ca-dir ca --node-tokens t";
const ETCD: &str = "--store etcd --etcd https://10.0.0.1:2379,https://etcd.example:2379 --etcd-ca a --etcd-cert b --etcd-key c";

fn parse(line: &str) -> Result<Command, ConfigError> {
    let words = ["xds-server"].into_iter().chain(line.split_whitespace());
    Command::try_from(RawConfig::try_parse_from(words).unwrap())
}

fn serve(line: &str) -> Config {
    match parse(line).unwrap() {
        Command::Serve(config) => *config,
        other => panic!("{other:?}"),
    }
}

/// The flags that are found at fault.
fn faults(line: &str) -> Vec<&'static str> {
    parse(line).unwrap_err().0.iter().map(|f| f.flag).collect()
}

#[test]
fn defaults_are_what_the_manual_says() {
    let config = serve(GOOD);
    assert_eq!(config.listen, "0.0.0.0:15012".parse().unwrap());
    assert_eq!(config.admin, "127.0.0.1:15014".parse().unwrap());
    assert_eq!(config.store, StoreConfig::Memory);
    assert_eq!((config.remotes, config.svid_ttl), (None, SVID_TTL_DEFAULT));
    assert_eq!(config.authority.given, None);
    assert!(config.namespaces_global);
}

#[test]
fn namespaces_can_be_closed_by_default() {
    let config = serve(&format!("{GOOD} --default-global-namespace false"));
    assert!(!config.namespaces_global);
}

#[test]
fn etcd_takes_several_endpoints() {
    let config = serve(&format!("{GOOD} {ETCD} --remotes r --svid-ttl 30m"));
    let StoreConfig::Etcd(etcd) = config.store else {
        panic!("memory")
    };
    assert_eq!(
        etcd.endpoints,
        ["https://10.0.0.1:2379", "https://etcd.example:2379"]
    );
    assert_eq!(config.svid_ttl, Duration::from_secs(1800));
    assert!(!config.publish_cilium);
    assert!(serve(&format!("{GOOD} {ETCD} --publish-also cilium")).publish_cilium);
}

#[test]
fn all_faults_are_told_at_once() {
    assert_eq!(
        faults(""),
        [
            "--cluster",
            "--cluster-id",
            "--trust-domain",
            "--manifests",
            "--ca-dir",
            "--node-tokens"
        ]
    );
    assert_eq!(
        faults(&format!(
            "{} --listen x --admin 1.2.3.4 --store disk --svid-ttl 1d --ca-cert c",
            GOOD.replace("koornacht ", "A_ ")
                .replace("-id 1", "-id 512")
        )),
        [
            "--cluster",
            "--cluster-id",
            "--listen",
            "--admin",
            "--ca-key",
            "--store",
            "--svid-ttl"
        ]
    );
}

#[test]
fn every_rule_has_its_fault() {
    let check =
        |more: &str, flags: &[&str]| assert_eq!(faults(&format!("{GOOD} {more}")), flags, "{more}");
    check(
        "--store etcd",
        &["--etcd", "--etcd-ca", "--etcd-cert", "--etcd-key"],
    );
    check(&ETCD.replace("https://10", "http://10"), &["--etcd"]);
    check(
        &ETCD.replace("10.0.0.1:2379,", "10.0.0.1:2379/path,"),
        &["--etcd"],
    );
    check("--remotes r", &["--remotes"]);
    check("--ca-key k", &["--ca-cert"]);
    check("--publish-also cilium", &["--publish-also"]);
    check(
        &format!("{ETCD} --publish-also consul"),
        &["--publish-also"],
    );
    for bad in [
        "9s",
        "0",
        "h",
        "-1h",
        "999999999999h",
        "18446744073709551615h",
        "\u{221e}",
    ] {
        check(&format!("--svid-ttl={bad}"), &["--svid-ttl"]);
    }
    let bad_id = GOOD.replace("-id 1", "-id one");
    assert_eq!(faults(&bad_id), ["--cluster-id"]);
}

#[test]
fn etcd_init_is_a_command() {
    let line = format!(
        "etcd-init --cluster tion {} --user me",
        ETCD.replace("--store etcd ", "")
    );
    let Command::EtcdInit(init) = parse(&line).unwrap() else {
        panic!("serve")
    };
    assert_eq!(
        (init.user.as_str(), init.remote_user.as_str()),
        ("me", "remote")
    );
    assert_eq!(
        faults("etcd-init --user x --remote-user x"),
        [
            "--cluster",
            "--etcd",
            "--etcd-ca",
            "--etcd-cert",
            "--etcd-key",
            "--remote-user"
        ]
    );
}
