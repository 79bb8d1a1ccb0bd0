//! Labels of names: lower case, split, compared. Knows nothing of the directory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use tulle_model::Protocol;

use super::CLUSTER_DOMAIN;

/// The labels of a name in lower case, without the root.
///
/// A byte that is not UTF-8 becomes U+FFFD, which no Kubernetes name has: such a name is never found.
pub(super) fn labels_of(name: &Name) -> Vec<String> {
    name.iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect()
}

/// The labels before the cluster domain; `None` outside it.
pub(super) fn strip_domain(labels: &[String]) -> Option<&[String]> {
    let domain: Vec<&str> = CLUSTER_DOMAIN.split('.').collect();
    under(labels, &domain).then(|| labels.get(..labels.len() - domain.len()))?
}

/// Whether the last labels are `domain`.
pub(super) fn under(labels: &[String], domain: &[&str]) -> bool {
    let start = labels.len().checked_sub(domain.len());
    let tail = start.and_then(|start| labels.get(start..));
    tail.is_some_and(|tail| tail.iter().zip(domain).all(|(a, b)| a == b))
}

/// `_tcp` or `_udp`.
pub(super) fn protocol_label(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// `10-1-1-5` or `fd00--5`.
pub(super) fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// The pod's search list as labels before the cluster domain, or what Kubernetes would have set.
pub(super) fn search_list(domains: &[String], namespace: &str) -> Vec<Vec<String>> {
    let split = |domain: &String| {
        let lower = domain.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<String> = lower.split('.').map(str::to_owned).collect();
        strip_domain(&labels).map(<[String]>::to_vec)
    };
    if domains.is_empty() {
        return vec![
            vec![namespace.to_ascii_lowercase(), "svc".to_owned()],
            vec!["svc".to_owned()],
            Vec::new(),
        ];
    }
    domains
        .iter()
        .take(SEARCH_DOMAINS_MAX)
        .filter_map(split)
        .collect()
}

/// As glibc and Kubernetes.
const SEARCH_DOMAINS_MAX: usize = 32;
