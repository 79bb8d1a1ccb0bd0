//! Gives services their cluster addresses.

use std::{
    collections::BTreeMap,
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
    /// Whose an address is.
    owners: BTreeMap<IpAddr, ObjectKey>,
    /// The same the other way round, so that a service's own are found without a look at all others.
    owned: BTreeMap<ObjectKey, Vec<IpAddr>>,
    /// No host of a lower number is free, by family.
    first_free_v4: u32,
    first_free_v6: u32,
}

impl ServiceAddresses {
    /// The addresses that the cluster's services have now.
    pub(super) fn taken(cluster: &ClusterConfig, services: &[Object]) -> ServiceAddresses {
        let mut taken = ServiceAddresses {
            cluster: cluster.clone(),
            owners: BTreeMap::new(),
            owned: BTreeMap::new(),
            first_free_v4: FIRST_HOST,
            first_free_v6: FIRST_HOST,
        };
        for service in services {
            for address in addresses(service) {
                taken.take(address, &service.key);
            }
        }
        taken
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
        self.release(&service.key);
        let mut own: Vec<IpAddr> = Vec::new();
        for family in &families {
            let kept = current.iter().find(|ip| ip.is_ipv4() == (family == "IPv4"));
            let address = match kept {
                Some(address) => self.check(*address)?,
                None => self.free(family == "IPv4")?,
            };
            self.take(address, &service.key);
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
        match self.owners.get(&address) {
            Some(owner) => fault(format!("{address} belongs to {owner}")),
            None => Ok(address),
        }
    }

    fn free(&mut self, v4: bool) -> Result<IpAddr, AllocateError> {
        let first = self.first_free(v4);
        let found = (first..HOSTS_MAX)
            .map(|host| (host, self.address(v4, host)))
            .take_while(|(_, ip)| match ip {
                IpAddr::V4(ip) => *ip < self.cluster.service_subnet.broadcast(),
                IpAddr::V6(ip) => self.cluster.service_subnet_v6.contains(ip),
            })
            .find(|(_, ip)| !self.owners.contains_key(ip));
        let (host, address) = found.ok_or_else(|| AllocateError {
            field: "clusterIP",
            message: "the cluster's service subnet has no free address".to_owned(),
        })?;
        self.set_first_free(v4, host);
        Ok(address)
    }

    fn take(&mut self, address: IpAddr, service: &ObjectKey) {
        self.owners.insert(address, service.clone());
        let own = self.owned.entry(service.clone()).or_default();
        own.push(address);
    }

    /// Frees what a service has.
    fn release(&mut self, service: &ObjectKey) {
        for address in self.owned.remove(service).unwrap_or_default() {
            if self.owners.get(&address) == Some(service) {
                self.owners.remove(&address);
            }
            // Whatever its number is, the search has to pass it again.
            self.set_first_free(address.is_ipv4(), FIRST_HOST);
        }
    }

    fn first_free(&self, v4: bool) -> u32 {
        if v4 {
            self.first_free_v4
        } else {
            self.first_free_v6
        }
    }

    fn set_first_free(&mut self, v4: bool, host: u32) {
        if v4 {
            self.first_free_v4 = host;
        } else {
            self.first_free_v6 = host;
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{AllocateError, ServiceAddresses};
    use crate::{config::LabConfig, kind::Kind, object::Object, object::ObjectKey};

    fn none_taken(services: &[Object]) -> ServiceAddresses {
        let lab = LabConfig::built_in().unwrap();
        ServiceAddresses::taken(lab.cluster("koornacht").unwrap(), services)
    }

    fn service(name: &str, spec: serde_json::Value) -> Object {
        Object {
            key: ObjectKey::new(Kind::Service, "default", name),
            value: json!({"spec": spec}),
        }
    }

    /// Fills it in and says what it got.
    fn fill(addresses: &mut ServiceAddresses, mut service: Object) -> Result<Object, String> {
        let filled = addresses.fill(&mut service);
        filled.map_err(|AllocateError { message, .. }| message)?;
        Ok(service)
    }

    fn ip(service: &Object) -> &str {
        service.text(&["spec", "clusterIP"]).unwrap()
    }

    #[test]
    fn what_is_given_up_is_given_to_the_next() {
        let mut addresses = none_taken(&[]);
        let mut get = |name, spec| fill(&mut addresses, service(name, spec));
        let first = get("a", json!({})).unwrap();
        let second = get("b", json!({})).unwrap();
        assert_ne!(ip(&first), ip(&second));
        // The first one moves; its old address is the lowest that is free.
        let wanted = ip(&second).replace(".12", ".200");
        let moved = get("a", json!({"clusterIP": wanted})).unwrap();
        assert_eq!(ip(&moved), wanted);
        assert_eq!(ip(&get("c", json!({})).unwrap()), ip(&first));
        let both = get("d", json!({"ipFamilyPolicy": "RequireDualStack"})).unwrap();
        let own = both.field(&["spec", "clusterIPs"]).unwrap();
        assert_eq!(own.as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_another_has_is_refused() {
        let has = service("a", json!({"clusterIP": "172.20.1.50"}));
        let mut addresses = none_taken(std::slice::from_ref(&has));
        let other = service("b", json!({"clusterIP": "172.20.1.50"}));
        let refused = fill(&mut addresses, other).unwrap_err();
        assert_eq!(refused, "172.20.1.50 belongs to service/a");
        assert_eq!(ip(&fill(&mut addresses, has.clone()).unwrap()), ip(&has));
    }

    #[test]
    fn a_full_subnet_says_so() {
        let mut addresses = none_taken(&[]);
        let outcome = (0..256).try_for_each(|number| {
            fill(&mut addresses, service(&format!("s-{number}"), json!({}))).map(drop)
        });
        let message = "the cluster's service subnet has no free address";
        assert_eq!(outcome, Err(message.to_owned()));
    }
}
