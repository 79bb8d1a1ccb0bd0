//! Gives services their cluster addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::{Value, json};

use crate::{
    config::ClusterConfig,
    object::{Object, ObjectKey},
};

/// A service cannot have the addresses that it asks for.
pub(super) struct AllocateError {
    /// The field of `spec` that asks.
    pub(super) field: &'static str,
    /// Why not.
    pub(super) message: String,
}

/// The addresses of a cluster's services.
pub(super) struct ServiceAddresses {
    cluster: ClusterConfig,
    taken: BTreeSet<(IpAddr, ObjectKey)>,
}

impl ServiceAddresses {
    /// The addresses that the cluster's services have now.
    pub(super) fn taken(cluster: &ClusterConfig, services: &[Object]) -> ServiceAddresses {
        let taken = services
            .iter()
            .flat_map(|service| {
                addresses(service)
                    .into_iter()
                    .map(|ip| (ip, service.key.clone()))
            })
            .collect();
        ServiceAddresses {
            cluster: cluster.clone(),
            taken,
        }
    }

    /// Completes a service's `ipFamilies` and `clusterIPs`; what it has already, it keeps.
    pub(super) fn fill(&mut self, service: &mut Object) -> Result<(), AllocateError> {
        let families = families(service)?;
        let asked = service.text(&["spec", "clusterIP"]).map(str::to_owned);
        if asked.as_deref() == Some("None") {
            service.set(&["spec", "clusterIPs"], json!(["None"]));
            service.set(&["spec", "ipFamilies"], json!(families));
            return Ok(());
        }
        let current = addresses(service);
        self.taken.retain(|(_, key)| *key != service.key);
        let mut own: Vec<IpAddr> = Vec::new();
        for family in &families {
            let kept = current.iter().find(|ip| ip.is_ipv4() == (family == "IPv4"));
            let address = match kept {
                Some(address) => self.check(*address)?,
                None => self.free(family == "IPv4")?,
            };
            self.taken.insert((address, service.key.clone()));
            own.push(address);
        }
        let policy = if own.len() > 1 {
            "PreferDualStack"
        } else {
            "SingleStack"
        };
        if service.text(&["spec", "ipFamilyPolicy"]).is_none() {
            service.set(&["spec", "ipFamilyPolicy"], json!(policy));
        }
        service.set(&["spec", "clusterIP"], json!(own.first()));
        service.set(&["spec", "clusterIPs"], json!(own));
        service.set(&["spec", "ipFamilies"], json!(families));
        Ok(())
    }

    fn check(&self, address: IpAddr) -> Result<IpAddr, AllocateError> {
        let fault = |message| {
            Err(AllocateError {
                field: "clusterIP",
                message,
            })
        };
        let inside = match address {
            IpAddr::V4(ip) => self.cluster.service_subnet.contains(&ip),
            IpAddr::V6(ip) => self.cluster.service_subnet_v6.contains(&ip),
        };
        if !inside {
            let message = format!("{address} is not in the cluster's service subnet");
            return fault(message);
        }
        match self.taken.iter().find(|(ip, _)| *ip == address) {
            Some((_, owner)) => fault(format!("{address} belongs to {owner}")),
            None => Ok(address),
        }
    }

    fn free(&self, v4: bool) -> Result<IpAddr, AllocateError> {
        let is_taken = |ip: &IpAddr| {
            self.taken
                .range((*ip, first_key())..)
                .next()
                .is_some_and(|(next, _)| next == ip)
        };
        (FIRST_HOST..HOSTS_MAX)
            .map(|host| self.address(v4, host))
            .take_while(|ip| match ip {
                IpAddr::V4(ip) => *ip < self.cluster.service_subnet.broadcast(),
                IpAddr::V6(ip) => self.cluster.service_subnet_v6.contains(ip),
            })
            .find(|ip| !is_taken(ip))
            .ok_or_else(|| AllocateError {
                field: "clusterIP",
                message: "the cluster's service subnet has no free address".to_owned(),
            })
    }

    fn address(&self, v4: bool, host: u32) -> IpAddr {
        if v4 {
            let base = u32::from(self.cluster.service_subnet.network());
            Ipv4Addr::from(base.saturating_add(host)).into()
        } else {
            let base = u128::from(self.cluster.service_subnet_v6.network());
            Ipv6Addr::from(base + u128::from(host)).into()
        }
    }
}

fn first_key() -> ObjectKey {
    ObjectKey::new(crate::kind::Kind::Namespace, "", "")
}

/// The families that a service asks for, by its `ipFamilies` and `ipFamilyPolicy`.
fn families(service: &Object) -> Result<Vec<String>, AllocateError> {
    let mut families: Vec<String> = service
        .field(&["spec", "ipFamilies"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|family| family.as_str().map(str::to_owned))
        .collect();
    let policy = service.text(&["spec", "ipFamilyPolicy"]);
    if families.len() > 2 || (families.len() == 2 && families.first() == families.get(1)) {
        let message = "expected IPv4, IPv6 or one of each".to_owned();
        return Err(AllocateError {
            field: "ipFamilies",
            message,
        });
    }
    if families.len() == 2 && policy == Some("SingleStack") {
        let message = "SingleStack, but two families are given".to_owned();
        return Err(AllocateError {
            field: "ipFamilyPolicy",
            message,
        });
    }
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    if families.len() == 1 && matches!(policy, Some("PreferDualStack" | "RequireDualStack")) {
        let other = if families.first().is_some_and(|family| family == "IPv4") {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.to_owned());
    }
    Ok(families)
}

fn addresses(service: &Object) -> Vec<IpAddr> {
    let list = service
        .field(&["spec", "clusterIPs"])
        .and_then(Value::as_array);
    let one = service.text(&["spec", "clusterIP"]);
    let mut found: Vec<IpAddr> = one
        .into_iter()
        .chain(list.into_iter().flatten().filter_map(Value::as_str))
        .filter_map(|text| text.parse().ok())
        .collect();
    found.dedup();
    found
}

/// The first addresses are kept for the cluster itself: .1 for the API, .10 for DNS.
const FIRST_HOST: u32 = 11;
/// More services than this have no place in a lab.
const HOSTS_MAX: u32 = 65_000;
