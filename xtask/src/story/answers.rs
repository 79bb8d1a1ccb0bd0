//! What the requests of the story returned, and from which cluster it came.

use std::fmt;

use anyhow::{Result, ensure};

use crate::say;

/// How many failed requests an error shows.
const FAILURES_SHOWN_MAX: usize = 5;

/// The answers to a row of requests, as `curl` printed them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    lines: Vec<String>,
}

/// How many answers came from where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    koornacht: usize,
    tion: usize,
    failed: usize,
}

impl Answers {
    /// Reads one answer per line.
    pub(super) fn read(text: &str) -> Self {
        Self {
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    pub(super) fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn failed(&self) -> usize {
        self.tally().failed
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for line in &self.lines {
            match line.as_str() {
                KOORNACHT => tally.koornacht += 1,
                TION => tally.tion += 1,
                _ => tally.failed += 1,
            }
        }
        tally
    }

    /// Prints every answer.
    pub(super) fn show(&self, cluster: &str) {
        for line in &self.lines {
            say::line(format_args!("   {cluster} $ curl rebel-base  →  {line}"));
        }
    }

    /// The first failed requests.
    pub(super) fn failures(&self) -> String {
        let failures: Vec<&str> = self
            .lines
            .iter()
            .map(String::as_str)
            .filter(|line| ![KOORNACHT, TION].contains(line))
            .take(FAILURES_SHOWN_MAX)
            .collect();
        failures.join("\n")
    }

    /// Fails unless the tally is as expected.
    pub(super) fn expect(&self, expected: &str, holds: impl Fn(Tally) -> bool) -> Result<()> {
        ensure!(
            holds(self.tally()),
            "expected {expected}, found {}",
            self.tally()
        );
        Ok(())
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.lines.join("\n"))
    }
}

impl Tally {
    pub(super) fn only_koornacht(self) -> bool {
        self.koornacht > 0 && self.tion == 0 && self.failed == 0
    }

    pub(super) fn only_tion(self) -> bool {
        self.tion > 0 && self.koornacht == 0 && self.failed == 0
    }

    pub(super) fn is_mix(self) -> bool {
        self.koornacht > 0 && self.tion > 0 && self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            koornacht,
            tion,
            failed,
        } = self;
        write!(
            formatter,
            "{koornacht} answers from Koornacht, {tion} from Tion, {failed} failed"
        )
    }
}

/// The two pages, byte for byte: an answer that was cut or mixed up is a failed request.
const KOORNACHT: &str = r#"{"Cluster": "Koornacht", "Planet": "N'Zoth"}"#;
const TION: &str = r#"{"Cluster": "Tion", "Planet": "Foran Tutha"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, koornacht: usize, tion: usize, failed: usize) {
        assert_eq!(
            Answers::read(text).tally(),
            Tally {
                koornacht,
                tion,
                failed
            }
        );
    }

    #[test]
    fn answers_are_told_apart() {
        check("", 0, 0, 0);
        check(&format!("{KOORNACHT}\n{TION}\n{KOORNACHT}\n"), 2, 1, 0);
        check("curl: (7) Failed to connect\ncurl ended with 7\n", 0, 0, 2);
        check("{\"Cluster\": \"Koornacht\", \"Pla", 0, 0, 1);
    }

    #[test]
    fn a_failed_request_is_neither_a_mix_nor_one_cluster() {
        let tally = Answers::read(&format!("{KOORNACHT}\n{TION}\noops")).tally();
        assert!(!tally.is_mix() && !tally.only_koornacht() && !tally.only_tion());
        assert!(
            Answers::read(&format!("{KOORNACHT}\n{TION}"))
                .tally()
                .is_mix()
        );
        assert!(!Answers::read("").tally().only_tion());
    }
}
