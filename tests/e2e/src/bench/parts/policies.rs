//! New connections against more and more policies.

use anyhow::{Context as _, Result};

use crate::bench::{
    Mode, Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place},
    sizes::Sizes,
    stage::{CLIENT_CLUSTER, CLIENT_NODE, finish, server_name},
};

/// Policies that all apply to the server, with one rule each, of which none is about the client.
pub(in crate::bench) struct Policies;

impl Part for Policies {
    fn name(&self) -> &'static str {
        "policies"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn rounds(&self, _: &Settings) -> usize {
        1
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn not_for_peer(&self) -> Option<&'static str> {
        Some("the policies are Cilium network policies, which a ztunnel is not told")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let mut sizes = Sizes::default();
        let mut made = 0;
        for count in COUNTS {
            if place.stage.mode() != Mode::Direct && count > made {
                make(place, made, count)?;
                made = count;
            }
            let name = format!("{count} policies, 16 clients, new connections");
            let is_end = count == 0 || count == 10_000;
            let figure = Figure::new(name, Unit::PerSecond).headline(is_end);
            sizes.ask(place, &figure, || {
                let outcome = place.load("connect", &["--clients", "16"])?;
                outcome.number("per_second")
            })?;
        }
        let name = "new connections, 10,000 policies ÷ 0";
        sizes.compared(Figure::new(name, Unit::Share).headline(true))
    }
}

/// The last policy lets a stranger in: when that one gets through, the nodes have them all.
fn make(place: &Place<'_>, from: u32, to: u32) -> Result<()> {
    let (stage, server) = (place.stage, server_name(place.path));
    let stranger = format!("stranger-{to}");
    stage.create_pod(CLIENT_CLUSTER, CLIENT_NODE, &stranger, &["sleep", "100000"])?;
    let manifest: Vec<String> = (from..to)
        .map(|number| {
            let peer = match number {
                last if last + 1 == to => stranger.clone(),
                other => format!("nobody-{other}"),
            };
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: many-{number:05}}}\nspec:\n  \
                 endpointSelector: {{matchLabels: {{name: {server}}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{name: {peer}}}\n"
            )
        })
        .collect();
    stage.apply_many(&manifest)?;
    let load = place
        .settings
        .load
        .to_str()
        .context("the load program's path")?;
    let address = stage.server(place.path)?.to_string();
    place.wait_for("the last policy holds", || {
        let command = [load, "hold", &address, "--connections", "1"];
        let child = stage.start_in(&stranger, &command)?;
        Ok(finish(child, TRY_LIMIT).is_ok())
    })?;
    stage.delete_pod(&stranger)?;
    place.settle()
}

const COUNTS: [u32; 4] = [0, 100, 1_000, 10_000];
const TRY_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
