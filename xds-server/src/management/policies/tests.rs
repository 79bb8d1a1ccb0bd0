//! What operators are told, on a mesh of three pods in two clusters.

use tulle_model::Change;
use tulle_policy::{DefaultCluster, ReadPolicy, ReadSettings, read_policy_file};

use super::*;

const POLICIES: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{matchLabels: {app: db}}]
    toPorts: [{ports: [{port: '5432', protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts:
    - ports: [{port: '5432', protocol: TCP}]
      rules: {http: [{method: GET, path: /items}]}
";

fn workload(cluster: &str, app: &str, address: &str) -> Workload {
    let cluster: ClusterName = cluster.parse().unwrap();
    let name = format!("{app}-0");
    serde_json::from_value(serde_json::json!({
        "uid": WorkloadUid::of_pod(&cluster, "default", &name),
        "name": name, "namespace": "default", "service_account": "default", "owner_name": app,
        "trust_domain": "td", "cluster": cluster, "node": "n1", "addresses": [address],
        "labels": {"app": app}, "tunnel_protocol": "Hbone",
    }))
    .unwrap()
}

fn policies() -> Policies {
    let cluster: ClusterName = "koornacht".parse().unwrap();
    let mut directory = Directory::default();
    for workload in [
        workload("koornacht", "web", "10.1.0.1"),
        workload("koornacht", "db", "10.1.0.2"),
        workload("tion", "db", "10.2.0.2"),
    ] {
        directory.apply(Change::Workload(Arc::new(workload)));
    }
    let settings = ReadSettings {
        cluster: cluster.clone(),
        default_cluster: DefaultCluster::Any,
    };
    for (_, read) in read_policy_file(POLICIES, &settings) {
        let Ok(ReadPolicy::Rules(read)) = read else {
            panic!("{read:?}");
        };
        let rules = Rules::Network(read.rules);
        directory.apply(Change::Rules(Arc::new(rules)));
    }
    Policies { cluster, directory }
}

fn question(source: &str, destination: &str, port: u16) -> ExplainQuestion {
    ExplainQuestion {
        source: source.to_owned(),
        destination: destination.to_owned(),
        port,
        protocol: "tcp".to_owned(),
        ..ExplainQuestion::default()
    }
}

fn outcomes(question: &ExplainQuestion) -> Vec<String> {
    let explained = policies().explain(question).unwrap();
    let ends = explained.ends.into_iter().map(|end| end.outcome);
    [explained.outcome].into_iter().chain(ends).collect()
}

#[test]
fn both_ends_have_to_agree() {
    assert_eq!(
        outcomes(&question("web-0", "deploy/db", 5432)),
        ["depends", "allow", "depends"]
    );
    assert_eq!(
        outcomes(&question("web-0", "default/db-0", 80)),
        ["deny", "deny", "deny"]
    );
    assert_eq!(
        outcomes(&question("10.1.0.1", "tion/default/db-0", 5432)),
        ["unknown", "allow", "unknown"]
    );
    assert_eq!(
        outcomes(&question("web-0", "example.com", 443)),
        ["deny", "deny"]
    );
    assert_eq!(
        outcomes(&question("192.0.2.7", "db-0", 5432)),
        ["deny", "deny"]
    );
}

#[test]
fn a_request_decides_what_depends_on_it() {
    let mut question = question("web-0", "db-0", 5432);
    question.http = Some(ExplainRequest {
        method: "GET".to_owned(),
        path: "/items".to_owned(),
        host: "db".to_owned(),
        headers: Vec::new(),
    });
    assert_eq!(outcomes(&question), ["allow", "allow", "allow"]);
    question.http.as_mut().unwrap().method = "DELETE".to_owned();
    assert_eq!(outcomes(&question), ["deny", "allow", "deny"]);
}

#[test]
fn a_denial_names_the_policy_and_what_is_missing() {
    let explained = policies().explain(&question("web-0", "db-0", 80)).unwrap();
    let end = &explained.ends[1];
    assert_eq!(end.policy.as_deref(), Some("cilium/default/db"));
    assert_eq!(
        end.because,
        "denied: no rule of cilium/default/db allows it at ingress"
    );
    assert_eq!(
        end.missing.as_deref(),
        Some("a cilium rule that allows ingress from koornacht//Pod/default/web-0 at port 80/tcp")
    );
}

#[test]
fn who_is_not_there_is_refused_in_one_sentence() {
    let error = policies()
        .explain(&question("nobody", "db-0", 80))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"nobody\" is nobody here: expected [NAMESPACE/]POD, [NAMESPACE/]deploy/NAME, CLUSTER/NAMESPACE/POD or an address"
    );
}

#[test]
fn a_list_says_whom_a_policy_speaks_of() {
    let list = policies().list();
    let lines: Vec<_> = list
        .iter()
        .map(|line| (line.name.as_str(), line.subjects, line.ingress, line.egress))
        .collect();
    assert_eq!(lines, [("db", 1, Some(1), None), ("web", 1, None, Some(1))]);
}
