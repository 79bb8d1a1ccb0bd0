//! The lab's file as it is written, and the check that turns it into a [`LabConfig`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::{
    BUILT_IN, ClusterConfig, Connect, ImageRule, LabConfig, Mesh, NodeConfig, Program,
    ReadConfigError, Store,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawConfig {
    rig: Option<String>,
    mesh: Option<Mesh>,
    store: Option<Store>,
    connect: Option<Connect>,
    #[serde(default)]
    cluster_dns: bool,
    clusters: Vec<RawCluster>,
    images: Option<Vec<RawImage>>,
    #[serde(default)]
    node_proxy_arguments: Vec<String>,
    #[serde(default)]
    xds_server_arguments: Vec<String>,
    binaries: Option<PathBuf>,
    stop_delay_millis: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCluster {
    name: String,
    id: u16,
    trust_domain: Option<String>,
    pod_subnet: Option<Ipv4Net>,
    pod_subnet_v6: Option<Ipv6Net>,
    service_subnet: Option<Ipv4Net>,
    service_subnet_v6: Option<Ipv6Net>,
    nodes: Vec<RawNode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNode {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawImage {
    #[serde(rename = "match")]
    pattern: String,
    program: Program,
}

pub(super) fn parse(file: &str, text: &str) -> Result<LabConfig, ReadConfigError> {
    let syntax = |error: serde_yaml_ng::Error| ReadConfigError::Syntax {
        file: file.to_owned(),
        message: error.to_string(),
    };
    let raw: RawConfig = serde_yaml_ng::from_str(text).map_err(syntax)?;
    let mut faults = Faults::default();
    let rig = raw.rig.unwrap_or_else(|| DEFAULT_RIG.to_owned());
    check_rig(&rig, &mut faults);
    let clusters = check_clusters(raw.clusters, &mut faults);
    let images = match raw.images {
        Some(images) => images.into_iter().map(rule).collect(),
        None => built_in_images().map_err(syntax)?,
    };
    let store = raw.store.unwrap_or(Store::Etcd);
    let stop_delay = raw.stop_delay_millis.unwrap_or(DEFAULT_STOP_DELAY_MILLIS);
    if stop_delay > STOP_DELAY_MILLIS_MAX {
        faults.add(
            "stopDelayMillis",
            format!("{stop_delay} is more than {STOP_DELAY_MILLIS_MAX}"),
        );
    }
    if !faults.0.is_empty() {
        return Err(ReadConfigError::Faults {
            file: file.to_owned(),
            faults: faults.0,
        });
    }
    Ok(LabConfig {
        rig,
        mesh: raw.mesh.unwrap_or(Mesh::Tulle),
        store,
        connect: raw.connect.unwrap_or(Connect::Auto),
        cluster_dns: raw.cluster_dns,
        clusters,
        images,
        stop_delay: Duration::from_millis(stop_delay),
        node_proxy_arguments: raw.node_proxy_arguments,
        xds_server_arguments: raw.xds_server_arguments,
        binaries: raw.binaries,
        text: text.to_owned(),
    })
}

fn built_in_images() -> Result<Vec<ImageRule>, serde_yaml_ng::Error> {
    let raw: RawConfig = serde_yaml_ng::from_str(BUILT_IN)?;
    Ok(raw
        .images
        .unwrap_or_default()
        .into_iter()
        .map(rule)
        .collect())
}

fn rule(raw: RawImage) -> ImageRule {
    ImageRule {
        pattern: raw.pattern,
        program: raw.program,
    }
}

pub(super) fn check_rig_name(rig: &str) -> Result<&str, ReadConfigError> {
    let mut faults = Faults::default();
    check_rig(rig, &mut faults);
    if faults.0.is_empty() {
        Ok(rig)
    } else {
        Err(ReadConfigError::Faults {
            file: "command line".to_owned(),
            faults: faults.0,
        })
    }
}

fn check_rig(rig: &str, faults: &mut Faults) {
    let plain = rig
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if rig.is_empty() || rig.len() > RIG_NAME_LEN_MAX || !plain {
        // No dash: the names of one rig must never be the beginning of another's.
        faults.add(
            "rig",
            format!("`{rig}` is not 1 to {RIG_NAME_LEN_MAX} of a-z and 0-9"),
        );
    }
}

fn check_clusters(raw: Vec<RawCluster>, faults: &mut Faults) -> Vec<ClusterConfig> {
    if raw.is_empty() || raw.len() > CLUSTERS_MAX {
        faults.add(
            "clusters",
            format!("there are {}, expected 1 to {CLUSTERS_MAX}", raw.len()),
        );
    }
    let mut clusters: Vec<ClusterConfig> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("clusters[{index}]");
        if let Some(cluster) = check_cluster(&key, raw, faults) {
            check_against(&key, &cluster, &clusters, faults);
            clusters.push(cluster);
        }
    }
    clusters
}

fn check_cluster(key: &str, raw: RawCluster, faults: &mut Faults) -> Option<ClusterConfig> {
    check_name(
        &format!("{key}.name"),
        &raw.name,
        CLUSTER_NAME_LEN_MAX,
        faults,
    );
    let Some(id) = u8::try_from(raw.id)
        .ok()
        .filter(|id| (1..=CLUSTER_ID_MAX).contains(id))
    else {
        faults.add(
            &format!("{key}.id"),
            format!("{} is not 1 to {CLUSTER_ID_MAX}", raw.id),
        );
        return None;
    };
    let pod_subnet = subnet(raw.pod_subnet, &format!("10.{id}.0.0/16"), faults)?;
    let pod_subnet_v6 = subnet(raw.pod_subnet_v6, &format!("fd00:10:{id:x}::/48"), faults)?;
    let service_subnet = subnet(raw.service_subnet, &format!("172.20.{id}.0/24"), faults)?;
    let service_subnet_v6 = subnet(
        raw.service_subnet_v6,
        &format!("fd00:20:{id:x}::/112"),
        faults,
    )?;
    if pod_subnet.prefix_len() != 16 {
        faults.add(
            &format!("{key}.podSubnet"),
            format!("{pod_subnet} is not a /16"),
        );
    }
    if pod_subnet_v6.prefix_len() != 48 {
        faults.add(
            &format!("{key}.podSubnetV6"),
            format!("{pod_subnet_v6} is not a /48"),
        );
    }
    if !(12..=24).contains(&service_subnet.prefix_len()) {
        faults.add(
            &format!("{key}.serviceSubnet"),
            format!("{service_subnet} is not between /12 and /24"),
        );
    }
    if service_subnet_v6.prefix_len() != 112 {
        faults.add(
            &format!("{key}.serviceSubnetV6"),
            format!("{service_subnet_v6} is not a /112"),
        );
    }
    let nodes = check_nodes(key, raw.nodes, faults);
    let trust_domain = raw
        .trust_domain
        .unwrap_or_else(|| format!("{}.tulle", raw.name));
    Some(ClusterConfig {
        name: raw.name,
        id,
        trust_domain,
        pod_subnet,
        pod_subnet_v6,
        service_subnet,
        service_subnet_v6,
        nodes,
    })
}

fn check_nodes(key: &str, raw: Vec<RawNode>, faults: &mut Faults) -> Vec<NodeConfig> {
    if raw.is_empty() || raw.len() > NODES_MAX {
        faults.add(
            &format!("{key}.nodes"),
            format!("there are {}, expected 1 to {NODES_MAX}", raw.len()),
        );
    }
    let mut nodes = Vec::with_capacity(raw.len());
    for (place, raw) in raw.into_iter().take(NODES_MAX).enumerate() {
        check_name(
            &format!("{key}.nodes[{place}].name"),
            &raw.name,
            NODE_NAME_LEN_MAX,
            faults,
        );
        let index = u8::try_from(place + 1).unwrap_or(u8::MAX);
        nodes.push(NodeConfig {
            name: raw.name,
            index,
            labels: raw.labels,
        });
    }
    nodes
}

fn check_against(key: &str, new: &ClusterConfig, others: &[ClusterConfig], faults: &mut Faults) {
    for other in others {
        if new.name == other.name {
            faults.add(
                &format!("{key}.name"),
                format!("`{}` is there twice", new.name),
            );
        }
        if new.id == other.id {
            faults.add(&format!("{key}.id"), format!("{} is there twice", new.id));
        }
        if overlap(new.pod_subnet, other.pod_subnet) {
            faults.add(
                &format!("{key}.podSubnet"),
                format!("{} overlaps with the one of {}", new.pod_subnet, other.name),
            );
        }
    }
    let earlier = others.iter().flat_map(|cluster| &cluster.nodes);
    for (place, node) in new.nodes.iter().enumerate() {
        let twice = earlier
            .clone()
            .chain(&new.nodes[..place])
            .any(|known| known.name == node.name);
        if twice {
            // Components are addressed as `<node>/node-proxy`, so a node's name is unique in the
            // rig.
            faults.add(
                &format!("{key}.nodes[{place}].name"),
                format!("`{}` is there twice", node.name),
            );
        }
    }
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn subnet<T: std::str::FromStr>(given: Option<T>, default: &str, faults: &mut Faults) -> Option<T> {
    let found = given.or_else(|| default.parse().ok());
    if found.is_none() {
        faults.add("clusters", format!("`{default}` is not a subnet"));
    }
    found
}

fn check_name(key: &str, name: &str, len_max: usize, faults: &mut Faults) {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends =
        name.bytes().next().is_some_and(inner) && name.bytes().next_back().is_some_and(inner);
    if !ends || name.len() > len_max || !name.bytes().all(|byte| inner(byte) || byte == b'-') {
        faults.add(
            key,
            format!("`{name}` is not a name of at most {len_max} of a-z, 0-9 and -"),
        );
    }
    if RESERVED_NAMES.contains(&name) {
        faults.add(key, format!("`{name}` is a name that the lab uses itself"));
    }
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, key: &str, message: String) {
        self.0.push(format!("{key}: {message}"));
    }
}

const DEFAULT_RIG: &str = "lab";
/// Long enough for the news to reach every node of every cluster, also on a busy machine.
const DEFAULT_STOP_DELAY_MILLIS: u64 = 500;
const STOP_DELAY_MILLIS_MAX: u64 = 60_000;
const RIG_NAME_LEN_MAX: usize = 16;
const CLUSTER_NAME_LEN_MAX: usize = 32;
const NODE_NAME_LEN_MAX: usize = 40;
const CLUSTERS_MAX: usize = 16;
const NODES_MAX: usize = 64;
const CLUSTER_ID_MAX: u8 = 254;
/// Clusters and nodes have directories, namespaces and cgroups beside these.
const RESERVED_NAMES: &[&str] = &[
    "ca",
    "clusters",
    "control-plane",
    "etcd",
    "helpers",
    "logs",
    "manifests",
    "pod",
    "router",
    "supervisor",
];
