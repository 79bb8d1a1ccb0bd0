//! Where services are served: SRV records, and the names that endpoints have in them.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::rr::{Name, RData, Record, rdata::SRV};
use tulle_balance::Ejected;
use tulle_model::{ClusterName, Service, ServicePort, Workload};

use super::{
    ADDRESSES_MAX, Lookup, TTL_SECS, Zone, absolute,
    endpoints::{Choice, host_label},
};

impl<'a> Zone<'a> {
    /// SRV records: one for the cluster IP, or one for each endpoint of a headless service, perhaps of one cluster only.
    pub(super) fn service_locations<'p>(
        &self,
        service: &'a Arc<Service>,
        ports: impl Iterator<Item = &'p ServicePort>,
        cluster: Option<&ClusterName>,
        owner: &Name,
    ) -> Lookup {
        let mut locations = Locations::new(owner);
        if !service.is_headless() {
            for port in ports {
                if let Some(target) = absolute(&service.hostname) {
                    locations.add(target, port.port, weight_of_each(1), &service.addresses);
                }
            }
            return locations.done();
        }
        let key = service.key();
        for port in ports {
            let endpoints = self.choice().ready_at(service, cluster, port);
            let weight = weight_of_each(endpoints.len());
            for endpoint in endpoints.iter().take(ADDRESSES_MAX) {
                let Some(target) = absolute(&self.endpoint_name(service, endpoint)) else {
                    continue;
                };
                if let Some(served) = endpoint.serving_addresses(&key, port).next() {
                    locations.add(target, served.port(), weight, &endpoint.addresses);
                }
            }
        }
        locations.done()
    }

    /// The name of an endpoint of a headless service at an address, if there is one. That it failed does not take it away.
    pub(super) fn endpoint_hostname(&self, address: IpAddr) -> Option<String> {
        let endpoint = self.directory.workload_at(address)?;
        let choice = Choice {
            ejected: &Ejected::none(),
            ..self.choice()
        };
        endpoint.services.keys().find_map(|key| {
            let service = self.directory.service(key)?;
            let serves = || {
                let ready = choice.ready(service, None);
                ready.iter().any(|w| w.uid == endpoint.uid)
            };
            (service.is_headless() && serves()).then(|| self.endpoint_name(service, endpoint))
        })
    }

    /// The name by which exactly this endpoint is found: with its cluster, unless that is the client's.
    fn endpoint_name(&self, service: &Service, endpoint: &Workload) -> String {
        let (host, domain) = (host_label(endpoint), &service.hostname);
        if endpoint.cluster == *self.viewpoint.cluster {
            format!("{host}.{domain}")
        } else {
            format!("{host}.{}.{domain}", endpoint.cluster)
        }
    }
}

/// SRV records, and the addresses of what they name.
struct Locations<'o> {
    owner: &'o Name,
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

impl<'o> Locations<'o> {
    fn new(owner: &'o Name) -> Self {
        Locations {
            owner,
            answers: Vec::new(),
            additionals: Vec::new(),
        }
    }

    fn add(&mut self, target: Name, port: u16, weight: u16, addresses: &[IpAddr]) {
        let srv = RData::SRV(SRV::new(0, weight, port, target.clone()));
        let answer = Record::from_rdata(self.owner.clone(), TTL_SECS, srv);
        self.answers.push(answer);
        let address = |ip: &IpAddr| Record::from_rdata(target.clone(), TTL_SECS, RData::from(*ip));
        self.additionals.extend(addresses.iter().map(address));
    }

    fn done(mut self) -> Lookup {
        self.additionals.dedup();
        if self.answers.is_empty() {
            return Lookup::NoData;
        }
        Lookup::Records {
            answers: self.answers,
            additionals: self.additionals,
        }
    }
}

/// As CoreDNS: the weights of one set add up to about 100.
fn weight_of_each(count: usize) -> u16 {
    u16::try_from(100 / count.max(1)).unwrap_or(1).max(1)
}
