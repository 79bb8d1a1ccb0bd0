//! Pods: where they run, what they see, how they end.

use std::time::Instant;

use tulle_lab::{ExecRequest, Kind, ObjectKey};

use super::support::{DEADLINE, Rig, deployment, eventually, text};

#[test]
fn pods_of_all_nodes_and_clusters_reach_each_other() {
    let rig = Rig::up_with("treach", &["koornacht", "tion"], "");
    for cluster in ["koornacht", "tion"] {
        rig.lab
            .apply_text(cluster, &deployment("web", 2, "nginx:1", ""))
            .unwrap();
        rig.lab.wait_ready(cluster, "web", DEADLINE).unwrap();
    }
    let from = rig.lab.pods("koornacht", "web").unwrap()[0]
        .key
        .name
        .clone();
    let from_address = rig
        .field(Kind::Pod, &from, "/status/podIP")
        .as_str()
        .unwrap()
        .to_owned();
    for cluster in ["koornacht", "tion"] {
        for pod in rig.lab.pods(cluster, "web").unwrap() {
            for ip in pod
                .value
                .pointer("/status/podIPs")
                .unwrap()
                .as_array()
                .unwrap()
            {
                let url = match ip["ip"].as_str().unwrap() {
                    ip if ip.contains(':') => format!("http://[{ip}]/"),
                    ip => format!("http://{ip}/"),
                };
                let code = rig.run(
                    &format!("pod/{from}"),
                    &[
                        "curl",
                        "-sS",
                        "-m",
                        "5",
                        "-o",
                        "/dev/null",
                        "-w",
                        "%{http_code}",
                        &url,
                    ],
                );
                assert_eq!(code, "200", "{url}");
            }
            // The server sees its client's true address.
            let target = format!("pod/{}", pod.key.name);
            let log = rig
                .lab
                .exec(cluster, &target, &["cat", "/var/log/nginx/access.log"])
                .unwrap();
            let own = pod.key.name == from;
            assert!(own || text(&log).contains(&from_address), "{}", text(&log));
        }
    }
}

#[test]
fn link_between_clusters_can_be_cut_and_joined() {
    let rig = Rig::up_with("tlink", &["koornacht", "tion"], "");
    rig.apply(&deployment("client", 1, "cilium/json-mock:1", ""));
    rig.lab
        .apply_text("tion", &deployment("web", 1, "nginx:1", ""))
        .unwrap();
    rig.wait_ready("client");
    rig.lab.wait_ready("tion", "web", DEADLINE).unwrap();
    let pod = rig.lab.pods("tion", "web").unwrap().remove(0);
    let [v4, v6] = ["/status/podIPs/0/ip", "/status/podIPs/1/ip"].map(|pointer| {
        pod.value
            .pointer(pointer)
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    });
    let reaches = |url: &str| {
        let command = ["curl", "-sS", "-m", "1", "-o", "/dev/null", url];
        rig.lab
            .exec("koornacht", "deployment/client", &command)
            .unwrap()
            .status
            .code()
    };
    let urls = [format!("http://{v4}/"), format!("http://[{v6}]/")];
    for _ in 0..2 {
        for url in &urls {
            assert_eq!(reaches(url), Some(0), "{url}");
        }
        rig.lab.set_link("tion", "koornacht", false).unwrap();
        rig.lab.set_link("koornacht", "tion", false).unwrap();
        for url in &urls {
            // 28: nobody answers, nobody refuses.
            assert_eq!(reaches(url), Some(28), "{url}");
        }
        assert!(
            rig.lab.status().contains("koornacht tion   down"),
            "{}",
            rig.lab.status()
        );
        rig.lab.set_link("koornacht", "tion", true).unwrap();
    }
    assert!(rig.lab.set_link("tion", "tion", true).is_err());
}

#[test]
fn container_sees_its_own_world() {
    let rig = Rig::up("tworld");
    let container = "env:
- {name: PLAIN, value: \"1\"}
- {name: COMPOSED, value: \"$(PLAIN)-$(POD)\"}
- {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
";
    rig.apply(&deployment("web", 1, "nginx:1", container));
    rig.wait_ready("web");
    let pod = rig.only_pod("web");
    let address = rig
        .field(Kind::Pod, &pod, "/status/podIP")
        .as_str()
        .unwrap()
        .to_owned();
    let script = "hostname; echo $PLAIN $COMPOSED $NODE $IP; head -n1 /etc/resolv.conf; touch /etc/mine /tmp/mine; \
                  grep $(hostname) /etc/hosts | head -n1";
    let seen = rig.run("deployment/web", &["sh", "-c", script]);
    // POD comes after COMPOSED in the list, so it is not yet known there.
    let expected = format!(
        "{pod}\n1 1-$(POD) koornacht-worker {address}\nnameserver 172.20.1.10\n{address}\t{pod}\n"
    );
    assert_eq!(seen, expected);
    for path in ["/etc/mine", "/tmp/mine"] {
        assert!(
            !std::path::Path::new(path).exists(),
            "{path} is on the host"
        );
    }
}

#[test]
fn host_image_runs_its_command_on_the_hosts_files() {
    let rig = Rig::up("thost");
    let container = "command: [sh, -c]
args: [\"echo started as $(id -u); exec sleep 1000\"]
securityContext: {runAsUser: 65534}
";
    rig.apply(&deployment("tool", 1, "tulle.test/host:1", container));
    rig.wait_ready("tool");
    let pod = rig.only_pod("tool");
    let logs = rig.lab.logs(&format!("pod/{pod}")).unwrap();
    assert_eq!(
        std::fs::read_to_string(&logs[0]).unwrap(),
        "started as 65534\n"
    );
    let own = std::env::current_exe().unwrap();
    rig.run("deployment/tool", &["test", "-e", own.to_str().unwrap()]);
}

#[test]
fn pod_that_ends_is_asked_first() {
    let rig = Rig::up("tgrace");
    let script = |on_term: &str| {
        format!(
            "command: [sh, -c, \"trap '{on_term}' TERM; echo up; while :; do sleep 0.05; done\"]"
        )
    };
    rig.apply(&deployment(
        "polite",
        1,
        "tulle.test/host:1",
        &script("echo bye; exit 0"),
    ));
    let stubborn = deployment("stubborn", 1, "tulle.test/host:1", &script("echo no")).replace(
        "      containers:",
        "      terminationGracePeriodSeconds: 1\n      containers:",
    );
    rig.apply(&stubborn);
    for name in ["polite", "stubborn"] {
        rig.wait_ready(name);
        let pod = rig.only_pod(name);
        let log = rig.lab.logs(&format!("pod/{pod}")).unwrap().remove(0);
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("the program has begun", || said().contains("up"));
        let start = Instant::now();
        rig.lab.scale("koornacht", name, 0).unwrap();
        rig.wait_ready(name);
        assert!(
            said().contains(if name == "polite" { "bye" } else { "no" }),
            "{}",
            said()
        );
        // The stop delay of 0.5 s, then the grace; never the whole default grace.
        let taken = start.elapsed().as_secs_f64();
        let least = if name == "polite" { 0.5 } else { 1.5 };
        assert!((least..4.5).contains(&taken), "{name}: {taken} s");
    }
}

#[test]
fn pre_stop_hook_runs_before_the_signal() {
    let rig = Rig::up("thook");
    let container =
        "command: [sh, -c, \"trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done\"]
lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook >>$LOG']}}}
env: [{name: LOG, value: @log@}]";
    let log = rig.lab.state_directory().join("hook.log");
    let text = container.replace("@log@", log.to_str().unwrap());
    rig.apply(&deployment("web", 1, "tulle.test/host:1", &text));
    rig.wait_ready("web");
    rig.lab.scale("koornacht", "web", 0).unwrap();
    rig.wait_ready("web");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "hook\n");
}

#[test]
fn endpoints_are_marked_before_the_program_hears_of_its_end() {
    let rig = Rig::up("tmark");
    let script = "command: [sh, -c, \"trap 'echo bye; exit' TERM; while :; do sleep 0.01; done\"]";
    rig.apply(&deployment("web", 1, "tulle.test/host:1", script));
    rig.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}",
    );
    rig.wait_ready("web");
    let pod = rig.only_pod("web");
    let log = rig.lab.logs(&format!("pod/{pod}")).unwrap().remove(0);
    let slice = || {
        let slices = rig
            .lab
            .api("koornacht")
            .unwrap()
            .list(Kind::EndpointSlice)
            .unwrap();
        slices[0].value.pointer("/endpoints/0/conditions").cloned()
    };
    eventually("the endpoint is ready", || {
        slice().is_some_and(|found| found["ready"] == true)
    });
    rig.lab.scale("koornacht", "web", 0).unwrap();
    eventually("the endpoint is marked", || {
        slice().is_some_and(|found| found["terminating"] == true)
    });
    let marked = slice().unwrap();
    assert_eq!(
        (&marked["ready"], &marked["serving"]),
        (&false.into(), &true.into())
    );
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        "",
        "the program has heard already"
    );
    rig.wait_ready("web");
    eventually("the endpoint is gone", || slice().is_none());
}

#[test]
fn pods_go_where_their_selector_says() {
    let rig = Rig::up("tsched");
    let pinned = |name: &str, zone: &str| {
        deployment(name, 2, "nginx:1", "").replace(
            "      containers:",
            &format!(
                "      nodeSelector: {{topology.kubernetes.io/zone: {zone}}}\n      containers:"
            ),
        )
    };
    rig.apply(&pinned("b", "koornacht-b"));
    rig.apply(&pinned("nowhere", "koornacht-z"));
    rig.apply(&deployment("spread", 4, "nginx:1", ""));
    rig.wait_ready("b");
    rig.wait_ready("spread");
    let nodes = |deployment: &str| {
        let pods = rig.lab.pods("koornacht", deployment).unwrap();
        let node = |pod: &tulle_lab::Object| {
            pod.value
                .pointer("/spec/nodeName")
                .and_then(|node| Some(node.as_str()?.to_owned()))
        };
        pods.iter().map(node).collect::<Vec<_>>()
    };
    assert!(
        nodes("b")
            .iter()
            .all(|node| node.as_deref() == Some("koornacht-worker2"))
    );
    assert_eq!(nodes("nowhere"), [None, None]);
    let first = nodes("spread")
        .iter()
        .filter(|node| node.as_deref() == Some("koornacht-worker"))
        .count();
    assert_eq!(first, 2);
    let name = rig.lab.pods("koornacht", "nowhere").unwrap()[0]
        .key
        .name
        .clone();
    let why = rig.field(Kind::Pod, &name, "/status/conditions/0/message");
    assert!(
        why.as_str().unwrap().starts_with("0/2 nodes are available"),
        "{why}"
    );
}

#[test]
fn bare_pods_and_their_restart_policies() {
    let rig = Rig::up("tbare");
    let pod = |name: &str, policy: &str, script: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: {policy}, \
             containers: [{{name: c, image: 'tulle.test/host:1', command: [sh, -c, '{script}']}}]}}}}"
        )
    };
    rig.apply(&pod("done", "Never", "exit 0"));
    rig.apply(&pod("failed", "Never", "exit 3"));
    rig.apply(&pod("again", "Always", "exit 0"));
    let phase = |name: &str| rig.field(Kind::Pod, name, "/status/phase");
    eventually("it has succeeded", || phase("done") == "Succeeded");
    eventually("it has failed", || phase("failed") == "Failed");
    let code = "/status/containerStatuses/0/state/terminated/exitCode";
    assert_eq!(rig.field(Kind::Pod, "failed", code), 3);
    eventually("it is started again and again", || {
        rig.field(
            Kind::Pod,
            "again",
            "/status/containerStatuses/0/restartCount",
        )
        .as_u64()
            >= Some(2)
    });
    for name in ["done", "failed", "again"] {
        rig.lab
            .delete("koornacht", &ObjectKey::new(Kind::Pod, "default", name))
            .unwrap();
    }
    eventually("all are gone", || {
        rig.lab
            .api("koornacht")
            .unwrap()
            .list(Kind::Pod)
            .unwrap()
            .is_empty()
    });
}

#[test]
fn service_account_must_exist() {
    let rig = Rig::up("taccount");
    let text = deployment("web", 1, "nginx:1", "").replace(
        "      containers:",
        "      serviceAccountName: pilot\n      containers:",
    );
    rig.apply(&text);
    eventually("it says what it waits for", || {
        rig.lab
            .pods("koornacht", "web")
            .unwrap()
            .first()
            .is_some_and(|pod| {
                pod.value.pointer("/status/message")
                    == Some(&"serviceaccount \"pilot\" not found".into())
            })
    });
    rig.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: pilot}}");
    rig.wait_ready("web");
    rig.apply("{apiVersion: v1, kind: Namespace, metadata: {name: rebels}}");
    let key = ObjectKey::new(Kind::ServiceAccount, "rebels", "default");
    eventually("a namespace has its account", || {
        rig.lab
            .api("koornacht")
            .unwrap()
            .get(&key)
            .unwrap()
            .is_some()
    });
}

#[test]
fn two_containers_share_addresses_but_not_files() {
    let rig = Rig::up("ttwo");
    let text = deployment("web", 1, "nginx:1", "")
        + "      - name: side\n        image: tulle.test/host:1\n        command: [sleep, '1000']\n";
    rig.apply(&text);
    rig.wait_ready("web");
    let run = |container: &str, command: &[&str]| {
        let request = ExecRequest {
            target: "deployment/web".to_owned(),
            container: Some(container.to_owned()),
            command: command.iter().map(Into::into).collect(),
            ..ExecRequest::default()
        };
        rig.lab.exec_request("koornacht", &request).unwrap()
    };
    let output = run(
        "side",
        &[
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "localhost",
        ],
    );
    assert_eq!(text_of(&output), "200");
    assert!(run("main", &["touch", "/run/mine"]).status.success());
    assert!(!run("side", &["test", "-e", "/run/mine"]).status.success());
}

fn text_of(output: &std::process::Output) -> String {
    text(output)
}
