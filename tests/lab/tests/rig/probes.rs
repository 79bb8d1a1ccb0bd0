//! Probes: what they ask, and what follows from the answers.

use tulle_lab::Kind;

use super::support::{Rig, deployment, eventually};

#[test]
fn readiness_follows_the_answer() {
    let rig = Rig::up("tready");
    let probe = "readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 2}";
    rig.apply(&deployment("web", 1, "nginx:1", probe));
    rig.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}",
    );
    let listed = || {
        rig.lab
            .get(
                "koornacht",
                "endpoints",
                Some("web"),
                None,
                tulle_lab::OutputFormat::Table,
            )
            .unwrap()
    };
    eventually("it runs", || {
        rig.lab
            .exec("koornacht", "deployment/web", &["true"])
            .is_ok()
    });
    let pod = rig.only_pod("web");
    let ready = || rig.field(Kind::Pod, &pod, "/status/containerStatuses/0/ready");
    assert_eq!(ready(), false);
    assert!(listed().contains("<none>"), "{}", listed());
    for _ in 0..2 {
        rig.run("deployment/web", &["touch", "/tmp/ready"]);
        eventually("it is ready", || {
            ready() == true && listed().contains(":80")
        });
        rig.run("deployment/web", &["rm", "/tmp/ready"]);
        eventually("it is not ready", || {
            ready() == false && listed().contains("<none>")
        });
    }
    assert_eq!(
        rig.field(Kind::Pod, &pod, "/status/containerStatuses/0/restartCount"),
        0
    );
}

#[test]
fn liveness_restarts_a_container_that_fails() {
    let rig = Rig::up("tlive");
    let server = "command: [sh, -c, \"cp /etc/nginx/nginx.conf /tmp/own.conf; exec nginx -c /tmp/own.conf -g 'daemon off;'\"]
readinessProbe: {httpGet: {port: web}}
ports: [{name: web, containerPort: 80}]
livenessProbe: {periodSeconds: 1, failureThreshold: 2, ";
    // The server goes on running but leaves its port.
    let leave = "sed -i 's/80 default/81 default/' /tmp/own.conf; nginx -c /tmp/own.conf -s reload";
    let table = [
        ("http", "httpGet: {path: /, port: 80}}", leave),
        ("tcp", "tcpSocket: {port: web}}", leave),
        (
            "exec",
            "exec: {command: [test, '!', -e, /tmp/sick]}}",
            "touch /tmp/sick",
        ),
    ];
    for (name, probe, _) in table {
        rig.apply(&deployment(name, 1, "nginx:1", &format!("{server}{probe}")));
    }
    for (name, _, harm) in table {
        rig.wait_ready(name);
        let pod = rig.only_pod(name);
        let status = |path: &str| {
            rig.field(
                Kind::Pod,
                &pod,
                &format!("/status/containerStatuses/0/{path}"),
            )
        };
        let before = status("restartCount").as_u64();
        rig.run(&format!("deployment/{name}"), &["sh", "-c", harm]);
        eventually("it is started again", || {
            status("restartCount").as_u64() > before
        });
        let why = status("lastState/terminated/message");
        assert!(
            why.as_str().unwrap().starts_with("Liveness probe failed: "),
            "{name}: {why}"
        );
        rig.wait_ready(name);
        assert_eq!(rig.only_pod(name), pod);
    }
}

#[test]
fn startup_probe_holds_the_others_back() {
    let rig = Rig::up("tstart");
    let probes = "startupProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 60}
livenessProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 1}
readinessProbe: {httpGet: {port: 80}}";
    rig.apply(&deployment("web", 1, "nginx:1", probes));
    eventually("it runs", || {
        rig.lab
            .exec("koornacht", "deployment/web", &["true"])
            .is_ok()
    });
    let pod = rig.only_pod("web");
    let status = |field: &str| {
        rig.field(
            Kind::Pod,
            &pod,
            &format!("/status/containerStatuses/0/{field}"),
        )
    };
    eventually("the server answers", || {
        rig.lab
            .exec("koornacht", "deployment/web", &["curl", "-s", "localhost"])
            .unwrap()
            .status
            .success()
    });
    assert_eq!(
        (status("started"), status("ready")),
        (false.into(), false.into())
    );
    rig.run("deployment/web", &["touch", "/tmp/started"]);
    rig.wait_ready("web");
    assert_eq!(
        (status("started"), status("restartCount")),
        (true.into(), 0.into())
    );
}

#[test]
fn probe_that_hangs_counts_as_failed() {
    let rig = Rig::up("thang");
    let probe =
        "readinessProbe: {exec: {command: [sleep, '1000']}, periodSeconds: 1, timeoutSeconds: 1}";
    rig.apply(&deployment("web", 1, "nginx:1", probe));
    eventually("it runs", || {
        rig.lab
            .exec("koornacht", "deployment/web", &["true"])
            .is_ok()
    });
    let count = || {
        let output = rig.lab.exec(
            "koornacht",
            "deployment/web",
            &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"],
        );
        String::from_utf8_lossy(&output.unwrap().stdout)
            .matches("sleep 1000")
            .count()
    };
    eventually("it is asked", || count() > 0);
    // However long it goes on, there is never a heap of probes that hang.
    for _ in 0..20 {
        assert!(count() <= 2);
    }
    let pod = rig.only_pod("web");
    assert_eq!(
        rig.field(Kind::Pod, &pod, "/status/containerStatuses/0/ready"),
        false
    );
}
