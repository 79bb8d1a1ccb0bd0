//! Builds the kernel side (`ebpf/programs`) with the same toolchain, for the kernel's own target, into `OUT_DIR`.
//!
//! It is a build of its own because it needs `core` compiled for a target that has no ready-made one.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// The target without operating system that the kernel's verifier accepts (little endian).
const TARGET: &str = "bpfel-unknown-none";
/// The object files: what a node has once, and what each pod has for itself.
const OBJECTS: [&str; 2] = ["tulle-programs", "tulle-steering"];
/// What mends a machine that lacks a part of the toolchain.
const REMEDY: &str = "run `cargo xtask setup`";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let ebpf_dir = manifest_dir
        .parent()
        .ok_or_else(|| format!("{} has no parent", manifest_dir.display()))?;
    for input in [
        "programs/src",
        "programs/Cargo.toml",
        "programs/Cargo.lock",
        "abi/src",
        "abi/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", ebpf_dir.join(input).display());
    }
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    if variable("CARGO_CFG_TARGET_ENDIAN")? != "little" {
        return Err("the kernel side is built for little-endian machines only".to_owned());
    }
    require_rust_src()?;
    let linker = require_linker()?;
    compile(
        &ebpf_dir.join("programs"),
        &out_dir.join("programs"),
        &linker,
    )?;
    for object in OBJECTS {
        let built = out_dir
            .join("programs")
            .join(TARGET)
            .join("release")
            .join(object);
        let copied = out_dir.join(object);
        fs::copy(&built, &copied).map_err(|err| {
            format!(
                "cannot copy {} to {}: {err}",
                built.display(),
                copied.display()
            )
        })?;
    }
    Ok(())
}

/// Runs cargo in the programs' own workspace, undisturbed by the settings of the build that called us.
fn compile(source: &Path, target_dir: &Path, linker: &Path) -> Result<(), String> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("-Clinker={}", linker.display()),
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let status = Command::new(variable("CARGO")?)
        .current_dir(source)
        .args([
            "build",
            "--release",
            "--locked",
            "--bins",
            "-Z",
            "build-std=core",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC", variable("RUSTC")?)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(|err| format!("cannot run cargo for the kernel side: {err}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!(
            "the kernel side in {} does not build (see above)",
            source.display()
        ))
    }
}

/// `core` is compiled from source, so the source must be there.
fn require_rust_src() -> Result<(), String> {
    let output = Command::new(variable("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|err| format!("cannot ask rustc for its sysroot: {err}"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file()
    {
        Ok(())
    } else {
        Err(format!(
            "the toolchain in {} lacks the component rust-src, which the kernel side is built from: {REMEDY}",
            sysroot.display()
        ))
    }
}

/// Finds `bpf-linker` in the search path, or where cargo installs programs.
fn require_linker() -> Result<PathBuf, String> {
    let search_path = variable("PATH").unwrap_or_default();
    let cargo_bin = env::home_dir().map(|home| home.join(".cargo/bin"));
    env::split_paths(&search_path)
        .chain(cargo_bin)
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!("bpf-linker, which links the kernel side, is not installed: {REMEDY}")
        })
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|err| format!("the build variable {name} is not usable: {err}"))
}
