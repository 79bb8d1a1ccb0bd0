//! ConfigMaps as volumes and variables.

use super::support::{Rig, deployment, eventually};

fn config_map(data: &str) -> String {
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m}}, data: {data}}}")
}

#[test]
fn config_map_is_waited_for_and_its_changes_arrive() {
    let rig = Rig::up("tconf");
    let text = deployment(
        "web",
        1,
        "nginx:1",
        "volumeMounts: [{name: v, mountPath: /usr/share/nginx/html}, {name: v, mountPath: /made/on/demand}]",
    ) + "      volumes:\n      - name: v\n        configMap: {name: m, items: [{key: k, path: index.html}, {key: k, path: deep/er/file}]}\n";
    rig.apply(&text);
    let trouble = || {
        let pods = rig.lab.pods("koornacht", "web").unwrap();
        pods.first()
            .and_then(|pod| pod.value.pointer("/status/message").cloned())
            .unwrap_or_default()
    };
    eventually("it says what it waits for", || {
        trouble() == "configmap \"m\" not found"
    });
    rig.apply(&config_map("{other: x}"));
    eventually("it says what is missing", || {
        trouble() == "configmap \"m\" has no key `k`"
    });
    rig.apply(&config_map("{k: first}"));
    rig.wait_ready("web");
    let served = || rig.run("deployment/web", &["curl", "-s", "localhost"]);
    assert_eq!(served(), "first");
    assert_eq!(
        rig.run("deployment/web", &["cat", "/made/on/demand/deep/er/file"]),
        "first"
    );
    rig.apply(&config_map("{k: second}"));
    eventually("the change arrives", || served() == "second");
    assert_eq!(
        rig.run("deployment/web", &["cat", "/made/on/demand/deep/er/file"]),
        "second"
    );
    let refused = rig
        .lab
        .exec(
            "koornacht",
            "deployment/web",
            &["touch", "/made/on/demand/x"],
        )
        .unwrap();
    assert!(!refused.status.success(), "a ConfigMap can be written to");
}

#[test]
fn whole_config_map_and_variables() {
    let rig = Rig::up("twhole");
    rig.apply(&config_map("{a: '1', b: '2'}"));
    let container = "env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: a}}}, {name: NO, valueFrom: {configMapKeyRef: {name: m, key: x, optional: true}}}]
volumeMounts: [{name: v, mountPath: /conf}, {name: e, mountPath: /data}, {name: v, mountPath: /single/file, subPath: b}]";
    let text = deployment("web", 1, "nginx:1", container)
        + "      volumes: [{name: v, configMap: {name: m}}, {name: e, emptyDir: {}}]\n";
    rig.apply(&text);
    rig.wait_ready("web");
    let script =
        "echo $A${NO-none}; ls /conf; cat /conf/b /single/file; echo; touch /data/x && ls /data";
    assert_eq!(
        rig.run("deployment/web", &["sh", "-c", script]),
        "1none\na\nb\n22\nx\n"
    );
    rig.apply(&config_map("{b: '3', c: '4'}"));
    eventually("keys come and go", || {
        rig.run("deployment/web", &["sh", "-c", "ls /conf; cat /conf/b"]) == "b\nc\n3"
    });
}
