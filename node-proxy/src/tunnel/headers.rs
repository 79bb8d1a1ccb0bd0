//! The words of HBONE: authority and headers of CONNECT, written and read.

use std::{fmt::Write as _, net::SocketAddr};

use http::{HeaderMap, HeaderValue, header::HeaderName};
use tulle_model::{ClusterName, Workload, WorkloadKind};

/// What a CONNECT request says.
#[derive(Debug, Clone)]
pub(crate) struct ConnectHeaders {
    /// Where the peer shall connect.
    pub(crate) destination: SocketAddr,
    /// Who connects, as the application's own end.
    pub(crate) client: SocketAddr,
    /// The service that the application asked for, by hostname.
    pub(crate) service: Option<String>,
    /// What is known of the source workload.
    pub(crate) baggage: Option<HeaderValue>,
    /// A random trace id and span id.
    pub(crate) trace: (u128, u64),
}

impl ConnectHeaders {
    /// Writes the headers. A header whose value cannot be written is left out: the peer does without.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if let Some(baggage) = &self.baggage {
            headers.insert(HeaderName::from_static(BAGGAGE), baggage.clone());
        }
        let mut forwarded = format!("for=\"{}\"", self.client);
        if let Some(service) = &self.service {
            forwarded.push_str(";host=");
            forwarded.push_str(service);
        }
        if let Ok(value) = HeaderValue::from_str(&forwarded) {
            headers.insert(http::header::FORWARDED, value);
        }
        let (trace, span) = self.trace;
        if let Ok(value) = HeaderValue::from_str(&format!("00-{trace:032x}-{span:016x}-00")) {
            headers.insert(HeaderName::from_static(TRACEPARENT), value);
        }
    }
}

/// Where a CONNECT request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Authority {
    /// An address.
    Address(SocketAddr),
    /// A service's hostname and port.
    Host(String, u16),
}

/// Reads `ip:port`, `[v6]:port` or `hostname:port`.
pub(crate) fn parse_authority(text: &str) -> Option<Authority> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then_some(Authority::Address(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    // `u16::from_str` takes a leading plus sign; an authority does not.
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port: u16 = port.parse().ok().filter(|port| digits && *port != 0)?;
    let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = !host.is_empty()
        && host.len() <= HOSTNAME_LEN_MAX
        && host.bytes().all(label)
        && host.bytes().any(|b| b.is_ascii_alphabetic());
    is_name.then(|| Authority::Host(host.to_ascii_lowercase(), port))
}

/// The client's address in a `forwarded` header: `for="ip:port"` of its first element.
pub(crate) fn forwarded_client(headers: &HeaderMap) -> Option<SocketAddr> {
    let value = headers.get(http::header::FORWARDED)?.to_str().ok()?;
    let first = value.split(',').next()?;
    first.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.eq_ignore_ascii_case("for")
            .then(|| value.parse().ok())?
    })
}

/// What the mesh tells about a workload in `baggage`; names that are empty or unfit are left out.
pub(crate) fn baggage(workload: &Workload, cluster: &ClusterName) -> Option<HeaderValue> {
    let owner = match workload.kind {
        WorkloadKind::Deployment => "k8s.deployment.name",
        WorkloadKind::CronJob => "k8s.cronjob.name",
        WorkloadKind::Pod => "k8s.pod.name",
        WorkloadKind::Job => "k8s.job.name",
    };
    let owner_name = if workload.owner_name.is_empty() {
        workload.name.as_str()
    } else {
        &workload.owner_name
    };
    let pairs = [
        ("k8s.cluster.name", cluster.as_str()),
        ("k8s.namespace.name", &workload.namespace),
        (owner, owner_name),
        ("service.name", &workload.canonical_name),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ];
    let mut text = String::new();
    for (key, value) in pairs {
        let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'=' | b'%' | b'"');
        if value.is_empty() || !value.bytes().all(fits) {
            continue;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _written: std::fmt::Result = write!(text, "{comma}{key}={value}");
    }
    HeaderValue::from_str(&text)
        .ok()
        .filter(|value| !value.is_empty())
}

pub(super) const BAGGAGE: &str = "baggage";
const TRACEPARENT: &str = "traceparent";
/// RFC 1035.
const HOSTNAME_LEN_MAX: usize = 253;

#[cfg(test)]
mod tests;
