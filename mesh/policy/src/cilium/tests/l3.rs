//! Far ends.

use super::*;

#[test]
fn a_selector_of_far_ends_means_the_policys_namespace() {
    let check_peer = |labels: &str, any: &str, local: &str| {
        let spec = format!("{{endpointSelector: {{}}, ingress: [{{fromEndpoints: [{labels}]}}]}}");
        for (default_cluster, expected) in
            [(DefaultCluster::Any, any), (DefaultCluster::Local, local)]
        {
            let read = read(&policy(&spec), default_cluster);
            assert_eq!(
                show(&read.rules),
                format!("[k8s:NS=shop]\ningress!\n+ spec.ingress[0]: {expected}")
            );
        }
    };
    // Not the world.
    check_peer("{}", "[k8s:NS=shop]", "[k8s:NS=shop k8s:CLUSTER=koornacht]");
    check_peer(
        "{matchLabels: {app: web}}",
        "[app=web k8s:NS=shop]",
        "[app=web k8s:NS=shop k8s:CLUSTER=koornacht]",
    );
    check_peer(
        "{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}",
        "[k8s:NS=other]",
        "[k8s:NS=other k8s:CLUSTER=koornacht]",
    );
    check_peer(
        "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}",
        "[NS]",
        "[NS k8s:CLUSTER=koornacht]",
    );
    check_peer(
        "{matchLabels: {io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: other}}",
        "[NS/kubernetes.io/metadata.name=other]",
        "[NS/kubernetes.io/metadata.name=other k8s:CLUSTER=koornacht]",
    );
    check_peer(
        "{matchLabels: {io.cilium.k8s.policy.cluster: tion}}",
        "[CLUSTER=tion k8s:NS=shop]",
        "[CLUSTER=tion k8s:NS=shop]",
    );
    check_peer(
        "{matchExpressions: [{key: 'k8s:io.cilium.k8s.policy.cluster', operator: In, values: [tion, koornacht]}]}",
        "[k8s:CLUSTER=koornacht|tion k8s:NS=shop]",
        "[k8s:CLUSTER=koornacht|tion k8s:NS=shop]",
    );
    check_peer(
        "{matchLabels: {io.cilium.k8s.policy.serviceaccount: till}}",
        "[SA=till k8s:NS=shop]",
        "[SA=till k8s:NS=shop k8s:CLUSTER=koornacht]",
    );
    check_peer(
        "{matchLabels: {'reserved:host': ''}}",
        "[reserved:host=]",
        "[reserved:host=]",
    );
}

#[test]
fn a_policy_of_the_whole_cluster_means_what_has_a_namespace() {
    let check_peer = |subject: &str, labels: &str, expected: &str| {
        let spec =
            format!("{{endpointSelector: {subject}, egress: [{{toEndpoints: [{labels}]}}]}}");
        let shown = show(&read(&clusterwide(&spec), DefaultCluster::Any).rules);
        assert_eq!(
            shown.lines().last(),
            Some(format!("+ spec.egress[0]: {expected}").as_str())
        );
    };
    check_peer("{}", "{}", "[k8s:NS]");
    check_peer("{}", "{matchLabels: {app: web}}", "[app=web k8s:NS]");
    check_peer(
        "{}",
        "{matchLabels: {io.kubernetes.pod.namespace: x}}",
        "[NS=x]",
    );
    check_peer(
        "{}",
        "{matchLabels: {io.cilium.k8s.namespace.labels.team: x}}",
        "[NS/team=x k8s:NS]",
    );
    check_peer("{matchLabels: {'reserved:init': ''}}", "{}", "[]");
}

#[test]
fn a_missing_list_is_anyone_and_an_empty_one_nobody() {
    check(
        "ingress: [{fromEndpoints: []}]",
        &["ingress!", "+ spec.ingress[0]: nobody"],
    );
    check(
        "ingress: [{fromCIDR: []}]",
        &["ingress!", "+ spec.ingress[0]: nobody"],
    );
    check(
        "egress: [{toEntities: [], toPorts: [{ports: [{port: '80'}]}]}]",
        &["egress!", "+ spec.egress[0].toPorts[0]: nobody at any/80"],
    );
    check(
        "ingress: [{fromEndpoints: [], fromEntities: [world]}]",
        &["ingress!", "+ spec.ingress[0]: nobody"],
    );
    check(
        "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
        &["ingress!", "+ spec.ingress[0].toPorts[0]: anyone at tcp/80"],
    );
    check(
        "ingress: [{fromEntities: null, toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
        &["ingress!", "+ spec.ingress[0].toPorts[0]: anyone at tcp/80"],
    );
}

#[test]
fn one_rule_has_one_kind_of_far_ends() {
    check_refused(
        "ingress: [{fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]}]",
        "spec.ingress[0].fromCIDR holds [\"10.0.0.0/8\"], expected one kind of far ends in a rule, which has fromEndpoints already",
    );
    check_refused(
        "egressDeny: [{toEntities: [world], toCIDRSet: [{cidr: 10.0.0.0/8}]}]",
        "spec.egressDeny[0].toEntities holds [\"world\"], expected one kind of far ends in a rule, which has toCIDRSet already",
    );
    check_refused(
        "ingress: [{toEndpoints: [{}]}]",
        "spec.ingress[0].toEndpoints holds a value, expected no field of this name",
    );
    for (field, reason) in [
        (
            "toGroups",
            "groups of a cloud provider are not resolved; write their blocks",
        ),
        (
            "toNodes",
            "nodes have no labels here; write the entities host and remote-node",
        ),
        ("toRequires", "Cilium has removed it; write a deny rule"),
    ] {
        check_refused(
            &format!("egress: [{{{field}: [{{}}]}}]"),
            &format!("spec.egress[0].{field} is not supported: {reason}"),
        );
    }
}

#[test]
fn blocks_never_mean_workloads() {
    check(
        "ingress: [{fromCIDR: [10.1.2.3/8, 192.0.2.1, '2001:db8::1/32']}]",
        &[
            "ingress!",
            "+ spec.ingress[0]: 10.0.0.0/8 or 192.0.2.1/32 or 2001:db8::/32",
        ],
    );
    check(
        "egress: [{toCIDRSet: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12]}, {cidr: '::/0'}]}]",
        &[
            "egress!",
            "+ spec.egress[0]: 0.0.0.0/0 but 10.0.0.0/8 but 172.16.0.0/12 or ::/0",
        ],
    );
    let block = "expected a block of addresses such as 10.0.0.0/8";
    let either = "expected an address or a block of addresses such as 10.0.0.0/8";
    for wrong in [
        "10.0.0.0/33",
        "10.0.0/8",
        "::ffff:10.0.0.1/128",
        "10.0.0.0/08",
        "10.0.0.0/",
        "here",
        "10.0.0.0/+8",
    ] {
        check_refused(
            &format!("ingress: [{{fromCIDR: ['{wrong}']}}]"),
            &format!("spec.ingress[0].fromCIDR[0] holds \"{wrong}\", {either}"),
        );
    }
    check_refused(
        "ingress: [{fromCIDRSet: [{cidr: 10.0.0.1}]}]",
        &format!("spec.ingress[0].fromCIDRSet[0].cidr holds \"10.0.0.1\", {block}"),
    );
    for outside in ["11.0.0.0/16", "10.0.0.0/7", "'::/0'"] {
        check_refused(
            &format!("ingress: [{{fromCIDRSet: [{{cidr: 10.0.0.0/8, except: [{outside}]}}]}}]"),
            &format!(
                "spec.ingress[0].fromCIDRSet[0].except[0] holds \"{}\", expected a block that lies in the rule's cidr",
                outside.trim_matches('\'')
            ),
        );
    }
    for field in ["cidrGroupRef", "cidrGroupSelector"] {
        check_refused(
            &format!("ingress: [{{fromCIDRSet: [{{{field}: x}}]}}]"),
            &format!(
                "spec.ingress[0].fromCIDRSet[0].{field} is not supported: objects of kind CiliumCIDRGroup are not read; write cidr"
            ),
        );
    }
}

#[test]
fn entities_have_names() {
    check(
        "egress: [{toEntities: [all, world, world-ipv4, world-ipv6, cluster, cluster-mesh, host, remote-node, kube-apiserver, ingress, init, health, unmanaged, none]}]",
        &[
            "egress!",
            "+ spec.egress[0]: All or World or WorldIpv4 or WorldIpv6 or Cluster or ClusterMesh or Host or RemoteNode or KubeApiserver or Ingress or Init or Health or Unmanaged or None",
        ],
    );
    check_refused(
        "egress: [{toEntities: [moon]}]",
        "spec.egress[0].toEntities[0] holds \"moon\", expected all, world, world-ipv4, world-ipv6, cluster, cluster-mesh, host, remote-node, kube-apiserver, ingress, init, health, unmanaged or none",
    );
}

#[test]
fn names_and_patterns_are_made_one_form() {
    check(
        "egress: [{toFQDNs: [{matchName: API.Example.com}, {matchPattern: '*.example.com.'}, {matchPattern: '**.x.org'}, {matchPattern: '*'}, {matchPattern: 'a**b.c'}, {matchPattern: plain.org}, {matchPattern: '**'}]}]",
        &[
            "egress!",
            "+ spec.egress[0]: name api.example.com. or name *.example.com. or name **.x.org. or name *. or name a*b.c. or name plain.org. or name *.",
        ],
    );
    let name = "expected a DNS name such as api.example.com";
    let pattern = "expected a pattern of DNS names such as *.example.com or **.example.com";
    for wrong in ["*.example.com", "a..b", "a b", ".", "é.org"] {
        check_refused(
            &format!("egress: [{{toFQDNs: [{{matchName: '{wrong}'}}]}}]"),
            &format!("spec.egress[0].toFQDNs[0].matchName holds \"{wrong}\", {name}"),
        );
    }
    check_refused(
        "egress: [{toFQDNs: [{matchPattern: '[a-z].org'}]}]",
        &format!("spec.egress[0].toFQDNs[0].matchPattern holds \"[a-z].org\", {pattern}"),
    );
    check_refused(
        "egress: [{toFQDNs: [{}]}]",
        "spec.egress[0].toFQDNs[0] holds {}, expected either matchName or matchPattern",
    );
    check_refused(
        "egressDeny: [{toFQDNs: [{matchName: x.org}]}]",
        "spec.egressDeny[0].toFQDNs is not supported: a deny rule cannot name DNS names, since an address that was not asked for by name would pass",
    );
}

#[test]
fn services_are_picked_by_name_or_labels() {
    check(
        "egress: [{toServices: [{k8sService: {serviceName: api, namespace: x}}, {k8sService: {serviceName: api}}, {k8sServiceSelector: {selector: {matchLabels: {a: b}}, namespace: y}}], toPorts: [{ports: [{port: '80'}]}]}]",
        &[
            "egress!",
            "+ spec.egress[0].toPorts[0]: service x/api or service */api or service y/[a=b] at any/80",
        ],
    );
    check_refused(
        "egress: [{toServices: [{}]}]",
        "spec.egress[0].toServices[0] holds {}, expected either k8sService or k8sServiceSelector",
    );
    check_refused(
        "egress: [{toServices: [{k8sService: {namespace: x}}]}]",
        "spec.egress[0].toServices[0].k8sService.serviceName holds nothing, expected a value",
    );
}
