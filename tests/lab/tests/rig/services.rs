//! Services: addresses, endpoints, applying again.

use tulle_lab::{Change, Kind, ObjectKey};

use super::support::{Rig, deployment, eventually};

fn service(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}], {spec}}}}}"
    )
}

#[test]
fn services_get_addresses_of_the_families_they_ask_for() {
    let rig = Rig::up("taddr");
    let table = [
        ("plain", "", r#"["172.20.1.11"]"#),
        ("six", "ipFamilies: [IPv6]", r#"["fd00:20:1::b"]"#),
        (
            "both",
            "ipFamilyPolicy: PreferDualStack",
            r#"["172.20.1.12","fd00:20:1::c"]"#,
        ),
        (
            "six-first",
            "ipFamilies: [IPv6, IPv4]",
            r#"["fd00:20:1::d","172.20.1.13"]"#,
        ),
        ("head", "clusterIP: None", r#"["None"]"#),
        ("own", "clusterIP: 172.20.1.99", r#"["172.20.1.99"]"#),
    ];
    for (name, spec, expected) in table {
        rig.apply(&service(name, spec));
        let found = rig
            .field(Kind::Service, name, "/spec/clusterIPs")
            .to_string();
        assert_eq!(found, expected, "{name}");
    }
    let refused = [
        (
            "clusterIP: 172.20.1.99",
            "172.20.1.99 belongs to service/own",
        ),
        (
            "clusterIP: 10.0.0.1",
            "10.0.0.1 is not in the cluster's service subnet",
        ),
        (
            "ipFamilies: [IPv4, IPv4]",
            "expected IPv4, IPv6 or one of each",
        ),
        (
            "ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack",
            "SingleStack, but two",
        ),
    ];
    for (spec, expected) in refused {
        let error = rig
            .lab
            .apply_text("koornacht", &service("bad", spec))
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(
            rig.field(Kind::Service, "bad", "/metadata/name"),
            serde_json::Value::Null
        );
    }
    // The address of a service that is gone is free again.
    rig.lab
        .delete(
            "koornacht",
            &ObjectKey::new(Kind::Service, "default", "plain"),
        )
        .unwrap();
    rig.apply(&service("next", ""));
    assert_eq!(
        rig.field(Kind::Service, "next", "/spec/clusterIP"),
        "172.20.1.11"
    );
}

#[test]
fn applying_again_keeps_what_others_have_added() {
    let rig = Rig::up("tapply");
    let change = |text: &str| rig.lab.apply_text("koornacht", text).unwrap()[0].change;
    assert_eq!(change(&service("s", "")), Change::Created);
    assert_eq!(change(&service("s", "")), Change::Unchanged);
    let address = rig.field(Kind::Service, "s", "/spec/clusterIP");
    rig.lab
        .annotate("koornacht", "s", &["service.cilium.io/global=true", "a=b"])
        .unwrap();
    rig.lab.annotate("koornacht", "s", &["a-"]).unwrap();
    assert_eq!(
        change(&service("s", "selector: {a: b}")),
        Change::Configured
    );
    assert_eq!(rig.field(Kind::Service, "s", "/spec/clusterIP"), address);
    let annotations = rig.field(Kind::Service, "s", "/metadata/annotations");
    assert_eq!(annotations["service.cilium.io/global"], "true");
    assert_eq!(annotations.get("a"), None);
    assert_eq!(change(&service("s", "")), Change::Configured);
    assert_eq!(
        rig.field(Kind::Service, "s", "/spec/selector"),
        serde_json::Value::Null
    );
    for (edit, expected) in [
        ("noequals", "neither `key=value` nor `key-`"),
        ("=x", "neither"),
        ("-", "neither"),
    ] {
        let error = rig.lab.annotate("koornacht", "s", &[edit]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn selector_of_a_deployment_cannot_change() {
    let rig = Rig::up("timmut");
    rig.apply(&deployment("web", 1, "nginx:1", ""));
    let other = deployment("web", 1, "nginx:1", "").replace("{app: web}", "{app: other}");
    let error = rig
        .lab
        .apply_text("koornacht", &other)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "text:8: spec.selector: of deployment.apps/web cannot be changed; delete it first"
    );
}

#[test]
fn new_template_replaces_the_pods_one_after_the_other() {
    let rig = Rig::up("troll");
    let text = |answer: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m-{answer}}}, data: {{index.html: {answer}}}}}\n"
        ) + &deployment(
            "web",
            2,
            "nginx:1",
            "volumeMounts: [{name: html, mountPath: /usr/share/nginx/html}]\nreadinessProbe: {httpGet: {port: 80}}",
        ) + &format!("      volumes: [{{name: html, configMap: {{name: m-{answer}}}}}]\n")
    };
    rig.apply(&text("one"));
    rig.wait_ready("web");
    let before = rig.addresses("koornacht", "web");
    rig.apply(&text("two"));
    let mut fewest = usize::MAX;
    eventually("all pods are new", || {
        let pods = rig.lab.pods("koornacht", "web").unwrap();
        let ready = |pod: &&tulle_lab::Object| {
            pod.value.pointer("/status/containerStatuses/0/ready") == Some(&true.into())
        };
        fewest = fewest.min(pods.iter().filter(ready).count());
        rig.lab
            .wait_ready("koornacht", "web", std::time::Duration::ZERO)
            .is_ok()
    });
    assert_eq!(fewest, 2, "a rolling update has kept too few pods");
    let after = rig.addresses("koornacht", "web");
    assert!(after.iter().all(|address| !before.contains(address)));
    let answer = rig.run("deployment/web", &["curl", "-s", &after[0]]);
    assert_eq!(answer, "two");
}
