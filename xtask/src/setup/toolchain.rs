//! The Rust toolchain: where it lies, and the components that the build needs beyond the compiler.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{Run, is_installed},
    workspace::Workspace,
};

/// Components and a file in the toolchain's folder that each brings.
const COMPONENTS: [(&str, &str); 3] = [
    // The kernel side's `core` is built from source.
    ("rust-src", "lib/rustlib/src/rust/library/core/src/lib.rs"),
    ("rustfmt", "bin/rustfmt"),
    ("clippy", "bin/cargo-clippy"),
];

const DOWNLOAD_LIMIT: Duration = Duration::from_mins(10);

/// The toolchain that builds this repository.
pub(super) struct Toolchain {
    sysroot: PathBuf,
}

impl Toolchain {
    pub(super) fn locate(workspace: &Workspace) -> Result<Self> {
        let sysroot = Run::new("rustc")
            .args(["--print", "sysroot"])
            .folder(workspace.root())
            .output()?;
        Ok(Self {
            sysroot: sysroot.trim().into(),
        })
    }

    /// The folder of the toolchain's shared libraries.
    pub(super) fn libraries(&self) -> PathBuf {
        self.sysroot.join("lib")
    }

    pub(super) fn add_missing_components(&self, workspace: &Workspace) -> Result<()> {
        let missing = self.missing_components();
        if missing.is_empty() {
            return Ok(());
        }
        if !is_installed("rustup") {
            bail!(
                "the toolchain at {} lacks {} and there is no rustup to add it: install rustup from https://rustup.rs",
                self.sysroot.display(),
                missing.join(", ")
            );
        }
        Run::new("rustup")
            .args(["component", "add"])
            .args(&missing)
            .folder(workspace.root())
            .limit(DOWNLOAD_LIMIT)
            .run()?;
        match self.missing_components().first() {
            None => Ok(()),
            Some(component) => bail!(
                "rustup added {component}, but it is not in {}",
                self.sysroot.display()
            ),
        }
    }

    /// The LLVM that this compiler was linked with, as rustup ships it.
    pub(super) fn llvm(&self) -> Result<PathBuf> {
        let libraries = self.libraries();
        let mut found: Vec<PathBuf> = std::fs::read_dir(&libraries)
            .with_context(|| format!("cannot list {}", libraries.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_llvm(path))
            .collect();
        found.sort();
        found.pop().with_context(|| {
            format!(
                "no libLLVM.so.* in {}: this toolchain is not rustup's; run `rustup toolchain install`",
                libraries.display()
            )
        })
    }

    fn missing_components(&self) -> Vec<&'static str> {
        COMPONENTS
            .iter()
            .filter(|(_, file)| !self.sysroot.join(file).exists())
            .map(|(component, _)| *component)
            .collect()
    }
}

/// `libLLVM.so.22.1-rust-1.95.0-stable`: the real library; the name without a version number is a linker script.
fn is_llvm(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("libLLVM.so."))
}
