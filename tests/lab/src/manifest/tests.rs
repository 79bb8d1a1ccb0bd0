use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::{ManifestText, read};
use crate::config::LabConfig;

/// What is wrong with a text: every fault in one line.
fn faults(text: &str) -> Vec<String> {
    let texts = [ManifestText {
        file: "f.yaml".to_owned(),
        text: text.to_owned(),
    }];
    match read(&LabConfig::built_in().unwrap(), &texts) {
        Ok(objects) => panic!("no fault was found, but {} objects", objects.len()),
        Err(error) => error.faults.iter().map(ToString::to_string).collect(),
    }
}

/// A text has just one fault, and it begins so.
#[track_caller]
fn check(text: &str, expected: &str) {
    let faults = faults(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(
        faults[0].starts_with(expected),
        "{}\n  is not\n{expected}",
        faults[0]
    );
}

/// A deployment whose container has these lines.
fn deployment(container: &str) -> String {
    let container: String = container
        .lines()
        .map(|line| format!("        {line}\n"))
        .collect();
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  selector:\n    \
         matchLabels: {{a: b}}\n  template:\n    metadata:\n      labels: {{a: b}}\n    spec:\n      \
         containers:\n      - name: c\n{container}"
    )
}

#[test]
fn manifests_of_the_story_are_sound() {
    for (text, cluster) in [(crate::KOORNACHT, "Koornacht"), (crate::TION, "Tion")] {
        let texts = [ManifestText {
            file: "f.yaml".to_owned(),
            text: text.to_owned(),
        }];
        let objects = read(&LabConfig::built_in().unwrap(), &texts).unwrap();
        let keys: Vec<String> = objects
            .iter()
            .map(|read| read.object.key.to_string())
            .collect();
        assert_eq!(
            keys,
            [
                "deployment.apps/rebel-base",
                "deployment.apps/x-wing",
                "configmap/rebel-base-response",
                "service/rebel-base"
            ]
        );
        assert!(text.contains(&format!("\\\"Cluster\\\": \\\"{cluster}\\\"")));
    }
}

#[test]
fn yaml_faults_name_the_line() {
    check("apiVersion: v1\nkind: [\n", "f.yaml:3: ");
    check("a: 1\na: 2\n", "f.yaml:1: duplicate entry with key \"a\"");
    check("kind: ConfigMap\n  bad: indent\n", "f.yaml:2: ");
    check("- 1\n- 2\n", "f.yaml:1: `kind` is missing");
    check("just text\n", "f.yaml:1: `kind` is missing");
}

#[test]
fn kinds_and_versions_are_known() {
    check(
        "apiVersion: v1\nkind: Pony\nmetadata: {name: a}\n",
        "f.yaml:2: kind: unknown kind `Pony`, the lab knows Namespace,",
    );
    check(
        "# comment\napiVersion: apps/v1\nkind: Service\nmetadata: {name: a}\n",
        "f.yaml:2: apiVersion: `apps/v1` is not the version of Service, expected `v1`",
    );
    check(
        "kind: Service\n",
        "f.yaml:1: apiVersion: `` is not the version of Service",
    );
}

#[test]
fn names_are_checked() {
    let config_map = |metadata: &str| format!("apiVersion: v1\nkind: ConfigMap\n{metadata}\n");
    check(
        &config_map("data: {}"),
        "f.yaml:1: metadata: `name` is missing",
    );
    check(
        &config_map("metadata:\n  name: A_b"),
        "f.yaml:4: metadata.name: `A_b` is not a name",
    );
    check(
        &config_map("metadata:\n  name: ../../etc/passwd"),
        "f.yaml:4: metadata.name: `../../etc/passwd` is not a name",
    );
    check(
        &config_map("metadata:\n  name: a\n  namespace: ../x"),
        "f.yaml:5: metadata.namespace: `../x` is not a namespace's name",
    );
    check(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n",
        "f.yaml:3: metadata.namespace: Namespace lives in no namespace",
    );
}

#[test]
fn wrong_types_and_unknown_fields_name_the_line() {
    check(
        &deployment("image: nginx:1\nimagePullPolicy: Always\nports:\n- containerPort: many"),
        "f.yaml:17: spec.template.spec.containers[0].ports[0].containerPort: invalid type",
    );
    check(
        &deployment("image: nginx:1\nimige: x"),
        "f.yaml:15: spec.template.spec.containers[0].imige: unknown field",
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  ports: [{port: 80}]\n  selektor: {a: b}\n",
        "f.yaml:7: spec.selektor: unknown field",
    );
}

#[test]
fn images_are_known() {
    check(
        &deployment("image: docker.io/redis:7"),
        "f.yaml:14: spec.template.spec.containers[0].image: unknown image `docker.io/redis:7`, the lab's table has docker.io/nginx:*",
    );
    check(
        &deployment("image: tulle.test/host:1"),
        "f.yaml:13: spec.template.spec.containers[0]: image `tulle.test/host:1` has no program",
    );
}

#[test]
fn names_that_are_there_twice_are_refused() {
    let one = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n";
    check(
        &format!("{one}---\n{one}"),
        "f.yaml:9: metadata.name: configmap/a is there twice, first at f.yaml:4",
    );
    let texts = ["1.yaml", "2.yaml"].map(|file| ManifestText {
        file: file.into(),
        text: one.into(),
    });
    let error = read(&LabConfig::built_in().unwrap(), &texts)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "2.yaml:4: metadata.name: configmap/a is there twice, first at 1.yaml:4"
    );
}

#[test]
fn probes_are_checked() {
    let prefix = "f.yaml:15: spec.template.spec.containers[0].livenessProbe";
    let probe = |lines: &str| deployment(&format!("image: nginx:1\nlivenessProbe: {lines}"));
    check(
        &probe("{periodSeconds: 1}"),
        &format!("{prefix}: there are 0 of httpGet, exec"),
    );
    check(
        &probe("{exec: {command: [a]}, tcpSocket: {port: 1}}"),
        &format!("{prefix}: there are 2 of httpGet, exec"),
    );
    check(
        &probe("{tcpSocket: {port: web}}"),
        &format!("{prefix}.tcpSocket.port: is neither"),
    );
    check(
        &probe("{tcpSocket: {port: 70000}}"),
        &format!("{prefix}.tcpSocket.port: is neither"),
    );
    check(
        &probe("{tcpSocket: {port: 1}, periodSeconds: 0}"),
        &format!("{prefix}.periodSeconds: expected 1 or more"),
    );
    check(
        &probe("{tcpSocket: {port: 1}, successThreshold: 2}"),
        &format!("{prefix}.successThreshold: must be 1"),
    );
}

#[test]
fn volumes_are_checked() {
    check(
        &deployment("image: nginx:1\nvolumeMounts: [{name: v, mountPath: /x}]"),
        "f.yaml:15: spec.template.spec.containers[0].volumeMounts[0].name: there is no volume `v`",
    );
    let escape = deployment("image: nginx:1")
        + "      volumes:\n      - name: v\n        configMap: {name: m, items: [{key: k, path: ../../x}]}\n";
    check(
        &escape,
        "f.yaml:17: spec.template.spec.volumes[0].configMap.items[0].path: `../../x` is not a relative",
    );
    let secret = deployment("image: nginx:1")
        + "      volumes:\n      - name: v\n        secret: {secretName: s}\n";
    check(
        &secret,
        "f.yaml:16: spec.template.spec.volumes[0]: volume `v` is neither",
    );
}

#[test]
fn deployments_select_their_own_pods() {
    let text = deployment("image: nginx:1").replace("matchLabels: {a: b}", "matchLabels: {a: c}");
    check(
        &text,
        "f.yaml:7: spec.selector.matchLabels.a: the template's labels have no `a: c`",
    );
    let text = deployment("image: nginx:1")
        .replace("spec:\n  selector", "spec:\n  replicas: -1\n  selector");
    check(&text, "f.yaml:6: spec.replicas: expected 0 to");
}

#[test]
fn services_are_checked() {
    let service = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec:\n{spec}\n")
    };
    check(
        &service("  type: NodePort\n  ports: [{port: 1}]"),
        "f.yaml:5: spec.type: the lab knows",
    );
    check(
        &service("  selector: {a: b}"),
        "f.yaml:4: spec: `ports` is missing",
    );
    check(
        &service("  ports:\n  - {port: 80, name: a}\n  - {port: 80, name: b}"),
        "f.yaml:7: spec.ports[1].port: TCP port 80 is there twice",
    );
    check(
        &service("  ports: [{port: 0}]"),
        "f.yaml:5: spec.ports[0].port: 0 is not a port",
    );
    check(
        &service("  ports: [{port: 1, protocol: SCTP}]"),
        "f.yaml:5: spec.ports[0].protocol: `SCTP`",
    );
    check(
        &service("  ipFamilies: [IPv5]\n  ports: [{port: 1}]"),
        "f.yaml:5: spec.ipFamilies[0]: `IPv5`",
    );
}

#[test]
fn all_faults_of_all_documents_are_found() {
    let text = format!(
        "apiVersion: v1\nkind: Pony\nmetadata: {{name: a}}\n---\n{}---\n{}",
        deployment("image: redis"),
        deployment("image: mysql").replace("name: d", "name: e")
    );
    let faults = faults(&text);
    assert_eq!(faults.len(), 3, "{faults:#?}");
}

#[test]
fn no_bytes_make_it_panic() {
    // Not a fuzzer, only the shapes that have hurt YAML readers before.
    let texts = [
        "\u{0}",
        "&a *a",
        "*a",
        "{[",
        "? \n: \n",
        "!!binary x",
        "a: &x [*x]",
        "---\n---\n...\n---\n",
        "%YAML 9.9\n---\na",
        "\t",
        "kind: 1",
        "kind: Service\nmetadata: 5",
        "- - - - -",
        "'",
        "\"\\x",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: 7\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 1}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
    ];
    for text in texts {
        let texts = [ManifestText {
            file: "f.yaml".to_owned(),
            text: text.to_owned(),
        }];
        // Whether it is a fault or nothing at all, it ends.
        drop(read(&LabConfig::built_in().unwrap(), &texts));
    }
}

#[test]
fn many_small_objects_are_read_in_time_that_grows_with_their_number() {
    let config = LabConfig::built_in().unwrap();
    let took = |count: usize| {
        let documents: Vec<String> = (0..count)
            .map(|number| {
                format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: s-{number}}}\nspec:\n  ports: [{{name: http, port: 80}}]\n"
                )
            })
            .collect();
        let texts = [ManifestText {
            file: "f.yaml".to_owned(),
            text: documents.join("---\n"),
        }];
        let begun = worked();
        assert_eq!(read(&config, &texts).unwrap().len(), count);
        worked() - begun
    };
    let (few, many) = (took(250), took(4_000));
    // Sixteen times as many; were the square the law, it would be 256 times as long.
    assert!(many < few * 64, "250 took {few:?}, 4000 took {many:?}");
}

/// How long this thread has worked: other work on the machine is none of it.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

#[test]
fn a_number_where_a_text_is_meant_is_still_that_text() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {version: 1}}\n---\n\
                apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: 1}\n";
    let texts = [ManifestText {
        file: "f.yaml".to_owned(),
        text: text.to_owned(),
    }];
    let read = read(&LabConfig::built_in().unwrap(), &texts);
    assert_eq!(read.unwrap().len(), 2);
}
