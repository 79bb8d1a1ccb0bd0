//! Adds up what the test programs report.

use std::{fmt, process::ExitStatus};

use anyhow::{Result, bail};

/// The results so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    passed: u64,
    failed: u64,
    /// Programs that failed, with the names of their failed tests as far as they were printed.
    failures: Vec<String>,
}

impl Summary {
    /// Runs one test program by `run`, which hands on each line that the program prints.
    pub(super) fn add_program(
        &mut self,
        name: &str,
        run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<ExitStatus>,
    ) {
        let mut lines = Vec::new();
        let outcome = run(&mut |line| lines.push(line.to_owned()));
        self.add_lines(&lines);
        match outcome {
            Ok(status) if status.success() => {}
            Ok(status) => self
                .failures
                .push(format!("{name}: {status}{}", failed_tests(&lines))),
            Err(error) => self
                .failures
                .push(format!("{name}: {error}{}", failed_tests(&lines))),
        }
    }

    /// Fails when anything failed, and when there was nothing to run.
    pub(super) fn into_result(self) -> Result<()> {
        if !self.failures.is_empty() {
            bail!(
                "{} test programs failed:\n  - {}",
                self.failures.len(),
                self.failures.join("\n  - ")
            );
        }
        if self.passed == 0 {
            bail!("no test ran: the filter matches none");
        }
        Ok(())
    }

    fn add_lines(&mut self, lines: &[String]) {
        for (passed, failed) in lines.iter().filter_map(|line| read_result(line)) {
            self.passed += passed;
            self.failed += failed;
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} tests passed, {} failed",
            self.passed, self.failed
        )?;
        if !self.failures.is_empty() {
            write!(formatter, ", {} programs failed", self.failures.len())?;
        }
        Ok(())
    }
}

/// Reads `test result: ok. 5 passed; 0 failed; 0 ignored; …`.
fn read_result(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some((count("passed")?, count("failed")?))
}

/// `": a, b"` from the lines `test a ... FAILED`.
fn failed_tests(lines: &[String]) -> String {
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(": {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_and_failures_named() {
        let lines = [
            "test a ... ok",
            "test b::c ... FAILED",
            "test result: FAILED. 11 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]
        .map(str::to_owned);
        let mut summary = Summary::default();
        summary.add_lines(&lines);
        summary.add_lines(&lines);
        assert_eq!((summary.passed, summary.failed), (22, 2));
        assert_eq!(failed_tests(&lines), ": b::c");
    }

    #[test]
    fn a_program_that_dies_before_it_reports_is_a_failure() {
        let mut summary = Summary::default();
        summary.add_program("x", |_| bail!("killed"));
        assert!(summary.to_string().contains("1 programs failed"));
        assert!(summary.into_result().is_err());
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        assert!(Summary::default().into_result().is_err());
    }
}
