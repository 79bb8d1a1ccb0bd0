//! Datagrams to a service, each decided anew; direct TCP's rig has no services, so there they go to the pod.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tulle_lab::{Kind, ObjectKey};

use crate::bench::{
    Mode, Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{IN_CLUSTER, Path, Place},
    stage::{CLIENT_CLUSTER, NAMESPACE, PORT, finish, server_name},
};

/// Round trips of 64 bytes.
pub(in crate::bench) struct Udp;

impl Part for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &IN_CLUSTER
    }

    fn not_for_peer(&self) -> Option<&'static str> {
        Some("a ztunnel carries no UDP")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let server = match place.stage.mode() {
            Mode::Direct => place.stage.server(place.path)?,
            Mode::Tulle | Mode::Ztunnel => service(place)?,
        };
        let length = place.settings.length.as_secs_f64().to_string();
        let child = place.stage.start_load(
            place.settings,
            &["udp", &server.to_string(), "--seconds", &length],
        )?;
        let output = finish(child, place.settings.length * 10)?;
        let answer = serde_json::from_slice(&output.stdout)?;
        let number = |field| crate::bench::place::number(&answer, field);
        Ok(vec![
            Figure::new("64 B, p50", Unit::Micros)
                .headline(true)
                .of(number("p50_us")?),
            Figure::new("64 B, p99", Unit::Micros).of(number("p99_us")?),
        ])
    }
}

/// The service of the path's server, made when it is first asked for.
fn service(place: &Place<'_>) -> Result<SocketAddr> {
    let name = format!("udp-{}", server_name(place.path));
    let key = ObjectKey::new(Kind::Service, NAMESPACE, &name);
    let api = place.stage.lab.api(CLIENT_CLUSTER)?;
    if api.get(&key)?.is_none() {
        let manifest = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{name: {}}}\n  ports:\n  \
             - {{name: udp, port: {PORT}, protocol: UDP}}\n  - {{name: tcp, port: {PORT}, protocol: TCP}}\n",
            server_name(place.path)
        );
        place.stage.lab.apply_text(CLIENT_CLUSTER, &manifest)?;
    }
    let object = api.get(&key)?.context("the service is not there")?;
    let address = object.value.pointer("/spec/clusterIP");
    let address = address.and_then(|address| address.as_str());
    let address = address.context("the service has no address")?.parse()?;
    let server = SocketAddr::new(address, PORT);
    // Its TCP port tells when the node knows it.
    place
        .stage
        .prove_address(place.settings, &server.to_string())?;
    Ok(server)
}
