//! The simulator itself, at a size that takes seconds: what it needs of the servers must not change unseen.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tulle_bench::{
    plan::Plan,
    scale::{self, Settings},
};

const NODES: usize = 5;
const CHANGES: usize = 20;

#[test]
fn a_small_mesh_is_measured_whole() -> Result<()> {
    let binaries = env::var_os("TULLE_BIN_DIR").map(PathBuf::from);
    let settings = Settings {
        plan: Plan {
            clusters: 4,
            services: 200,
            endpoints: 1_000,
        },
        nodes: NODES,
        changes: CHANGES,
        binaries: binaries.context("TULLE_BIN_DIR is not set: run `cargo xtask test`")?,
        deadline: Duration::from_secs(60),
    };
    let report = scale::run(&settings, &mut |line| eprintln!("{line}"))?;
    eprintln!("{}", report.json());
    ensure!(report.nodes == NODES);
    let (latencies, changes) = (report.latencies.len(), report.change_bytes.len());
    ensure!(
        latencies == NODES * CHANGES && changes == CHANGES,
        "{latencies} {changes}"
    );
    // One endpoint, not the slice that it came in, and certainly not the mesh.
    // On a starved machine a simulated cluster may fall silent for a moment: then all that is its changes, which is another matter.
    let mut sizes = report.change_bytes;
    sizes.sort_unstable();
    let most = sizes.get(CHANGES * 3 / 4).context("no change")?;
    ensure!(*most < 4_096, "{sizes:?} bytes for one endpoint");
    Ok(())
}
