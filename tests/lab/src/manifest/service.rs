//! What the lab can serve of a Service's specification.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;

use super::fault::{FieldPath, Report};
use crate::object::Object;

pub(super) fn check(object: &Object, place: (usize, usize), report: &mut Report<'_>) {
    let path = FieldPath::root().key("spec");
    let Some(spec) = object.view::<Service>().and_then(|service| service.spec) else {
        report.add(place, &FieldPath::root(), "`spec` is missing".to_owned());
        return;
    };
    if let Some(kind) = spec.type_.as_deref().filter(|kind| *kind != "ClusterIP") {
        let message = format!("the lab knows only services of type ClusterIP, not `{kind}`");
        report.add(place, &path.key("type"), message);
    }
    let ports = spec.ports.unwrap_or_default();
    if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        report.add(place, &path, "`ports` is missing".to_owned());
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.key("ports").index(index);
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !matches!(protocol, "TCP" | "UDP") {
            let message = format!("`{protocol}` is neither TCP nor UDP");
            report.add(place, &path.key("protocol"), message);
        }
        if !(1..=65535).contains(&port.port) {
            let message = format!("{} is not a port number", port.port);
            report.add(place, &path.key("port"), message);
        }
        if !numbers.insert((protocol, port.port)) {
            let message = format!("{protocol} port {} is there twice", port.port);
            report.add(place, &path.key("port"), message);
        }
        match port.name.as_deref() {
            None if ports.len() > 1 => {
                report.add(
                    place,
                    &path,
                    "`name` is missing: there are several ports".to_owned(),
                );
            }
            None => {}
            Some(name) if !names.insert(name) => {
                report.add(place, &path.key("name"), format!("`{name}` is there twice"));
            }
            Some(_) => {}
        }
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            let message = format!("`{family}` is neither IPv4 nor IPv6");
            report.add(place, &path.key("ipFamilies").index(index), message);
        }
    }
    let policy = spec.ip_family_policy.as_deref().unwrap_or("SingleStack");
    if !matches!(
        policy,
        "SingleStack" | "PreferDualStack" | "RequireDualStack"
    ) {
        let message = format!("`{policy}` is unknown");
        report.add(place, &path.key("ipFamilyPolicy"), message);
    }
}
