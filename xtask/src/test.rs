//! Every test: unit tests, tests of the real kernel side, end-to-end tests on the lab.
//!
//! It decides which test programs may use all cores and which own the machine, bounds the time of each, and adds up the results.

mod summary;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use self::summary::Summary;
use crate::{lock::RunLock, process::Run, say, setup, workspace::Workspace};

/// Packages whose tests share the kernel, the processors' time or the lab's names: one test at a time.
const SERIAL_PACKAGES: [&str; 4] = ["tulle-datapath", "tulle-lab", "tulle-bench", END_TO_END];

/// Packages whose tests need the lab and the built programs.
const LAB_PACKAGES: [&str; 2] = ["tulle-bench", END_TO_END];

const END_TO_END: &str = "tulle-e2e";

const COMPILE_LIMIT: Duration = Duration::from_mins(40);
const PROGRAM_LIMIT: Duration = Duration::from_mins(20);

#[derive(Args)]
pub(crate) struct Options {
    /// Runs only the tests whose name contains this
    filter: Option<String>,
    /// Leaves out the end-to-end tests
    #[arg(long)]
    unit_only: bool,
    /// Runs the end-to-end tests alone, with this way to be fast switched off in every lab
    #[arg(long, value_parser = ["lanes", "sockmap", "same-node", "unpaced"], conflicts_with = "unit_only")]
    without: Option<String>,
}

impl Options {
    fn wants(&self, package: &str) -> bool {
        match self.without {
            Some(_) => package == END_TO_END,
            None => !(self.unit_only && LAB_PACKAGES.contains(&package)),
        }
    }
}

/// A compiled test program.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    package: String,
    target: String,
    folder: PathBuf,
    executable: PathBuf,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let started = Instant::now();
    setup::run_all(workspace)?;
    let _lock = RunLock::take()?;

    say::heading("build");
    workspace.build_programs()?;
    setup::clean_lab(workspace)?;
    let programs = compile(workspace)?;

    let mut summary = Summary::default();
    for program in &programs {
        if !options.wants(&program.package) {
            continue;
        }
        say::heading(format_args!("{} {}", program.package, program.target));
        run_program(workspace, program, options, &mut summary);
    }
    if options.filter.is_none() && options.without.is_none() {
        say::heading("examples in the documentation");
        run_doc_tests(workspace, &mut summary);
    }
    say::heading(format_args!(
        "{summary} in {:.0} s",
        started.elapsed().as_secs_f64()
    ));
    summary.into_result()
}

fn compile(workspace: &Workspace) -> Result<Vec<TestProgram>> {
    let run = workspace
        .cargo()
        .args([
            "test",
            "--workspace",
            "--no-run",
            "--quiet",
            "--message-format",
            "json-render-diagnostics",
        ])
        .limit(COMPILE_LIMIT);
    say::line(format_args!("   $ {run}"));
    let captured = run.capture()?;
    if !captured.status.success() {
        bail!("the tests do not compile:\n{}", captured.stderr.trim());
    }
    let mut programs: Vec<TestProgram> = captured
        .stdout
        .lines()
        .map(read_message)
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    // Quick ones first, those that own the machine last; and always in the same order.
    programs.sort_by_key(|program| {
        (
            is_serial(program),
            program.package == END_TO_END,
            program.package.clone(),
            program.target.clone(),
        )
    });
    Ok(programs)
}

/// Reads one line of cargo's JSON output; `None` if it is about anything but a compiled test program.
fn read_message(line: &str) -> Result<Option<TestProgram>> {
    let message: Value = serde_json::from_str(line).context("cargo's output is not JSON")?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return Ok(None);
    }
    let Some(executable) = message["executable"].as_str() else {
        return Ok(None);
    };
    let text = |value: &Value, what: &str| {
        value
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("cargo's output has no {what}"))
    };
    let manifest = text(&message["manifest_path"], "manifest_path")?;
    let identifier = text(&message["package_id"], "package_id")?;
    Ok(Some(TestProgram {
        package: package_name(&identifier),
        target: text(&message["target"]["name"], "target name")?,
        folder: Path::new(&manifest)
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
        executable: executable.into(),
    }))
}

/// `path+file:///x/mesh/model#tulle-model@0.1.0`, or `path+file:///x/xtask#0.1.0` when the folder has the package's name.
fn package_name(identifier: &str) -> String {
    let (path, fragment) = identifier.rsplit_once('#').unwrap_or((identifier, ""));
    let folder = path.rsplit('/').next().unwrap_or(path);
    fragment
        .split_once('@')
        .map_or(folder, |(name, _)| name)
        .to_owned()
}

fn is_serial(program: &TestProgram) -> bool {
    SERIAL_PACKAGES.contains(&program.package.as_str())
}

fn run_program(
    workspace: &Workspace,
    program: &TestProgram,
    options: &Options,
    summary: &mut Summary,
) {
    let mut run = Run::new(&program.executable)
        .folder(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("TULLE_BIN_DIR", workspace.programs())
        .limit(PROGRAM_LIMIT);
    if is_serial(program) {
        run = run.arg("--test-threads=1");
    }
    if let Some(without) = &options.without {
        run = run.env("TULLE_WITHOUT", without);
    }
    run = run.args(&options.filter);
    summary.add_program(
        &format!("{} {}", program.package, program.target),
        |observe| run.run_observed(observe),
    );
}

fn run_doc_tests(workspace: &Workspace, summary: &mut Summary) {
    let run = workspace
        .cargo()
        .args(["test", "--workspace", "--doc", "--quiet"])
        .limit(COMPILE_LIMIT);
    summary.add_program("documentation", |observe| run.run_observed(observe));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_read_from_cargos_message() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/mesh/model#tulle-model@0.1.0",
            "manifest_path":"/x/mesh/model/Cargo.toml","target":{"name":"tulle_model"},"profile":{"test":true},
            "executable":"/t/debug/deps/tulle_model-1"}"#;
        let expected = TestProgram {
            package: "tulle-model".into(),
            target: "tulle_model".into(),
            folder: "/x/mesh/model".into(),
            executable: "/t/debug/deps/tulle_model-1".into(),
        };
        assert_eq!(read_message(line).unwrap(), Some(expected));
    }

    #[test]
    fn other_messages_are_passed_over() {
        for line in [
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/x"}"#,
            r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":null}"#,
        ] {
            assert_eq!(read_message(line).unwrap(), None);
        }
        assert!(read_message("not json").is_err());
    }

    #[test]
    fn a_package_named_like_its_folder_has_a_short_identifier() {
        assert_eq!(package_name("path+file:///x/xtask#0.1.0"), "xtask");
        assert_eq!(package_name("path+file:///x/cli#tulle@0.1.0"), "tulle");
    }
}
