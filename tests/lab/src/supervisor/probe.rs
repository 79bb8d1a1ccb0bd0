//! Asks a container whether it is well: HTTP, a command, or a TCP connection. When to ask is
//! decided by the container's keeper.

use std::{
    ffi::OsString,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::{manifest, netns};

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// A GET that answers with 200 to 399.
    Http {
        address: SocketAddr,
        path: String,
        headers: Vec<(String, String)>,
    },
    /// A connection that is accepted.
    Tcp { address: SocketAddr },
    /// A command in the container that ends with 0.
    Exec { command: Vec<OsString> },
}

/// How often to ask, and how to count the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rhythm {
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    pub(super) failure_threshold: u32,
    pub(super) success_threshold: u32,
}

/// The probe of a manifest, understood. `None` only for a probe that the manifest's check refuses.
pub(super) fn understand(
    container: &Container,
    probe: &Probe,
    pod: IpAddr,
) -> Option<(Question, Rhythm)> {
    let question = if let Some(get) = &probe.http_get {
        let port = manifest::container_port(container, &get.port)?;
        let host = get
            .host
            .as_ref()
            .and_then(|host| host.parse().ok())
            .unwrap_or(pod);
        let path = get.path.clone().filter(|path| !path.is_empty());
        let headers = get.http_headers.iter().flatten();
        Question::Http {
            address: SocketAddr::new(host, port),
            path: path.unwrap_or_else(|| "/".to_owned()),
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        }
    } else if let Some(connect) = &probe.tcp_socket {
        let port = manifest::container_port(container, &connect.port)?;
        let host = connect
            .host
            .as_ref()
            .and_then(|host| host.parse().ok())
            .unwrap_or(pod);
        Question::Tcp {
            address: SocketAddr::new(host, port),
        }
    } else {
        let command = probe.exec.as_ref()?.command.iter().flatten();
        Question::Exec {
            command: command.map(OsString::from).collect(),
        }
    };
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(
            value
                .and_then(|value| u64::try_from(value).ok())
                .unwrap_or(default),
        )
    };
    let count = |value: Option<i32>, default: u32| {
        value
            .and_then(|value| u32::try_from(value).ok())
            .filter(|n| *n > 0)
            .unwrap_or(default)
    };
    let rhythm = Rhythm {
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
        failure_threshold: count(probe.failure_threshold, 3),
        success_threshold: count(probe.success_threshold, 1),
    };
    Some((question, rhythm))
}

/// Asks by network from the node's namespace, as a kubelet does. The error is a sentence for the
/// pod's status.
pub(super) fn ask_by_network(
    node_namespace: &str,
    question: &Question,
    timeout: Duration,
) -> Result<(), String> {
    netns::inside(node_namespace, || match question {
        Question::Http {
            address,
            path,
            headers,
        } => ask_http(*address, path, headers, timeout),
        Question::Tcp { address } => TcpStream::connect_timeout(address, timeout)
            .map(drop)
            .map_err(|error| format!("connect to {address}: {error}")),
        Question::Exec { .. } => Err("a command is not asked by network".to_owned()),
    })
    .unwrap_or_else(|error| Err(error.to_string()))
}

fn ask_http(
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    timeout: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    let url = format!("http://{address}{path}");
    let status = http_status(address, path, headers, deadline)
        .map_err(|error| format!("Get \"{url}\": {error}"))?;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

/// The status of a GET.
pub(crate) fn http_status(
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    deadline: Instant,
) -> std::io::Result<u16> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
        } else {
            Ok(left)
        }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    let own_host = headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !own_host {
        request += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "User-Agent: kube-probe/tulle-lab\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut head = [0; 64];
    let mut filled = 0;
    while filled < head.len() && !head[..filled].contains(&b'\n') {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut head[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    let line = String::from_utf8_lossy(&head[..filled]);
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}
