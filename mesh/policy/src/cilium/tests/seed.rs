//! The three policies of the lab that the mesh is measured by, as they are written there.

use super::*;

const DEFAULT_DENY: &str = r#"
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata:
  name: "default-deny"
spec:
  description: "Default Deny"
  endpointSelector: {}
  ingress:
    - {}
  egress:
    - toEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: kube-system
            k8s-app: kube-dns
      toPorts:
        - ports:
            - port: "53"
              protocol: UDP
          rules:
            dns:
              - matchPattern: "*"
"#;

const X_WING_TO_REBEL_BASE: &str = r#"
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata:
  name: "x-wing-to-rebel-base"
spec:
  description: "Allow x-wing in Koornacht to contact rebel-base"
  endpointSelector:
    matchLabels:
      name: x-wing
      io.cilium.k8s.policy.cluster: koornacht
  egress:
  - toEndpoints:
    - matchLabels:
        name: rebel-base
"#;

const REBEL_BASE_FROM_X_WING: &str = r#"
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata:
  name: "rebel-base-from-x-wing"
spec:
  description: "Allow rebel-base to be contacted by Koornacht's x-wing"
  endpointSelector:
    matchLabels:
      name: rebel-base
  ingress:
  - fromEndpoints:
    - matchLabels:
        name: x-wing
        io.cilium.k8s.policy.cluster: koornacht
"#;

#[test]
fn the_policies_of_the_lab_are_read_as_it_tells() {
    check_object(
        &yaml(DEFAULT_DENY),
        &[
            "[k8s:NS=default]",
            "ingress!",
            "egress!",
            "+ spec.egress[0].toPorts[0]: [NS=kube-system k8s-app=kube-dns] at udp/53 dns *.",
        ],
    );
    check_object(
        &yaml(X_WING_TO_REBEL_BASE),
        &[
            "[CLUSTER=koornacht name=x-wing k8s:NS=default]",
            "egress!",
            "+ spec.egress[0]: [name=rebel-base k8s:NS=default]",
        ],
    );
    check_object(
        &yaml(REBEL_BASE_FROM_X_WING),
        &[
            "[name=rebel-base k8s:NS=default]",
            "ingress!",
            "+ spec.ingress[0]: [CLUSTER=koornacht name=x-wing k8s:NS=default]",
        ],
    );
}

#[test]
fn the_same_policies_mean_the_local_cluster_where_that_is_the_setting() {
    let shown = |text: &str| show(&read(&yaml(text), DefaultCluster::Local).rules);
    assert!(
        shown(X_WING_TO_REBEL_BASE)
            .ends_with("[name=rebel-base k8s:NS=default k8s:CLUSTER=koornacht]")
    );
    assert!(
        shown(REBEL_BASE_FROM_X_WING).ends_with("[CLUSTER=koornacht name=x-wing k8s:NS=default]"),
        "a selector that names a cluster keeps it"
    );
}
