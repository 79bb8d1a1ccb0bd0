//! Where things are: the repository, the build folder, the programs that a release build leaves there.

use std::{
    env,
    path::{self, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::process::Run;

/// The programs that the lab and the end-to-end tests drive, by package.
const PROGRAMS: [(&str, &str); 3] = [
    ("tulle-node-proxy", "node-proxy"),
    ("tulle-xds-server", "xds-server"),
    ("tulle", "tulle"),
];

/// A cold release build on two cores takes a third of this.
const BUILD_LIMIT: Duration = Duration::from_mins(40);

/// The repository and its build folder.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds both from where this program was built.
    pub(crate) fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the xtask package has no parent folder")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => path::absolute(folder).context("CARGO_TARGET_DIR is not a path")?,
            // Cargo put this program into `<target>/<profile>/xtask`; asking cargo would cost a second on each call.
            None => env::current_exe()
                .context("this program's own path is unknown")?
                .ancestors()
                .nth(2)
                .context("this program lies outside of a build folder; start it as `cargo xtask`")?
                .to_owned(),
        };
        Ok(Self { root, target })
    }

    /// The repository's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's build folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The folder that holds the release programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target.join("release")
    }

    /// The command line of Tulle.
    pub(crate) fn tulle(&self) -> PathBuf {
        self.programs().join("tulle")
    }

    /// A cargo command in the repository.
    pub(crate) fn cargo(&self) -> Run {
        Run::new("cargo").folder(&self.root)
    }

    /// Builds the programs that run in a cluster, and the command line.
    pub(crate) fn build_programs(&self) -> Result<()> {
        let mut cargo = self
            .cargo()
            .args(["build", "--release", "--quiet"])
            .limit(BUILD_LIMIT);
        for (package, program) in PROGRAMS {
            cargo = cargo.args(["--package", package, "--bin", program]);
        }
        cargo.run()
    }
}
