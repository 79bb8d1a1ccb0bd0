//! The wires of the rig: a router namespace with one bridge per cluster, and behind each bridge the
//! cluster's control plane and nodes. Decides addresses and routes; processes are started
//! elsewhere.
//!
//! Traffic between clusters is routed from bridge to bridge, so a cluster's bridge is the place to
//! watch that traffic, and the router's rules are the place to cut it.

use std::fmt::Write as _;

use crate::{
    config::{ClusterConfig, NodeConfig},
    names::{self, Places},
    netns::{self, Family, NamespaceError},
};

/// Makes the router namespace. No error if it is there.
pub(crate) fn create_router(places: &Places) -> Result<(), NamespaceError> {
    let router = places.router_namespace();
    netns::create(&[&router])?;
    netns::set_sysctls(&router, FORWARDER_SYSCTLS)?;
    netns::batch(&router, Family::Any, "link set lo up\n")
}

/// Makes a cluster's bridge, control plane namespace and node namespaces from nothing; an older
/// state of them is removed.
pub(crate) fn create_cluster(
    places: &Places,
    cluster: &ClusterConfig,
) -> Result<(), NamespaceError> {
    remove_cluster(places, cluster)?;
    let members = members(places, cluster);
    let names: Vec<&str> = members
        .iter()
        .map(|member| member.namespace.as_str())
        .collect();
    netns::create(&names)?;
    for member in &members {
        let sysctls = if member.node.is_some() {
            FORWARDER_SYSCTLS
        } else {
            HOST_SYSCTLS
        };
        netns::set_sysctls(&member.namespace, sysctls)?;
    }
    netns::batch(
        &places.router_namespace(),
        Family::Any,
        &router_lines(cluster, &members),
    )?;
    for member in &members {
        netns::batch(
            &member.namespace,
            Family::Any,
            &member_lines(cluster, member),
        )?;
    }
    Ok(())
}

/// Removes a cluster's namespaces and its bridge.
pub(crate) fn remove_cluster(
    places: &Places,
    cluster: &ClusterConfig,
) -> Result<(), NamespaceError> {
    for name in netns::list(&places.cluster_namespace_prefix(&cluster.name)) {
        netns::delete(&name)?;
    }
    let router = places.router_namespace();
    let bridge = names::bridge(cluster.id);
    if !netns::exists(&router) || !has_device(&router, &bridge)? {
        return Ok(());
    }
    // Ports of the bridge die with their other ends, but only when the kernel gets round to it;
    // here it is now.
    let lines: String = std::iter::once(port_name(cluster, 0))
        .chain(
            cluster
                .nodes
                .iter()
                .map(|node| port_name(cluster, node.index)),
        )
        .chain([bridge])
        .map(|device| format!("link del {device}\n"))
        .collect();
    let mut command = std::process::Command::new("ip");
    command.args(["-n", &router, "-force", "-batch", "-"]);
    match crate::tool::run(command, Some(&lines)) {
        // With `-force`, a device that is gone already only makes the exit status bad.
        Ok(_) | Err(crate::tool::RunToolError::Failed { .. }) => Ok(()),
        Err(source) => Err(NamespaceError::Ip {
            name: router,
            source,
        }),
    }
}

/// Makes a pod's namespace and its veth to the node, from nothing.
pub(crate) fn create_pod(
    places: &Places,
    cluster: &ClusterConfig,
    node: &NodeConfig,
    pod: &str,
    host: u8,
) -> Result<(), NamespaceError> {
    let name = places.pod_namespace(&cluster.name, pod);
    netns::delete(&name)?;
    netns::create(&[&name])?;
    netns::set_sysctls(&name, POD_SYSCTLS)?;
    let node_namespace = places.node_namespace(&cluster.name, &node.name);
    let (veth, v4, v6) = (
        pod_veth(host),
        cluster.pod_address(node, host),
        cluster.pod_address_v6(node, host),
    );
    let (own, own_v6) = (cluster.node_address(node), cluster.node_address_v6(node));
    delete_device(&node_namespace, &veth)?;
    let lines = format!(
        "link add {veth} type veth peer name eth0 netns {name}\n\
         addr add {POD_GATEWAY_V6}/64 dev {veth} nodad\n\
         link set {veth} up\n\
         route replace {v4}/32 dev {veth} src {own}\n\
         route replace {v6}/128 dev {veth} src {own_v6}\n"
    );
    netns::batch(&node_namespace, Family::Any, &lines)?;
    let gateway = cluster.pod_address(node, POD_GATEWAY_HOST);
    let lines = format!(
        "link set lo up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         route add {gateway}/32 dev eth0 src {v4}\n\
         route add default via {gateway} dev eth0 src {v4}\n\
         route add default via {POD_GATEWAY_V6} dev eth0 src {v6}\n"
    );
    netns::batch(&name, Family::Any, &lines)
}

/// Removes a pod's veth and namespace. No error if they are gone.
pub(crate) fn remove_pod(
    places: &Places,
    cluster: &ClusterConfig,
    node: &NodeConfig,
    pod: &str,
    host: Option<u8>,
) -> Result<(), NamespaceError> {
    let node_namespace = places.node_namespace(&cluster.name, &node.name);
    if let Some(host) = host
        && netns::exists(&node_namespace)
    {
        delete_device(&node_namespace, &pod_veth(host))?;
    }
    netns::delete(&places.pod_namespace(&cluster.name, pod))
}

/// Cuts or joins the wire between two clusters, silently for both: packets vanish.
pub(crate) fn set_link(
    places: &Places,
    a: &ClusterConfig,
    b: &ClusterConfig,
    up: bool,
) -> Result<(), NamespaceError> {
    let router = places.router_namespace();
    let priority = link_priority(a, b);
    for (family, of) in [
        (Family::Any, prefixes as fn(&ClusterConfig) -> Vec<String>),
        (Family::V6, prefixes_v6),
    ] {
        remove_rules(&router, family, priority)?;
        if up {
            continue;
        }
        let mut lines = String::new();
        for (from, to) in [(a, b), (b, a)] {
            for source in of(from) {
                for destination in of(to) {
                    writeln!(
                        lines,
                        "rule add priority {priority} from {source} to {destination} blackhole"
                    )
                    .unwrap_or_default();
                }
            }
        }
        netns::batch(&router, family, &lines)?;
    }
    Ok(())
}

/// Whether the wire between two clusters is whole.
pub(crate) fn link_is_up(places: &Places, a: &ClusterConfig, b: &ClusterConfig) -> bool {
    count_rules(&places.router_namespace(), Family::Any, link_priority(a, b))
        .is_ok_and(|count| count == 0)
}

/// One priority per pair of clusters: all rules of the pair are found again by it.
fn link_priority(a: &ClusterConfig, b: &ClusterConfig) -> u32 {
    let (low, high) = (u32::from(a.id.min(b.id)), u32::from(a.id.max(b.id)));
    // Numbers the pairs without gaps, so that even the last one comes before the main table
    // (32766).
    LINK_RULE_PRIORITY + high * (high - 1) / 2 + low
}

fn remove_rules(router: &str, family: Family, priority: u32) -> Result<(), NamespaceError> {
    let count = count_rules(router, family, priority)?;
    let lines = format!("rule del priority {priority}\n").repeat(count);
    if lines.is_empty() {
        Ok(())
    } else {
        netns::batch(router, family, &lines)
    }
}

fn count_rules(router: &str, family: Family, priority: u32) -> Result<usize, NamespaceError> {
    let mut command = std::process::Command::new("ip");
    if family == Family::V6 {
        command.arg("-6");
    }
    command.args([
        "-n",
        router,
        "rule",
        "list",
        "priority",
        &priority.to_string(),
    ]);
    let text = crate::tool::run(command, None).map_err(|source| NamespaceError::Ip {
        name: router.to_owned(),
        source,
    })?;
    Ok(text.lines().count())
}

fn prefixes(cluster: &ClusterConfig) -> Vec<String> {
    vec![
        cluster.link_subnet(),
        cluster.pod_subnet.to_string(),
        cluster.service_subnet.to_string(),
    ]
}

fn prefixes_v6(cluster: &ClusterConfig) -> Vec<String> {
    vec![
        cluster.link_subnet_v6(),
        cluster.pod_subnet_v6.to_string(),
        cluster.service_subnet_v6.to_string(),
    ]
}

/// A namespace on a cluster's bridge: the control plane or a node.
struct Member<'a> {
    namespace: String,
    node: Option<&'a NodeConfig>,
    port: String,
}

fn members<'a>(places: &Places, cluster: &'a ClusterConfig) -> Vec<Member<'a>> {
    let control_plane = Member {
        namespace: places.control_plane_namespace(&cluster.name),
        node: None,
        port: port_name(cluster, 0),
    };
    let nodes = cluster.nodes.iter().map(|node| Member {
        namespace: places.node_namespace(&cluster.name, &node.name),
        node: Some(node),
        port: port_name(cluster, node.index),
    });
    std::iter::once(control_plane).chain(nodes).collect()
}

fn router_lines(cluster: &ClusterConfig, members: &[Member<'_>]) -> String {
    let bridge = names::bridge(cluster.id);
    let mut lines = format!(
        "link add {bridge} type bridge\n\
         addr add {}/24 dev {bridge}\n\
         addr add {}/64 dev {bridge} nodad\n\
         link set {bridge} up\n",
        cluster.router(),
        cluster.router_v6()
    );
    for member in members {
        let (port, namespace) = (&member.port, &member.namespace);
        lines += &format!(
            "link add {port} type veth peer name eth0 netns {namespace}\n\
             link set {port} master {bridge} up\n"
        );
    }
    lines + &pod_routes(cluster, None)
}

fn member_lines(cluster: &ClusterConfig, member: &Member<'_>) -> String {
    let (v4, v6) = match member.node {
        Some(node) => (cluster.node_address(node), cluster.node_address_v6(node)),
        None => (cluster.control_plane(), cluster.control_plane_v6()),
    };
    let mut lines = format!(
        "link set lo up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {}\n\
         route add default via {}\n",
        cluster.router(),
        cluster.router_v6()
    );
    if let Some(node) = member.node {
        // Pods ask for their gateway on every veth; the node answers for an address that it has
        // anywhere.
        lines += &format!(
            "addr add {}/32 dev lo\n",
            cluster.pod_address(node, POD_GATEWAY_HOST)
        );
    }
    lines + &pod_routes(cluster, member.node)
}

/// Routes to the pods of every node but `own`.
fn pod_routes(cluster: &ClusterConfig, own: Option<&NodeConfig>) -> String {
    let others = cluster
        .nodes
        .iter()
        .filter(|node| own.is_none_or(|own| own.index != node.index));
    let mut lines = String::new();
    for node in others {
        let (via, via_v6) = (cluster.node_address(node), cluster.node_address_v6(node));
        lines += &format!(
            "route add {}/24 via {via}\nroute add {}/64 via {via_v6}\n",
            cluster.pod_address(node, 0),
            cluster.pod_address_v6(node, 0)
        );
    }
    lines
}

fn delete_device(namespace: &str, device: &str) -> Result<(), NamespaceError> {
    if has_device(namespace, device)? {
        netns::batch(namespace, Family::Any, &format!("link del {device}\n"))?;
    }
    Ok(())
}

fn has_device(namespace: &str, device: &str) -> Result<bool, NamespaceError> {
    let start = format!("{device}:");
    netns::inside(namespace, || {
        // Not /proc/net: that is the namespace of the process's first thread.
        std::fs::read_to_string("/proc/thread-self/net/dev").is_ok_and(|text| {
            text.lines()
                .any(|line| line.trim_start().starts_with(&start))
        })
    })
}

fn port_name(cluster: &ClusterConfig, member: u8) -> String {
    format!("p{}-{member}", cluster.id)
}

fn pod_veth(host: u8) -> String {
    format!("pod{host}")
}

const POD_GATEWAY_HOST: u8 = 1;
const POD_GATEWAY_V6: &str = "fe80::1";
const LINK_RULE_PRIORITY: u32 = 100;

const HOST_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    // Addresses are given out here, so nobody has to ask first whether they are free: that takes a
    // second.
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

const FORWARDER_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

const POD_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    // As container runtimes do: an application need not be root to listen on port 80 or to ping.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];
