use super::*;

#[test]
fn destinations_have_ports() {
    let check = |text: &str, name: &str, port: u16| {
        assert_eq!(split_port(text).unwrap(), (name.to_owned(), port), "{text}");
    };
    check("default/db:5432", "default/db", 5432);
    check("db", "db", 80);
    check("10.0.0.1:81", "10.0.0.1", 81);
    check("[fd00::1]:81", "fd00::1", 81);
    check("fd00::1", "fd00::1", 80);
    assert_eq!(
        split_port("db:x").unwrap_err().to_string(),
        "\"db:x\" has no port: expected NAME:PORT"
    );
}

#[test]
fn a_file_is_checked_document_by_document() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
";
    let settings = ReadSettings {
        cluster: "local".parse().unwrap(),
        default_cluster: DefaultCluster::Any,
    };
    let checked = check("x.yaml", text, &settings);
    let report = report(&checked);
    assert!(
        report.starts_with("x.yaml, document 1: kubernetes/default/deny can be used\n"),
        "{report}"
    );
    assert!(checked[1].error.is_some(), "{report}");
}

#[test]
fn an_answer_in_words() {
    let explained = Explanation {
        source: "a//Pod/default/web".to_owned(),
        destination: "a//Pod/default/db".to_owned(),
        outcome: "deny".to_owned(),
        ends: vec![ExplainedEnd {
            direction: "ingress".to_owned(),
            subject: "a//Pod/default/db".to_owned(),
            because: "denied: no rule of cilium/default/db allows it at ingress".to_owned(),
            missing: Some("a cilium rule".to_owned()),
            ..ExplainedEnd::default()
        }],
    };
    assert_eq!(
        describe(&explained),
        "a//Pod/default/web may not ask a//Pod/default/db\n\
         \x20 ingress at a//Pod/default/db: denied: no rule of cilium/default/db allows it at ingress\n\
         \x20   missing: a cilium rule\n"
    );
}
