//! Shows how the rig is: clusters, components, links, what a deployment lacks, and where the logs
//! are.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{
    api::ClusterApi,
    component::Component,
    config::LabConfig,
    get::{pod_status, wanted_replicas},
    kind::Kind,
    names::Places,
    network,
    object::ObjectKey,
    supervisor::is_ready,
    table::Table,
};

/// What a deployment lacks to be just as it wants to be; the error is a sentence.
pub(crate) fn missing_of_deployment(api: &ClusterApi, key: &ObjectKey) -> Result<(), String> {
    let deployment = api.get(key).map_err(|error| crate::describe(&error))?;
    let deployment = deployment.ok_or_else(|| format!("{key} is not there"))?;
    let wanted = wanted_replicas(&deployment);
    let mut pods = api
        .list(Kind::Pod)
        .map_err(|error| crate::describe(&error))?;
    pods.retain(|pod| {
        let owner = crate::supervisor::owner(pod);
        owner.is_some_and(|(_, uid)| uid == deployment.uid())
    });
    let current = crate::supervisor::template_hash(&deployment);
    let all_current = pods
        .iter()
        .all(|pod| crate::supervisor::has_template(pod, &current));
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    if pods.len() == wanted && ready == wanted && all_current {
        return Ok(());
    }
    let states: Vec<String> = pods
        .iter()
        .map(|pod| format!("{} {}", pod.key.name, pod_trouble(api, &pod.key)))
        .collect();
    Err(format!(
        "{ready} of {wanted} pods are ready; {}",
        states.join("; ")
    ))
}

/// The state of a pod in a few words.
pub(crate) fn pod_trouble(api: &ClusterApi, key: &ObjectKey) -> String {
    let Ok(Some(pod)) = api.get(key) else {
        return "is not there".to_owned();
    };
    let statuses = pod
        .field(&["status", "containerStatuses"])
        .and_then(Value::as_array);
    let statuses: Vec<&Value> = statuses.into_iter().flatten().collect();
    let message = pod
        .text(&["status", "message"])
        .map(str::to_owned)
        .or_else(|| {
            statuses.iter().find_map(|status| {
                Some(
                    status
                        .pointer("/state/waiting/message")?
                        .as_str()?
                        .to_owned(),
                )
            })
        });
    match message {
        Some(message) => format!("{} ({message})", pod_status(&pod, &statuses)),
        None => pod_status(&pod, &statuses),
    }
}

/// Components that should run and do not, or do badly.
pub(crate) fn unhealthy(places: &Places, config: &LabConfig) -> Vec<String> {
    let up = places.clusters_up();
    let clusters = config
        .clusters
        .iter()
        .filter(|cluster| up.join(&cluster.name).exists());
    std::iter::once(Component::Supervisor)
        .chain(clusters.flat_map(|cluster| Component::of_cluster(config, cluster)))
        .filter_map(|component| {
            let message = component.health(places, config).err()?;
            Some(format!("{component}: {message}"))
        })
        .collect()
}

/// The state of the rig: clusters, components, links, pods.
pub(crate) fn status(places: &Places, config: &LabConfig) -> String {
    let up = places.clusters_up();
    let mut components = Table::default();
    for component in Component::all(config) {
        let process = component.process(places);
        let health = match (process, component.health(places, config)) {
            (None, _) => "-".to_owned(),
            (Some(_), Ok(())) => "healthy".to_owned(),
            (Some(_), Err(message)) => message,
        };
        components.add(vec![
            ("COMPONENT", component.to_string()),
            (
                "STATE",
                if process.is_some() {
                    "running"
                } else {
                    "stopped"
                }
                .to_owned(),
            ),
            (
                "PID",
                process.map_or_else(|| "-".to_owned(), |process| process.to_string()),
            ),
            ("HEALTH", health),
        ]);
    }
    let mut clusters = Table::default();
    for cluster in &config.clusters {
        let pods = ClusterApi::at(places, &cluster.name)
            .list(Kind::Pod)
            .unwrap_or_default();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let is_up = up.join(&cluster.name).exists();
        clusters.add(vec![
            ("CLUSTER", cluster.name.clone()),
            ("ID", cluster.id.to_string()),
            ("STATE", if is_up { "up" } else { "down" }.to_owned()),
            ("NODES", cluster.nodes.len().to_string()),
            ("PODS READY", format!("{ready}/{}", pods.len())),
        ]);
    }
    let mut links = Table::default();
    for (index, a) in config.clusters.iter().enumerate() {
        for b in &config.clusters[index + 1..] {
            let both = up.join(&a.name).exists() && up.join(&b.name).exists();
            let state = match both {
                true if network::link_is_up(places, a, b) => "up",
                true => "down",
                false => "-",
            };
            links.add(vec![
                ("LINK", format!("{} {}", a.name, b.name)),
                ("STATE", state.to_owned()),
            ]);
        }
    }
    [clusters.print(), components.print(), links.print()].join("\n")
}

/// The log files of a component or pod.
pub(crate) fn log_files(places: &Places, component: &str) -> Option<Vec<PathBuf>> {
    if component.split('/').any(|part| part == "..") {
        return None;
    }
    let file = places.log(component);
    if file.is_file() {
        return Some(vec![file]);
    }
    let pods = places.log("pod").with_extension("");
    let name = component.rsplit('/').next()?;
    let entries = fs::read_dir(pods).ok()?.flatten();
    let directory = entries.map(|entry| entry.path()).find(|path| {
        let key = path
            .file_name()
            .map(|key| key.to_string_lossy().into_owned())
            .unwrap_or_default();
        key == name || key.split_once('_').is_some_and(|(_, pod)| pod == name)
    })?;
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    (!files.is_empty()).then_some(files)
}
