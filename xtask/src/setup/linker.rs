//! `bpf-linker`, built against the LLVM inside the Rust toolchain.
//!
//! It must read the bitcode that this very compiler writes, so its LLVM is the compiler's own: no LLVM package is needed.

use std::{fs, os::unix::fs::symlink, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::toolchain::Toolchain;
use crate::{process::Run, workspace::Workspace};

const VERSION: &str = "0.13";
/// The feature that matches the LLVM of the pinned toolchain.
const LLVM_FEATURE: &str = "llvm-22";
const BUILD_LIMIT: Duration = Duration::from_mins(20);

pub(super) fn install_missing(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    if works() {
        return Ok(());
    }
    let llvm = toolchain.llvm()?;
    // The build script looks for `lib64/libLLVM.so` below this folder; rustup ships the library under a longer name.
    let prefix = workspace.target().join("tools/llvm");
    let folder = prefix.join("lib64");
    let link = folder.join("libLLVM.so");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    symlink(&llvm, &link).with_context(|| format!("cannot create {}", link.display()))?;

    workspace
        .cargo()
        .args([
            "install",
            "bpf-linker",
            "--version",
            &format!("^{VERSION}"),
            "--locked",
            "--force",
            "--quiet",
        ])
        .args(["--no-default-features", "--features", LLVM_FEATURE])
        .arg("--target-dir")
        .arg(workspace.target().join("tools/build"))
        .env("LLVM_PREFIX", &prefix)
        .env(
            "RUSTFLAGS",
            format!("-C link-arg=-Wl,-rpath,{}", toolchain.libraries().display()),
        )
        .limit(BUILD_LIMIT)
        .run()?;
    if !works() {
        bail!(
            "bpf-linker was installed but does not run: put cargo's `bin` folder (~/.cargo/bin) on the PATH"
        );
    }
    Ok(())
}

/// Whether a linker of the right version starts; one that was built for a toolchain that is gone does not.
fn works() -> bool {
    Run::new("bpf-linker")
        .arg("--version")
        .output()
        .is_ok_and(|text| is_right_version(&text))
}

fn is_right_version(text: &str) -> bool {
    text.trim()
        .strip_prefix("bpf-linker ")
        .and_then(|version| version.strip_prefix(VERSION))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_compared_by_its_parts() {
        assert!(is_right_version("bpf-linker 0.13.0\n"));
        assert!(is_right_version("bpf-linker 0.13"));
        assert!(!is_right_version("bpf-linker 0.130.0"));
        assert!(!is_right_version("bpf-linker 0.9.13"));
        assert!(!is_right_version(""));
    }
}
