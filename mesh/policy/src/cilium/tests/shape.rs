//! Sections, selectors of subjects, and what is no policy.

use super::*;

#[test]
fn a_section_is_said_by_its_rules() {
    // An empty rule selects nobody, and its section denies the rest.
    check("ingress: [{}]", &["ingress!"]);
    check("egress: [{}]", &["egress!"]);
    check("ingressDeny: [{}]", &["ingress!"]);
    check("egressDeny: [{}]", &["egress!"]);
    // An empty list is none.
    check("ingress: [], egress: [{}]", &["egress!"]);
    check("ingress: [{toPorts: []}]", &["ingress!"]);
    check(
        "ingress: [{}], ingressDeny: [{fromEntities: [world]}]",
        &["ingress!", "- spec.ingressDeny[0]: World"],
    );
    check(
        "ingressDeny: [{fromEntities: [world]}], ingress: [{fromEntities: [all]}]",
        &[
            "ingress!",
            "+ spec.ingress[0]: All",
            "- spec.ingressDeny[0]: World",
        ],
    );
    let nothing =
        "expected at least one of ingress, ingressDeny, egress and egressDeny that is not empty";
    check_refused(
        "ingress: []",
        &format!("spec holds {{\"endpointSelector\":{{}},\"ingress\":[]}}, {nothing}"),
    );
    check_refused(
        "egress: null",
        &format!("spec holds {{\"egress\":null,\"endpointSelector\":{{}}}}, {nothing}"),
    );
    check_refused(
        "ingress: [null]",
        "spec.ingress[0] holds null, expected an item that is not null",
    );
    check_refused("ingress: {}", "spec.ingress holds {}, expected a list");
    check_refused(
        "ingress: [7]",
        "spec.ingress[0] holds 7, expected an object",
    );
}

#[test]
fn the_default_deny_can_be_said() {
    check(
        "ingress: [{fromEntities: [world]}], enableDefaultDeny: {ingress: false}",
        &["ingress", "+ spec.ingress[0]: World"],
    );
    check(
        "ingress: [{}], enableDefaultDeny: {ingress: false}",
        &["ingress"],
    );
    check(
        "ingress: [{}], enableDefaultDeny: {egress: true}",
        &["ingress!", "egress!"],
    );
    check("ingress: [{}], enableDefaultDeny: {}", &["ingress!"]);
    check_refused(
        "ingress: [{}], enableDefaultDeny: {ingress: 'false'}",
        "spec.enableDefaultDeny.ingress holds \"false\", expected true or false",
    );
    check_refused(
        "ingress: [{}], enableDefaultDeny: {both: false}",
        "spec.enableDefaultDeny.both holds a value, expected no field of this name",
    );
}

#[test]
fn a_policy_picks_in_its_own_namespace() {
    let check_subject = |labels: &str, expected: &str, warned: bool| {
        let spec = format!("{{endpointSelector: {labels}, ingress: [{{}}]}}");
        let read = read(&policy(&spec), DefaultCluster::Local);
        assert_eq!(show(&read.rules), format!("{expected}\ningress!"));
        assert_eq!(!read.warnings.is_empty(), warned, "{:?}", read.warnings);
    };
    check_subject("{}", "[k8s:NS=shop]", false);
    check_subject("{matchLabels: {app: web}}", "[app=web k8s:NS=shop]", false);
    check_subject(
        "{matchLabels: {'k8s:app': web}}",
        "[k8s:app=web k8s:NS=shop]",
        false,
    );
    check_subject(
        "{matchLabels: {'any:app': web}}",
        "[app=web k8s:NS=shop]",
        false,
    );
    check_subject(
        "{matchLabels: {io.kubernetes.pod.namespace: shop}}",
        "[k8s:NS=shop]",
        false,
    );
    check_subject(
        "{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}",
        "[k8s:NS=shop]",
        true,
    );
    check_subject(
        "{matchExpressions: [{key: tier, operator: NotIn, values: [b, a]}, {key: x, operator: Exists}, {key: y, operator: DoesNotExist, values: []}]}",
        "[tier!=a|b x !y k8s:NS=shop]",
        false,
    );
    check_subject(
        "{matchLabels: {'reserved:init': ''}}",
        "[reserved:init= k8s:NS=shop]",
        false,
    );
}

#[test]
fn a_policy_of_the_whole_cluster_picks_everywhere() {
    check_object(
        &clusterwide("{endpointSelector: {}, ingress: [{}]}"),
        &["[]", "ingress!"],
    );
    check_object(
        &clusterwide(
            "{endpointSelector: {matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}, egress: [{}]}",
        ),
        &["[k8s:NS=other]", "egress!"],
    );
    let read = read(
        &clusterwide("{endpointSelector: {}, ingress: [{}]}"),
        DefaultCluster::Any,
    );
    assert_eq!(read.rules.key.to_string(), "cilium//p");
    check_refused_object(
        &yaml(
            "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: p, namespace: shop}, spec: {}}",
        ),
        "CiliumClusterwideNetworkPolicy p: field metadata.namespace holds \"shop\", expected no namespace, since the object is of the whole cluster",
    );
}

#[test]
fn selectors_are_checked() {
    let check = |labels: &str, expected: &str| {
        check_refused_object(
            &policy(&format!("{{endpointSelector: {labels}, ingress: [{{}}]}}")),
            &format!("CiliumNetworkPolicy shop/p: field spec.endpointSelector{expected}"),
        );
    };
    let key = "expected a label's key, such as app or example.com/app";
    check(
        "{app: web}",
        ".app holds a value, expected no field of this name",
    );
    check(
        "{matchLabels: [a]}",
        ".matchLabels holds [\"a\"], expected an object",
    );
    check(
        "{matchLabels: {app: 7}}",
        ".matchLabels.app holds 7, expected a text",
    );
    check(
        "{matchLabels: {app: null}}",
        ".matchLabels.app holds null, expected a text",
    );
    check(
        "{matchLabels: {'': x}}",
        &format!(".matchLabels holds the key \"\", {key}"),
    );
    check(
        "{matchLabels: {a b: x}}",
        &format!(".matchLabels holds the key \"a b\", {key}"),
    );
    check(
        "{matchLabels: {app: 'a b'}}",
        ".matchLabels.app holds \"a b\", expected a label's value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    );
    check(
        "{matchLabels: {'cidr:10.0.0.0/8': ''}}",
        ".matchLabels holds the key \"cidr:10.0.0.0/8\", expected one of the sources k8s, any and reserved before the colon",
    );
    check(
        "{matchLabels: {'reserved:moon': ''}}",
        ".matchLabels holds the key \"reserved:moon\", expected host, remote-node, world, world-ipv4, world-ipv6, kube-apiserver, ingress, init, health or unmanaged behind reserved:",
    );
    check(
        "{matchExpressions: [{key: app, operator: Is, values: [x]}]}",
        ".matchExpressions[0].operator holds \"Is\", expected In, NotIn, Exists or DoesNotExist",
    );
    check(
        "{matchExpressions: [{key: app, operator: In}]}",
        ".matchExpressions[0].values holds nothing, expected at least one value",
    );
    check(
        "{matchExpressions: [{key: app, operator: Exists, values: [x]}]}",
        ".matchExpressions[0].values holds [\"x\"], expected no values beside Exists and DoesNotExist",
    );
    check(
        "{matchExpressions: [{operator: Exists}]}",
        ".matchExpressions[0].key holds nothing, expected a value",
    );
}

#[test]
fn spec_and_specs_are_one_object() {
    check_object(
        &yaml(
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p, namespace: shop}, \
             spec: {endpointSelector: {}, ingress: [{}]}, \
             specs: [{endpointSelector: {matchLabels: {a: b}}, egress: [{toEntities: [world]}]}]}",
        ),
        &[
            "[k8s:NS=shop]",
            "ingress!",
            "[a=b k8s:NS=shop]",
            "egress!",
            "+ specs[0].egress[0]: World",
        ],
    );
    let with = |rest: &str| {
        yaml(&format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p}}{rest}}}"
        ))
    };
    let p = "CiliumNetworkPolicy default/p: field";
    check_refused_object(
        &with(""),
        &format!("{p} spec holds nothing, expected spec or specs"),
    );
    check_refused_object(
        &with(", specs: []"),
        &format!("{p} spec holds nothing, expected spec or specs"),
    );
    check_refused_object(
        &with(", specs: {}"),
        &format!("{p} specs holds {{}}, expected a list"),
    );
    check_refused_object(
        &with(", rules: []"),
        &format!("{p} rules holds a value, expected no field of this name"),
    );
    check_refused_object(
        &with(", spec: {ingress: [{}]}"),
        &format!("{p} spec.endpointSelector holds nothing, expected a value"),
    );
    check_refused_object(
        &with(", spec: {nodeSelector: {}, ingress: [{}]}"),
        &format!(
            "{p} spec.nodeSelector is not supported: policies of nodes are not enforced; endpointSelector picks workloads"
        ),
    );
    check_refused_object(
        &with(", spec: {endpointSelector: {}, ingress: [{}], log: {value: x}}"),
        &format!(
            "{p} spec.log is not supported: denied connections are always logged, with their policy"
        ),
    );
    check_refused_object(
        &with(", spec: {endpointSelector: {}, ingres: [{}]}"),
        &format!("{p} spec.ingres holds a value, expected no field of this name"),
    );
}

#[test]
fn a_trial_says_so() {
    let with = |value: &str| {
        yaml(&format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p, annotations: {{mesh.tulle.io/enforcement: {value}}}}}, spec: {{endpointSelector: {{}}, ingress: [{{}}]}}}}"
        ))
    };
    assert!(read(&with("audit"), DefaultCluster::Any).rules.audit);
    assert!(!read(&with("enforce"), DefaultCluster::Any).rules.audit);
    check_refused_object(
        &with("later"),
        "CiliumNetworkPolicy default/p: field metadata.annotations.mesh.tulle.io/enforcement holds \"later\", expected audit or enforce",
    );
}

#[test]
fn other_kinds_are_refused() {
    let expected = "expected one of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy of cilium.io/v2, NetworkPolicy of networking.k8s.io/v1, AuthorizationPolicy and PeerAuthentication of security.istio.io/v1 or v1beta1";
    check_refused_object(
        &yaml("{apiVersion: cilium.io/v2alpha1, kind: CiliumNetworkPolicy, metadata: {name: p}}"),
        &format!("the object is \"CiliumNetworkPolicy\" of \"cilium.io/v2alpha1\", {expected}"),
    );
    check_refused_object(
        &yaml("[]"),
        &format!("the object is \"\" of \"\", {expected}"),
    );
}
