//! What the lab can run of a pod's specification.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Container, PodSpec, Probe},
};

use super::fault::{FieldPath, Report};
use crate::{
    config::{LabConfig, Program},
    object::Object,
};

type Place = (usize, usize);

pub(super) fn check_deployment(
    config: &LabConfig,
    object: &Object,
    place: Place,
    report: &mut Report<'_>,
) {
    let Some(deployment) = object.view::<Deployment>() else {
        return;
    };
    let root = FieldPath::root().key("spec");
    let Some(spec) = deployment.spec else {
        report.add(place, &FieldPath::root(), "`spec` is missing".to_owned());
        return;
    };
    if spec
        .replicas
        .is_some_and(|replicas| !(0..=REPLICAS_MAX).contains(&replicas))
    {
        report.add(
            place,
            &root.key("replicas"),
            format!("expected 0 to {REPLICAS_MAX}"),
        );
    }
    let labels = spec
        .template
        .metadata
        .unwrap_or_default()
        .labels
        .unwrap_or_default();
    let wanted = spec.selector.match_labels.unwrap_or_default();
    if spec
        .selector
        .match_expressions
        .is_some_and(|list| !list.is_empty())
    {
        let path = root.key("selector").key("matchExpressions");
        report.add(place, &path, "the lab knows only matchLabels".to_owned());
    }
    if wanted.is_empty() {
        report.add(
            place,
            &root.key("selector"),
            "`matchLabels` is missing".to_owned(),
        );
    }
    for (key, value) in &wanted {
        if labels.get(key) != Some(value) {
            let path = root.key("selector").key("matchLabels").key(key);
            report.add(
                place,
                &path,
                format!("the template's labels have no `{key}: {value}`"),
            );
        }
    }
    let path = root.key("template").key("spec");
    match spec.template.spec {
        Some(spec) => check_spec(config, &spec, &path, place, report),
        None => report.add(place, &root.key("template"), "`spec` is missing".to_owned()),
    }
}

pub(super) fn check_spec(
    config: &LabConfig,
    spec: &PodSpec,
    path: &FieldPath,
    place: Place,
    report: &mut Report<'_>,
) {
    if spec.containers.is_empty() || spec.containers.len() > CONTAINERS_MAX {
        let found = spec.containers.len();
        let message = format!("there are {found} containers, expected 1 to {CONTAINERS_MAX}");
        report.add(place, &path.key("containers"), message);
    }
    if spec
        .init_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        report.add(place, &path.key("initContainers"), UNSUPPORTED.to_owned());
    }
    if spec.host_network == Some(true) {
        report.add(place, &path.key("hostNetwork"), UNSUPPORTED.to_owned());
    }
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.key("volumes").index(index);
        if !super::is_dns_label(&volume.name) {
            let message = format!("`{}` is not a name", volume.name);
            report.add(place, &path.key("name"), message);
        }
        if !volumes.insert(volume.name.as_str()) {
            report.add(
                place,
                &path.key("name"),
                format!("`{}` is there twice", volume.name),
            );
        }
        if volume.config_map.is_none() && volume.empty_dir.is_none() {
            let message = format!("volume `{}` is neither configMap nor emptyDir", volume.name);
            report.add(place, &path, message);
        }
        check_items(volume, &path, place, report);
    }
    let mut names = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.key("containers").index(index);
        if !names.insert(container.name.as_str()) {
            report.add(
                place,
                &path.key("name"),
                format!("`{}` is there twice", container.name),
            );
        }
        check_container(config, container, &volumes, &path, place, report);
    }
}

fn check_items(
    volume: &k8s_openapi::api::core::v1::Volume,
    path: &FieldPath,
    place: Place,
    report: &mut Report<'_>,
) {
    let items = volume
        .config_map
        .iter()
        .flat_map(|source| source.items.iter().flatten());
    for (index, item) in items.enumerate() {
        let sound = !item.path.is_empty()
            && std::path::Path::new(&item.path)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !sound {
            let path = path.key("configMap").key("items").index(index).key("path");
            let message = format!("`{}` is not a relative path without `..`", item.path);
            report.add(place, &path, message);
        }
    }
}

fn check_container(
    config: &LabConfig,
    container: &Container,
    volumes: &BTreeSet<&str>,
    path: &FieldPath,
    place: Place,
    report: &mut Report<'_>,
) {
    if !super::is_dns_label(&container.name) {
        let message = format!("`{}` is not a name", container.name);
        report.add(place, &path.key("name"), message);
    }
    match &container.image {
        None => report.add(place, path, "`image` is missing".to_owned()),
        Some(image) => match config.program_for(image) {
            None => {
                let known: Vec<&str> = config
                    .images
                    .iter()
                    .map(|rule| rule.pattern.as_str())
                    .collect();
                let message = format!(
                    "unknown image `{image}`, the lab's table has {}",
                    known.join(", ")
                );
                report.add(place, &path.key("image"), message);
            }
            Some(Program::Host) if container.command.as_ref().is_none_or(Vec::is_empty) => {
                let message = format!("image `{image}` has no program, `command` is missing");
                report.add(place, path, message);
            }
            Some(_) => {}
        },
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.key("volumeMounts").index(index);
        if !volumes.contains(mount.name.as_str()) {
            report.add(
                place,
                &path.key("name"),
                format!("there is no volume `{}`", mount.name),
            );
        }
        if !mount.mount_path.starts_with('/') || mount.mount_path.contains("/../") {
            let message = format!("`{}` is not an absolute path", mount.mount_path);
            report.add(place, &path.key("mountPath"), message);
        }
    }
    let lifecycle = container.lifecycle.clone().unwrap_or_default();
    let hook = lifecycle.pre_stop.unwrap_or_default();
    let path_of_hooks = path.key("lifecycle");
    if lifecycle.post_start.is_some() {
        report.add(
            place,
            &path_of_hooks.key("postStart"),
            UNSUPPORTED.to_owned(),
        );
    }
    if hook.http_get.is_some() || hook.tcp_socket.is_some() {
        let message = "the lab knows only exec and sleep".to_owned();
        report.add(place, &path_of_hooks.key("preStop"), message);
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (key, probe) in probes {
        if let Some(probe) = probe {
            check_probe(container, key, probe, &path.key(key), place, report);
        }
    }
}

fn check_probe(
    container: &Container,
    kind: &str,
    probe: &Probe,
    path: &FieldPath,
    place: Place,
    report: &mut Report<'_>,
) {
    if probe.grpc.is_some() {
        report.add(place, &path.key("grpc"), UNSUPPORTED.to_owned());
    }
    let handlers = [
        probe.http_get.is_some(),
        probe.exec.is_some(),
        probe.tcp_socket.is_some(),
    ];
    let count = handlers.into_iter().filter(|given| *given).count();
    if count != 1 && probe.grpc.is_none() {
        let message = format!("there are {count} of httpGet, exec and tcpSocket, expected one");
        report.add(place, path, message);
    }
    let numbers = [
        ("periodSeconds", probe.period_seconds, 1),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("failureThreshold", probe.failure_threshold, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
    ];
    for (key, value, least) in numbers {
        if value.is_some_and(|value| value < least) {
            report.add(place, &path.key(key), format!("expected {least} or more"));
        }
    }
    if kind != "readinessProbe" && probe.success_threshold.is_some_and(|value| value > 1) {
        let message = format!("must be 1 for a {kind}");
        report.add(place, &path.key("successThreshold"), message);
    }
    if let Some(get) = &probe.http_get {
        let path = path.key("httpGet");
        if get.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
            report.add(
                place,
                &path.key("scheme"),
                "the lab probes only by HTTP".to_owned(),
            );
        }
        check_port(container, &get.port, &path.key("port"), place, report);
    }
    if let Some(connect) = &probe.tcp_socket {
        check_port(
            container,
            &connect.port,
            &path.key("tcpSocket").key("port"),
            place,
            report,
        );
    }
}

fn check_port(
    container: &Container,
    port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
    path: &FieldPath,
    place: Place,
    report: &mut Report<'_>,
) {
    if container_port(container, port).is_none() {
        let message = "is neither a port number nor the name of one of the container's ports";
        report.add(place, path, message.to_owned());
    }
}

/// The number of a port that is given by number or by the name it has in the container.
pub(crate) fn container_port(
    container: &Container,
    port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
) -> Option<u16> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports
                .find(|port| port.name.as_ref() == Some(name))?
                .container_port
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

const UNSUPPORTED: &str = "the lab does not support this";
const CONTAINERS_MAX: usize = 8;
const REPLICAS_MAX: i32 = 1000;
