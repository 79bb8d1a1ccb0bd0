//! HTTP/1.1 by wrk and HTTP/2 by h2load against nginx, with and without a policy that reads the requests.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::bench::{
    Mode, Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place},
    stage::{CLIENT, CLIENT_CLUSTER, finish},
};

/// Sixteen connections, a small answer.
pub(in crate::bench) struct Http;

impl Part for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn not_for_peer(&self) -> Option<&'static str> {
        Some("the policy reads requests, which a ztunnel does not")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for (pod, what) in [(PLAIN, "L4 policy"), (READ, "L7 policy")] {
            let address = server(place, pod, CLIENT)?;
            let seconds = place.settings.length.as_secs().max(1);
            let duration = format!("{seconds}s");
            let url = format!("http://{address}:{HTTP1_PORT}/");
            let text = run(
                place,
                &["wrk", "-t1", "-c16", "-d", &duration, "--latency", &url],
            )?;
            let (rate, p50) = wrk(&text).with_context(|| text.clone())?;
            let name = |load: &str| format!("{load}, {what}");
            let figure = Figure::new(name("HTTP/1.1, wrk -c16"), Unit::PerSecond);
            samples.push(figure.headline(true).of(rate));
            samples.push(Figure::new(name("HTTP/1.1, wrk -c16, p50"), Unit::Micros).of(p50));
            let url = format!("http://{address}:{HTTP2_PORT}/");
            let text = run(
                place,
                &[
                    "h2load",
                    "-t1",
                    "-c4",
                    "-m4",
                    "-D",
                    &seconds.to_string(),
                    &url,
                ],
            )?;
            let rate = h2load(&text).with_context(|| text.clone())?;
            let figure = Figure::new(name("HTTP/2, h2load -c4 -m4"), Unit::PerSecond);
            samples.push(figure.headline(true).of(rate));
        }
        Ok(samples)
    }
}

fn run(place: &Place<'_>, command: &[&str]) -> Result<String> {
    let child = place.stage.start(command)?;
    let output = finish(child, place.settings.length * 10 + OVERTIME)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The nginx of that name, made when it is first asked for; only `client` may reach it.
pub(super) fn server(place: &Place<'_>, name: &str, client: &str) -> Result<std::net::IpAddr> {
    let stage = place.stage;
    if let Ok(address) = stage.address(CLIENT_CLUSTER, name) {
        return Ok(address);
    }
    let folder = stage.lab.state_directory();
    let file = folder.join(format!("{name}.conf"));
    let folder = folder.display();
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {folder}/{name}.pid;\nerror_log stderr error;\nevents {{ worker_connections 1024; }}\nhttp {{\n  \
         access_log off;\n  keepalive_requests 1000000000;\n  client_body_temp_path {folder}/{name}.tmp;\n  \
         server {{ listen {HTTP1_PORT}; location / {{ return 200 'hello\\n'; }} }}\n  \
         server {{ listen {HTTP2_PORT} http2; location / {{ return 200 'hello\\n'; }} }}\n}}\n"
    );
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let file = file.to_string_lossy();
    if stage.mode() != Mode::Direct {
        let rules = if name.starts_with(READ) {
            "\n      rules: {http: [{method: GET, path: /}]}"
        } else {
            ""
        };
        stage.lab.apply_text(CLIENT_CLUSTER, &format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{name: {name}}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{name: {client}}}\n    \
             toPorts:\n    - ports:\n      - {{port: '{HTTP1_PORT}', protocol: TCP}}\n      - {{port: '{HTTP2_PORT}', protocol: TCP}}{rules}\n"
        ))?;
    }
    stage.create_pod(
        CLIENT_CLUSTER,
        place.path.node(),
        name,
        &["nginx", "-c", &file],
    )?;
    let address = stage.address(CLIENT_CLUSTER, name)?;
    let url = format!("http://{address}:{HTTP1_PORT}/");
    place.wait_for("nginx answers", || {
        let child = stage.start_in(
            client,
            &["curl", "--fail", "--silent", "--max-time", "2", &url],
        )?;
        Ok(finish(child, OVERTIME).is_ok())
    })?;
    Ok(address)
}

/// Requests per second and the median latency in microseconds.
pub(in crate::bench) fn wrk(text: &str) -> Option<(f64, f64)> {
    // Answers that are not 200 make no rate.
    text.lines()
        .all(|line| !line.contains("Non-2xx") && !line.contains("Socket errors"))
        .then_some(())?;
    let word = |start: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(start))?;
        line.split_whitespace().next()
    };
    Some((word("Requests/sec:")?.parse().ok()?, micros(word("50%")?)?))
}

fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) = units
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

/// Requests per second.
pub(in crate::bench) fn h2load(text: &str) -> Option<f64> {
    let status = text
        .lines()
        .find(|line| line.starts_with("status codes:"))?;
    status.contains(" 0 4xx, 0 5xx").then_some(())?;
    let line = text.lines().find(|line| line.starts_with("finished in"))?;
    let rate = line
        .split(", ")
        .find_map(|part| part.strip_suffix(" req/s"))?;
    rate.parse().ok().filter(|rate| *rate > 0.0)
}

const PLAIN: &str = "http-plain";
/// Servers whose names begin so have a policy that reads requests.
pub(super) const READ: &str = "http-read";
pub(super) const HTTP1_PORT: u16 = 8080;
const HTTP2_PORT: u16 = 8082;
const OVERTIME: Duration = Duration::from_secs(10);
