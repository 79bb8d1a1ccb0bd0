//! New connections against more and more endpoints of one service.
//!
//! Ten thousand pods do not fit on a machine, so a server on the client's node, outside of every pod, answers for a whole subnet, and the service's
//! endpoints are addresses of it, which the mesh lets the client reach as they are: what is measured is the choice among them.

use std::{
    net::SocketAddr,
    process::{Child, Command},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{Kind, ObjectKey};

use crate::{
    bench::{
        Mode, Settings,
        figure::{Figure, Sample, Unit},
        part::Part,
        place::{Path, Place},
        sizes::Sizes,
        stage::{CLIENT_CLUSTER, CLIENT_NODE, NAMESPACE, PORT},
    },
    rig::streams,
};

/// Sixteen clients at once.
pub(in crate::bench) struct Endpoints;

impl Part for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &[Path::SameNode]
    }

    fn rounds(&self, _: &Settings) -> usize {
        1
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn not_for_peer(&self) -> Option<&'static str> {
        Some("the endpoints are addresses without pods, which a ztunnel would pass on in plaintext")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let _server = Server::start(place)?;
        let mut sizes = Sizes::default();
        for count in COUNTS {
            let server = match place.stage.mode() {
                Mode::Direct => SocketAddr::new(address(0).parse()?, PORT),
                Mode::Tulle | Mode::Ztunnel => service(place, count)?,
            };
            let name = format!("{count} endpoints, 16 clients, new connections");
            let is_end = count == 1 || count == 10_000;
            let figure = Figure::new(name, Unit::PerSecond).headline(is_end);
            sizes.ask(place, &figure, || {
                let outcome = place.load_at("connect", server, &["--clients", "16"])?;
                outcome.number("per_second")
            })?;
        }
        let name = "new connections, 10,000 endpoints ÷ 1";
        sizes.compared(Figure::new(name, Unit::Share).headline(true))
    }
}

/// What answers for the subnet; ends with this.
struct Server(Child);

impl Server {
    fn start(place: &Place<'_>) -> Result<Server> {
        let (stage, load) = (place.stage, &place.settings.load);
        let routed = stage.lab.inside_node(CLIENT_NODE, || {
            let route = ["route", "replace", "local", SUBNET, "dev", "lo"];
            Command::new("ip").args(route).output()
        })?;
        let output = routed.context("ip")?;
        ensure!(output.status.success(), "ip route: {}", streams(&output));
        let listen = format!("0.0.0.0:{PORT}");
        let child = stage.lab.inside_node(CLIENT_NODE, || {
            Command::new(load).args(["serve", &listen]).spawn()
        })?;
        let server = Server(child.context("the load program")?);
        let first = SocketAddr::new(address(0).parse()?, PORT);
        stage.prove_address(place.settings, &first.to_string())?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the load has told.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A service with so many endpoints.
fn service(place: &Place<'_>, count: u32) -> Result<SocketAddr> {
    let name = format!("wide-{count}");
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ipFamilies": ["IPv4"], "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}]},
    })];
    let addresses: Vec<String> = (0..count).map(address).collect();
    for (number, chunk) in addresses.chunks(ENDPOINTS_PER_SLICE).enumerate() {
        objects.push(slice(&name, number, chunk));
    }
    let backends = || place.stage.metric(CLIENT_NODE, "tulle_kernel_backends");
    let wanted = backends()? + u64::from(count);
    let lab = &place.stage.lab;
    // JSON is YAML.
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    place.stage.apply_many(&text)?;
    place.wait_for("the kernel knows all endpoints", || {
        Ok(backends()? >= wanted)
    })?;
    let key = ObjectKey::new(Kind::Service, NAMESPACE, &name);
    let object = lab.api(CLIENT_CLUSTER)?.get(&key)?;
    let address = object
        .as_ref()
        .and_then(|service| service.value.pointer("/spec/clusterIP")?.as_str());
    let address = address.context("the service has no address")?;
    let server = SocketAddr::new(address.parse()?, PORT);
    place
        .stage
        .prove_address(place.settings, &server.to_string())?;
    place.settle()?;
    Ok(server)
}

fn slice(service: &str, number: usize, addresses: &[String]) -> Value {
    let endpoint =
        |address: &String| json!({"addresses": [address], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{number}"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The address with this number in the subnet, without those that end in 0 or 255.
fn address(number: u32) -> String {
    format!("10.250.{}.{}", number / 250, number % 250 + 1)
}

const SUBNET: &str = "10.250.0.0/16";
const COUNTS: [u32; 4] = [1, 100, 1_000, 10_000];
const ENDPOINTS_PER_SLICE: usize = 100;
