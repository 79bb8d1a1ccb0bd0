//! What `connect()` costs against more and more services: the decision that the mesh makes inside of the call.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tulle_lab::{Kind, ObjectKey};

use crate::bench::{
    Mode, Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{Path, Place},
    sizes::Sizes,
    stage::{CLIENT_CLUSTER, CLIENT_NODE, NAMESPACE, PORT, server_name},
};

/// Calls on a UDP socket, which send nothing.
pub(in crate::bench) struct Services;

impl Part for Services {
    fn name(&self) -> &'static str {
        "services"
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
        Some("a ztunnel decides after connect(), so there is nothing to measure in it")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let mut sizes = Sizes::default();
        let mut made = 0;
        for count in COUNTS {
            let server = match place.stage.mode() {
                Mode::Direct => place.stage.server(place.path)?,
                Mode::Tulle | Mode::Ztunnel => {
                    make(place, made, count)?;
                    made = count;
                    target(place)?
                }
            };
            let name = format!("connect() against {count} services, p50");
            let figure = Figure::new(name, Unit::Nanos).headline(count != 100);
            sizes.ask(place, &figure, || {
                let outcome = place.load_at("dial", server, &[])?;
                Ok(outcome.number("p50_us")? * 1e3)
            })?;
        }
        sizes.compared(Figure::new("connect(), 10,000 services ÷ 1", Unit::Times).headline(true))
    }
}

/// The first service leads to the server; the others stand in its way.
fn make(place: &Place<'_>, from: u32, to: u32) -> Result<()> {
    let manifest: Vec<String> = (from..to)
        .map(|number| {
            let selector = match number {
                0 => format!("\n  selector: {{name: {}}}", server_name(place.path)),
                _ => String::new(),
            };
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: many-{number}}}\nspec:\n  ipFamilies: [IPv4]{selector}\n  ports:\n  \
                 - {{name: udp, port: {PORT}, protocol: UDP}}\n"
            )
        })
        .collect();
    let before = frontends(place)?;
    place.stage.apply_many(&manifest)?;
    let wanted = before + u64::from(to - from);
    place.wait_for("the kernel knows all services", || {
        Ok(frontends(place)? >= wanted)
    })?;
    place.settle()
}

fn frontends(place: &Place<'_>) -> Result<u64> {
    place.stage.metric(CLIENT_NODE, "tulle_kernel_frontends")
}

fn target(place: &Place<'_>) -> Result<SocketAddr> {
    let key = ObjectKey::new(Kind::Service, NAMESPACE, "many-0");
    let object = place.stage.lab.api(CLIENT_CLUSTER)?.get(&key)?;
    let address = object
        .as_ref()
        .and_then(|service| service.value.pointer("/spec/clusterIP")?.as_str());
    let address = address.context("the service has no address")?;
    Ok(SocketAddr::new(address.parse()?, PORT))
}

const COUNTS: [u32; 3] = [1, 100, 10_000];
