//! Programs that know nothing of the mesh work in it unchanged, and see what they would see without it.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::{
    fast_paths::FastPath,
    promises::Promises,
    rig::{Rig, sum_of},
};
use tulle_lab::{Kind, ObjectKey};

const CLIENT_NODE: &str = "koornacht-worker";

#[test]
fn programs_work_unchanged() -> Result<()> {
    keeps_all_promises(&Rig::up("apps", &[])?)
}

#[test]
fn programs_work_without_lanes() -> Result<()> {
    FastPath::Lanes.without("aphbo", CLIENT_NODE, keeps_all_promises)
}

#[test]
fn programs_work_with_tls_on_one_node() -> Result<()> {
    FastPath::SameNode.without("aptls", CLIENT_NODE, keeps_all_promises)
}

fn keeps_all_promises(rig: &Rig) -> Result<()> {
    set_up(rig)?;
    let mut promises = Promises::default();
    for (promise, check) in PROMISES {
        promises.note(promise, check(rig));
    }
    promises.all_kept()
}

type Check = fn(&Rig) -> Result<()>;

/// All on one rig, since bringing one up takes longer than any of them.
const PROMISES: [(&str, Check); 12] = [
    (
        "a web server logs its client's own address",
        nginx_sees_the_client,
    ),
    ("wrk meets no error", wrk_meets_no_error),
    (
        "h2load meets no error, HTTP/1.1 and HTTP/2",
        h2load_meets_no_error,
    ),
    (
        "blocking sockets close by halves",
        blocking_sockets_close_by_halves,
    ),
    (
        "datagrams to a service are answered by the service",
        datagrams_are_answered,
    ),
    ("an IPv6 service works by TCP", ipv6_service_by_tcp),
    ("an IPv6 service works by UDP", ipv6_service_by_udp),
    ("an IPv6 socket reaches an IPv4 service", dual_stack_socket),
    (
        "a service without endpoints refuses at once",
        empty_service_refuses_at_once,
    ),
    ("a service is found by all its names", services_are_found),
    (
        "a headless service's pods are found",
        headless_pods_are_found,
    ),
    (
        "a name that does not exist is denied at once",
        absent_names_are_denied,
    ),
];

fn set_up(rig: &Rig) -> Result<()> {
    let lab = &rig.lab;
    lab.apply_text("koornacht", tulle_lab::KOORNACHT)?;
    lab.apply_text("tion", tulle_lab::TION)?;
    rig.pod(
        "koornacht",
        "koornacht-worker",
        "client",
        &["sleep", "100000"],
    )?;
    lab.apply_text("koornacht", SERVICES)?;
    rig.pod(
        "koornacht",
        "koornacht-worker2",
        "echo",
        &[PYTHON, "-c", SERVER],
    )?;
    for cluster in ["koornacht", "tion"] {
        lab.wait_ready(cluster, "rebel-base", READY)?;
        lab.annotate(cluster, "rebel-base", &["service.cilium.io/global=true"])?;
    }
    for pod in ["h2c", "member", "other-member"] {
        let key = ObjectKey::new(Kind::Pod, "default", pod);
        lab.wait_pod_ready("koornacht", &key, READY)?;
    }
    // What follows measures programs, not how fast a change travels.
    rig.wait_for("the other cluster serves rebel-base", READY, || {
        Ok(curl(rig, &["http://rebel-base/"])?.contains("Tion"))
    })?;
    let echo = service_address(rig, "echo")?;
    let echo6 = service_address(rig, "echo6")?;
    rig.wait_for("the echo services serve", READY, || {
        client(rig, &["halfclose", &echo, "9001", "1"])?;
        client(rig, &["halfclose", &echo6, "9001", "1"])?;
        client(rig, &["udp", &echo, "9000", "1"])?;
        client(rig, &["udp", &echo6, "9000", "1"]).map(|_| true)
    })
    .or_else(|error| {
        // Each has a check of its own, which says more.
        eprintln!("{error:#}");
        Ok(())
    })
}

fn nginx_sees_the_client(rig: &Rig) -> Result<()> {
    let clients = client_addresses(rig)?;
    let mut logs = Vec::new();
    for cluster in ["koornacht", "tion"] {
        for pod in rig.lab.pods(cluster, "rebel-base")? {
            logs.push((cluster, format!("pod/{}", pod.key.name)));
        }
    }
    // Two per cluster: one on the client's node, one on the other node, two in the other cluster.
    ensure!(logs.len() == 4, "{logs:?}");
    for (cluster, pod) in &logs {
        for (v6, client) in [false, true].into_iter().zip(clients) {
            let url = match rig.address(cluster, pod, v6)? {
                IpAddr::V4(address) => format!("http://{address}/?direct"),
                IpAddr::V6(address) => format!("http://[{address}]/?direct6"),
            };
            curl(rig, &[&url])?;
            let mark = if v6 { "?direct6 " } else { "?direct " };
            wait_for_lines(rig, &[(*cluster, pod.clone())], mark, 1, client)?;
        }
    }
    for _ in 0..20 {
        curl(rig, &["http://rebel-base/?service"])?;
    }
    wait_for_lines(rig, &logs, "?service ", 20, clients[0])
}

/// Waits for the lines of access logs that contain `mark`, and checks who they name.
fn wait_for_lines(
    rig: &Rig,
    logs: &[(&str, String)],
    mark: &str,
    count: usize,
    client: IpAddr,
) -> Result<()> {
    let mut lines = Vec::new();
    rig.wait_for(
        &format!("{count} lines with {mark} in {logs:?}"),
        READY,
        || {
            lines.clear();
            for (cluster, pod) in logs {
                let text = rig.run(cluster, pod, &["cat", "/var/log/nginx/access.log"])?;
                lines.extend(
                    text.lines()
                        .filter(|line| line.contains(mark))
                        .map(str::to_owned),
                );
            }
            Ok(lines.len() >= count)
        },
    )?;
    let expected = format!("{client} ");
    ensure!(
        lines.iter().all(|line| line.starts_with(&expected)),
        "expected {client} as the client:\n{}",
        lines.join("\n")
    );
    ensure!(
        lines.len() == count,
        "{} lines with {mark}, expected {count}",
        lines.len()
    );
    Ok(())
}

fn wrk_meets_no_error(rig: &Rig) -> Result<()> {
    let text = run(rig, &["wrk", "-t1", "-c16", "-d2s", "http://rebel-base/"])?;
    ensure!(
        !text.contains("Socket errors") && !text.contains("Non-2xx"),
        "{text}"
    );
    let line = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .context("no result")?;
    eprintln!("wrk: {}", line.trim());
    let requests: u64 = line
        .split_whitespace()
        .next()
        .context("no number")?
        .parse()?;
    ensure!(requests > 100, "{text}");
    Ok(())
}

fn h2load_meets_no_error(rig: &Rig) -> Result<()> {
    let h2c = rig.address("koornacht", "pod/h2c", false)?;
    let http1 = [
        "h2load",
        "--h1",
        "-n",
        "2000",
        "-c",
        "16",
        "http://rebel-base/",
    ];
    let url = format!("http://{h2c}:8081/");
    let http2 = ["h2load", "-n", "2000", "-c", "8", "-m", "10", &url];
    for command in [http1.as_slice(), &http2] {
        let text = run(rig, command)?;
        ensure!(
            text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{text}"
        );
        ensure!(text.contains("2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    }
    Ok(())
}

fn blocking_sockets_close_by_halves(rig: &Rig) -> Result<()> {
    let service = service_address(rig, "echo")?;
    client(rig, &["halfclose", &service, "9001", "200"])?;
    let pod = rig.address("koornacht", "pod/echo", false)?.to_string();
    client(rig, &["halfclose", &pod, "9001", "200"]).map(drop)
}

fn datagrams_are_answered(rig: &Rig) -> Result<()> {
    client(rig, &["udp", &service_address(rig, "echo")?, "9000", "200"]).map(drop)
}

fn ipv6_service_by_tcp(rig: &Rig) -> Result<()> {
    let service = service_address(rig, "echo6")?;
    ensure!(service.contains(':'), "{service} is not an IPv6 address");
    client(rig, &["halfclose", &service, "9001", "100"]).map(drop)
}

fn ipv6_service_by_udp(rig: &Rig) -> Result<()> {
    client(
        rig,
        &["udp", &service_address(rig, "echo6")?, "9000", "200"],
    )
    .map(drop)
}

fn dual_stack_socket(rig: &Rig) -> Result<()> {
    client(rig, &["dualstack", &service_address(rig, "echo")?, "9001"]).map(drop)
}

fn empty_service_refuses_at_once(rig: &Rig) -> Result<()> {
    for (name, program) in [("empty", "connect4"), ("empty6", "connect6")] {
        let address = service_address(rig, name)?;
        let labels = [
            format!("program=\"{program}\""),
            "reason=\"no_backend\"".to_owned(),
        ];
        let counted = || -> Result<u64> {
            let metrics = rig.metrics("koornacht-worker")?;
            Ok(sum_of(&metrics, "tulle_kernel_exits_total", &labels))
        };
        let first = counted()?;
        rig.wait_for(
            &format!("{program} counts no_backend for {address}"),
            READY,
            || {
                client(rig, &["refused", &address, "80"])?;
                Ok(counted()? > first)
            },
        )?;
        let before = counted()?;
        for _ in 0..5 {
            let text = client(rig, &["refused", &address, "80"])?;
            let (error, millis) = text.trim().split_once(' ').context("two numbers")?;
            ensure!(UNREACHABLE.contains(&error), "errno {error} for {address}");
            ensure!(millis.parse::<u64>()? < 1000, "{millis} ms for {address}");
        }
        let after = counted()?;
        ensure!(
            after >= before + 5,
            "{program} counted {before}, then {after}"
        );
    }
    Ok(())
}

fn services_are_found(rig: &Rig) -> Result<()> {
    let service = service_address(rig, "rebel-base")?;
    for name in [
        "rebel-base",
        "rebel-base.default",
        "rebel-base.default.svc",
        "rebel-base.default.svc.cluster.local",
        "rebel-base.default.svc.cluster.local.",
    ] {
        resolves(rig, name, "4", &BTreeSet::from([service.clone()]))?;
    }
    resolves(
        rig,
        "echo6",
        "6",
        &BTreeSet::from([service_address(rig, "echo6")?]),
    )?;
    let answer = client(
        rig,
        &[
            "query",
            "_tcp9001._tcp.echo.default.svc.cluster.local",
            "33",
        ],
    )?;
    let words: Vec<&str> = answer.split_whitespace().collect();
    ensure!(
        words.first() == Some(&"0") && words.get(2) == Some(&"9001"),
        "SRV of echo: {answer}"
    );
    Ok(())
}

fn headless_pods_are_found(rig: &Rig) -> Result<()> {
    let member = rig.address("koornacht", "pod/member", false)?.to_string();
    let other = rig
        .address("koornacht", "pod/other-member", false)?
        .to_string();
    resolves(rig, "crew", "4", &BTreeSet::from([member.clone(), other]))?;
    resolves(rig, "pilot.crew", "4", &BTreeSet::from([member.clone()]))?;
    resolves(
        rig,
        "pilot.crew.default.svc.cluster.local",
        "4",
        &BTreeSet::from([member]),
    )?;
    let answer = client(
        rig,
        &["query", "_talk._tcp.crew.default.svc.cluster.local", "33"],
    )?;
    let words: Vec<&str> = answer.split_whitespace().collect();
    ensure!(words.first() == Some(&"0"), "SRV of crew: {answer}");
    ensure!(
        words.get(2..) == Some(&["7070", "7070"]),
        "one SRV record per pod: {answer}"
    );
    Ok(())
}

fn absent_names_are_denied(rig: &Rig) -> Result<()> {
    for name in [
        "nobody.default.svc.cluster.local",
        "rebel-base.nowhere.svc.cluster.local",
    ] {
        let text = client(rig, &["resolve", name, "4"])?;
        let (millis, answer) = text.trim().split_once(' ').context("two words")?;
        ensure!(answer == "no-such-name", "{name}: {answer}");
        ensure!(millis.parse::<u64>()? < 1000, "{name}: {millis} ms");
        let text = client(rig, &["query", name, "1"])?;
        let mut words = text.split_whitespace();
        ensure!(
            words.next() == Some(NXDOMAIN),
            "{name}: response code in {text}"
        );
        let millis: u64 = words.next().context("two numbers")?.parse()?;
        ensure!(millis < 200, "{name}: {millis} ms");
    }
    Ok(())
}

/// Asks until the answer is the expected one: a change may still be under way.
fn resolves(rig: &Rig, name: &str, family: &str, expected: &BTreeSet<String>) -> Result<()> {
    rig.wait_for(&format!("{name} is {expected:?}"), READY, || {
        let text = client(rig, &["resolve", name, family])?;
        let found: BTreeSet<String> = text.split_whitespace().skip(1).map(str::to_owned).collect();
        ensure!(found == *expected, "found {found:?}");
        Ok(true)
    })
}

fn client_addresses(rig: &Rig) -> Result<[IpAddr; 2]> {
    Ok([
        rig.address("koornacht", "pod/client", false)?,
        rig.address("koornacht", "pod/client", true)?,
    ])
}

fn service_address(rig: &Rig, name: &str) -> Result<String> {
    let key = ObjectKey::new(Kind::Service, "default", name);
    let service = rig
        .lab
        .api("koornacht")?
        .get(&key)?
        .context("no such service")?;
    let address = service
        .value
        .pointer("/spec/clusterIP")
        .and_then(|value| value.as_str());
    Ok(address
        .with_context(|| format!("{name} has no address"))?
        .to_owned())
}

fn run(rig: &Rig, command: &[&str]) -> Result<String> {
    let limited = [&["timeout", "60"], command].concat();
    rig.run("koornacht", "pod/client", &limited)
}

fn curl(rig: &Rig, arguments: &[&str]) -> Result<String> {
    run(
        rig,
        &[
            &[
                "curl",
                "--fail",
                "--silent",
                "--show-error",
                "--max-time",
                "5",
            ],
            arguments,
        ]
        .concat(),
    )
}

fn client(rig: &Rig, arguments: &[&str]) -> Result<String> {
    run(rig, &[&[PYTHON, "-c", CLIENT], arguments].concat())
}

/// Debian's, whatever else a developer has in the path.
const PYTHON: &str = "/usr/bin/python3";
const CLIENT: &str = include_str!("applications/client.py");
const SERVER: &str = include_str!("applications/server.py");

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {name: echo}
  ports:
  - {name: tcp9001, port: 9001}
  - {name: udp9000, port: 9000, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: echo6}
spec:
  ipFamilies: [IPv6]
  selector: {name: echo}
  ports:
  - {name: tcp9001, port: 9001}
  - {name: udp9000, port: 9000, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  selector: {name: nobody}
  ports:
  - port: 80
---
apiVersion: v1
kind: Service
metadata: {name: empty6}
spec:
  ipFamilies: [IPv6]
  selector: {name: nobody}
  ports:
  - port: 80
---
apiVersion: v1
kind: Service
metadata: {name: crew}
spec:
  clusterIP: None
  selector: {role: crew}
  ports:
  - {name: talk, port: 7070}
---
apiVersion: v1
kind: Pod
metadata: {name: h2c}
spec:
  nodeName: koornacht-worker2
  containers:
  - name: main
    # For its file system of its own.
    image: docker.io/nginx:1.15.8
    command: [bash, -c]
    args:
    - >-
      echo 'daemon off; pid /run/h2c.pid; error_log stderr; events {}
      http { access_log off; server { listen 8081 http2; location / { return 200 ok; } } }' > /tmp/h2c.conf;
      exec nginx -c /tmp/h2c.conf
---
apiVersion: v1
kind: Pod
metadata: {name: member, labels: {role: crew}}
spec:
  nodeName: koornacht-worker
  hostname: pilot
  subdomain: crew
  containers:
  - {name: main, image: "tulle.test/host:1", command: [sleep, "100000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: other-member, labels: {role: crew}}
spec:
  nodeName: koornacht-worker2
  containers:
  - {name: main, image: "tulle.test/host:1", command: [sleep, "100000"]}
"#;

/// `EHOSTUNREACH` and `ECONNREFUSED`, as Python prints them.
const UNREACHABLE: [&str; 2] = ["113", "111"];
/// The response code of a name that does not exist.
const NXDOMAIN: &str = "3";
/// How long a change may take to reach every node.
const READY: Duration = Duration::from_secs(30);
