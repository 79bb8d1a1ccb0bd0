//! What the mesh view says about a name: a pure function of the directory, the asker and the question.
//!
//! Follows the Kubernetes DNS specification 1.1.0 for the cluster domain. Names outside it are somebody else's
//! ([`Lookup::NotOurs`]), unless the pod's search list makes one of them the name of a service. No I/O, no clock.
//!
//! A headless service that is global answers with the pods of all clusters, chosen as `tulle_balance::select` says for such
//! services: without those that this node could not reach a moment ago, while enough others serve (`endpoints`). Two clusters
//! may have pods of one hostname, so each pod also has a name with its cluster in it:
//!
//! | name below `<service>.<namespace>.svc` | stands for |
//! |---|---|
//! | `<hostname>` | the pods of that hostname, in whichever cluster |
//! | `<cluster>` | the pods of that cluster |
//! | `<hostname>.<cluster>` | the pod of that hostname in that cluster |
//! | `_<port>._<protocol>` | SRV of all pods; those of other clusters by their names with the cluster |
//! | `_<port>._<protocol>.<cluster>` | SRV of the pods of that cluster |

mod alias;
mod endpoints;
mod locations;
mod names;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{PTR, SOA, TXT},
};
use tulle_balance::{Ejected, Viewpoint};
use tulle_model::{ClusterName, Directory, NamespacedName, Service, ServicePort, Workload};

use endpoints::Choice;
use names::{dashed_address, labels_of, protocol_label, strip_domain, under};

/// The view of one pod.
pub(crate) struct Zone<'a> {
    /// What the mesh looks like.
    pub(crate) directory: &'a Directory,
    /// From where endpoints are chosen.
    pub(crate) viewpoint: Viewpoint<'a>,
    /// The endpoints that could not be reached a moment ago.
    pub(crate) ejected: &'a Ejected,
    /// The pod's search list, split into labels; domains outside the cluster domain are left out.
    pub(crate) search: &'a [Vec<String>],
    /// Turns the order of several addresses, so that clients which take the first one spread out.
    pub(crate) rotation: usize,
}

/// What there is to say about a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lookup {
    /// Records of the type that was asked for.
    Records {
        /// The answer section.
        answers: Vec<Record>,
        /// Addresses of the targets in the answer section.
        additionals: Vec<Record>,
    },
    /// The name exists, without records of that type.
    NoData,
    /// The name is ours and does not exist.
    NoSuchName,
    /// The name is another name for one that another resolver has to be asked for.
    Elsewhere {
        /// How one leads to the other; the start of the answer section.
        aliases: Vec<Record>,
        /// What is to be asked.
        target: Name,
    },
    /// Another resolver has to be asked.
    NotOurs,
}

/// A name of the cluster domain that exists.
enum Node<'a> {
    /// The cluster domain itself.
    Apex,
    /// A name that only has names below it.
    Inner,
    /// `dns-version`.
    SchemaVersion,
    /// A service by its own name.
    Service(&'a Arc<Service>),
    /// The endpoints of a headless service in one cluster.
    Cluster(&'a Arc<Service>, ClusterName),
    /// One port of a service, by name and protocol; of a headless one perhaps in one cluster only.
    Port(&'a Arc<Service>, &'a ServicePort, Option<ClusterName>),
    /// Endpoints of a service, by their hostname.
    Endpoints(Vec<&'a Arc<Workload>>),
    /// A pod, by its address.
    Pod(IpAddr),
}

impl<'a> Zone<'a> {
    /// Answers one question of class IN.
    pub(crate) fn look_up(&self, name: &Name, kind: RecordType) -> Lookup {
        self.follow(name, kind)
    }

    /// The same, of a name that may be an alias; the alias itself is not followed.
    fn look_up_one(&self, name: &Name, kind: RecordType) -> Lookup {
        let labels = labels_of(name);
        if let Some(prefix) = strip_domain(&labels) {
            let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
            return match self.find(&prefix) {
                Some(node) => self.records(&node, name, kind),
                None => Lookup::NoSuchName,
            };
        }
        if under(&labels, &["in-addr", "arpa"]) || under(&labels, &["ip6", "arpa"]) {
            return self.reverse(name, kind);
        }
        self.by_search_list(&labels)
            .map_or(Lookup::NotOurs, |node| self.records(&node, name, kind))
    }

    /// The start of authority that goes with a negative answer.
    pub(crate) fn authority() -> Option<Record> {
        let apex = Name::from_ascii(format!("{CLUSTER_DOMAIN}.")).ok()?;
        let server = Name::from_ascii(format!("ns.dns.{CLUSTER_DOMAIN}.")).ok()?;
        let mailbox = Name::from_ascii(format!("hostmaster.{CLUSTER_DOMAIN}.")).ok()?;
        let soa = SOA::new(server, mailbox, SERIAL, 7200, 1800, 86400, TTL_SECS);
        Some(Record::from_rdata(apex, TTL_SECS, RData::SOA(soa)))
    }

    /// A name without the cluster domain, completed by the pod's search list as its stub resolver would.
    ///
    /// Only services and what is below them count: `default` must not become `default.svc.cluster.local`.
    fn by_search_list(&self, labels: &[String]) -> Option<Node<'a>> {
        self.search.iter().find_map(|domain| {
            let whole: Vec<&str> = labels.iter().chain(domain).map(String::as_str).collect();
            let node = self.find(&whole)?;
            let counts = matches!(
                node,
                Node::Service(_)
                    | Node::Cluster(..)
                    | Node::Port(..)
                    | Node::Endpoints(_)
                    | Node::Pod(_)
            );
            counts.then_some(node)
        })
    }

    /// The name whose labels before the cluster domain are `prefix`.
    fn find(&self, prefix: &[&str]) -> Option<Node<'a>> {
        match *prefix {
            [] => Some(Node::Apex),
            ["svc" | "pod"] => Some(Node::Inner),
            ["dns-version"] => Some(Node::SchemaVersion),
            [namespace, "svc" | "pod"] => {
                let exists = self.directory.services_in(namespace).next().is_some();
                exists.then_some(Node::Inner)
            }
            [address, namespace, "pod"] => {
                let address = dashed_address(address)?;
                let pod = self.directory.workload_at(address)?;
                (pod.namespace == namespace).then_some(Node::Pod(address))
            }
            [service, namespace, "svc"] => self.service(service, namespace).map(Node::Service),
            [label, service, namespace, "svc"] => {
                self.below_service(self.served(service, namespace)?, label)
            }
            [port, protocol, service, namespace, "svc"] if port.starts_with('_') => {
                self.port(port, protocol, self.served(service, namespace)?, None)
            }
            [host, cluster, service, namespace, "svc"] => {
                let service = self.served(service, namespace)?;
                let cluster = self.cluster(service, cluster)?;
                let endpoints = self.choice().named(service, Some(&cluster), host);
                (!endpoints.is_empty()).then_some(Node::Endpoints(endpoints))
            }
            [port, protocol, cluster, service, namespace, "svc"] => {
                let service = self.served(service, namespace)?;
                let cluster = self.cluster(service, cluster)?;
                self.port(port, protocol, service, Some(cluster))
            }
            _ => None,
        }
    }

    fn below_service(&self, service: &'a Arc<Service>, label: &str) -> Option<Node<'a>> {
        if let Some(protocol) = protocol_label(label) {
            let exists = service.ports.iter().any(|p| p.protocol == protocol);
            return exists.then_some(Node::Inner);
        }
        let endpoints = self.choice().named(service, None, label);
        if !endpoints.is_empty() {
            return Some(Node::Endpoints(endpoints));
        }
        let cluster = self.cluster(service, label)?;
        Some(Node::Cluster(service, cluster))
    }

    fn port(
        &self,
        port: &str,
        protocol: &str,
        service: &'a Arc<Service>,
        cluster: Option<ClusterName>,
    ) -> Option<Node<'a>> {
        let protocol = protocol_label(protocol)?;
        let name = port.strip_prefix('_').filter(|name| !name.is_empty())?;
        let same = |p: &&ServicePort| p.protocol == protocol && p.name.eq_ignore_ascii_case(name);
        let port = service.ports.iter().find(same)?;
        Some(Node::Port(service, port, cluster))
    }

    /// A cluster in which a headless service has an endpoint that serves.
    fn cluster(&self, service: &'a Arc<Service>, label: &str) -> Option<ClusterName> {
        let cluster: ClusterName = label.parse().ok()?;
        let exists =
            service.is_headless() && !self.choice().ready(service, Some(&cluster)).is_empty();
        exists.then_some(cluster)
    }

    /// A service that is served by endpoints, so that names below it mean something.
    fn served(&self, name: &str, namespace: &str) -> Option<&'a Arc<Service>> {
        let service = self.service(name, namespace)?;
        service.external_name.is_none().then_some(service)
    }

    fn service(&self, name: &str, namespace: &str) -> Option<&'a Arc<Service>> {
        let hostname = format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}");
        // A headless service without a ready endpoint does not exist (DNS specification, 2.4.1).
        let service = self
            .directory
            .service(&NamespacedName::new(namespace, hostname))?;
        let exists = !service.is_headless() || !self.choice().ready(service, None).is_empty();
        exists.then_some(service)
    }

    fn choice(&self) -> Choice<'a> {
        Choice {
            directory: self.directory,
            viewpoint: self.viewpoint,
            ejected: self.ejected,
        }
    }

    /// The records of a node; `owner` is the name as it was asked.
    fn records(&self, node: &Node<'a>, owner: &Name, kind: RecordType) -> Lookup {
        match (node, kind) {
            (Node::Apex, RecordType::SOA) => records(Self::authority().into_iter().collect()),
            (Node::SchemaVersion, RecordType::TXT) => {
                let version = TXT::new(vec![SCHEMA_VERSION.to_owned()]);
                records(vec![Record::from_rdata(
                    owner.clone(),
                    TTL_SECS,
                    RData::TXT(version),
                )])
            }
            (Node::Apex | Node::Inner | Node::SchemaVersion, _) => Lookup::NoData,
            (Node::Service(service), _) if service.external_name.is_some() => {
                records(self.alias_record(service, owner).into_iter().collect())
            }
            (Node::Service(service), RecordType::SRV) => {
                self.service_locations(service, named(service), None, owner)
            }
            (Node::Cluster(service, cluster), RecordType::SRV) => {
                self.service_locations(service, named(service), Some(cluster), owner)
            }
            (Node::Port(service, port, cluster), RecordType::SRV) => {
                let port = std::iter::once(*port);
                self.service_locations(service, port, cluster.as_ref(), owner)
            }
            (Node::Port(..), _) => Lookup::NoData,
            (Node::Service(service), _) => {
                let addresses = self.addresses_of(service, None, kind);
                records(self.address_records(&addresses, owner, kind))
            }
            (Node::Cluster(service, cluster), _) => {
                let addresses = self.addresses_of(service, Some(cluster), kind);
                records(self.address_records(&addresses, owner, kind))
            }
            (Node::Endpoints(endpoints), _) => {
                let addresses = endpoints.iter().flat_map(|w| w.addresses.iter().copied());
                records(self.address_records(&addresses.collect::<Vec<_>>(), owner, kind))
            }
            (Node::Pod(address), _) => records(self.address_records(&[*address], owner, kind)),
        }
    }

    fn addresses_of(
        &self,
        service: &'a Arc<Service>,
        cluster: Option<&ClusterName>,
        kind: RecordType,
    ) -> Vec<IpAddr> {
        if !service.is_headless() {
            return service.addresses.clone();
        }
        let families: &[bool] = match kind {
            RecordType::A => &[true],
            RecordType::AAAA => &[false],
            _ => &[true, false],
        };
        let of_family = |is_ipv4: bool| {
            let ready = self.choice().ready_in_family(service, cluster, is_ipv4);
            let addresses = ready.into_iter().flat_map(|w| w.addresses.iter().copied());
            addresses.filter(move |ip| ip.is_ipv4() == is_ipv4)
        };
        families.iter().copied().flat_map(of_family).collect()
    }

    /// A and AAAA records; `ANY` gets both (RFC 8482 leaves the choice to the server).
    fn address_records(&self, addresses: &[IpAddr], owner: &Name, kind: RecordType) -> Vec<Record> {
        let wanted = |address: &&IpAddr| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        };
        let mut chosen: Vec<IpAddr> = addresses.iter().filter(wanted).copied().collect();
        chosen.truncate(ADDRESSES_MAX);
        if !chosen.is_empty() {
            let turn = self.rotation % chosen.len();
            chosen.rotate_left(turn);
        }
        let record = |ip: IpAddr| Record::from_rdata(owner.clone(), TTL_SECS, RData::from(ip));
        chosen.into_iter().map(record).collect()
    }

    /// The name of a cluster IP, or of an endpoint of a headless service.
    fn reverse(&self, name: &Name, kind: RecordType) -> Lookup {
        let Some(address) = reverse_address(name) else {
            return Lookup::NotOurs;
        };
        let hostname = match self.directory.service_at(address) {
            Some(service) => Some(service.hostname.clone()),
            None => self.endpoint_hostname(address),
        };
        match hostname.and_then(|hostname| absolute(&hostname)) {
            Some(target) if kind == RecordType::PTR || kind == RecordType::ANY => {
                let pointer = RData::PTR(PTR(target));
                records(vec![Record::from_rdata(name.clone(), TTL_SECS, pointer)])
            }
            Some(_) => Lookup::NoData,
            None => Lookup::NotOurs,
        }
    }
}

fn records(answers: Vec<Record>) -> Lookup {
    if answers.is_empty() {
        Lookup::NoData
    } else {
        Lookup::Records {
            answers,
            additionals: Vec::new(),
        }
    }
}

/// The ports that have SRV records under the service's own name.
fn named(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.ports.iter().filter(|port| !port.name.is_empty())
}

fn absolute(hostname: &str) -> Option<Name> {
    Name::from_ascii(format!("{hostname}.")).ok()
}

/// The whole address that a name under `arpa` spells; `None` for a part of one.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels = labels_of(name);
    let (digits, family) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    if family.first().is_some_and(|label| label == "in-addr") {
        let octets: Vec<u8> = digits
            .iter()
            .rev()
            .map(|d| d.parse().ok())
            .collect::<Option<_>>()?;
        let octets: [u8; 4] = octets.try_into().ok()?;
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    if digits.len() != 32 || digits.iter().any(|d| d.len() != 1) {
        return None;
    }
    let text: String = digits.iter().rev().map(String::as_str).collect();
    u128::from_str_radix(&text, 16)
        .ok()
        .map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
}

/// The domain of every cluster's services.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// Short, since the view changes within milliseconds; CoreDNS' default as well.
pub(crate) const TTL_SECS: u32 = 5;
/// What fits into one TCP message (64 KiB) with compressed owner names, with room to spare.
const ADDRESSES_MAX: usize = 1500;
const SCHEMA_VERSION: &str = "1.1.0";
/// The zone is made from the view at each question; nobody transfers it, so its serial says nothing.
const SERIAL: u32 = 1;

/// Parses a search list into labels, keeping what lies under the cluster domain and dropping that domain.
pub(crate) fn search_list(domains: &[String], namespace: &str) -> Vec<Vec<String>> {
    names::search_list(domains, namespace)
}

#[cfg(test)]
mod tests;
