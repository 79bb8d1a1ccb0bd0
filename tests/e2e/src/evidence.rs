//! What the nodes say about themselves: for whoever reads only the output of a test that failed, and cannot ask them any more.

use std::fmt::Write as _;

use serde_json::Value;

use crate::rig::Rig;

impl Rig {
    /// A few lines for each node: connections that failed and why, the turns of its pods, certificates that are not there, and the last
    /// warnings of its proxy.
    pub fn evidence(&self) -> String {
        let mut text = String::from("what the nodes say:");
        for cluster in &self.lab.config().clusters {
            for node in &cluster.nodes {
                // A cluster that is not up has no logs.
                if let Ok(files) = self.lab.logs(&format!("{}/node-proxy", node.name)) {
                    let logs: String = files
                        .iter()
                        .filter_map(|file| std::fs::read_to_string(file).ok())
                        .collect();
                    let _infallible = write!(text, "\n- {}: {}", node.name, self.said(&node.name));
                    for line in warnings(&logs) {
                        let _infallible = write!(text, "\n    {line}");
                    }
                }
            }
        }
        text
    }

    fn said(&self, node: &str) -> String {
        let counted = match self.metrics(node) {
            Ok(metrics) => lines_about(&metrics),
            Err(error) => format!("no metrics: {error:#}"),
        };
        let missing = match self.dump(node) {
            Ok(dump) => missing_certificates(&dump),
            Err(error) => format!("no dump: {error:#}"),
        };
        format!("{counted}; without a certificate: {missing}")
    }
}

/// The metrics that tell of trouble.
fn lines_about(metrics: &str) -> String {
    let lines = metrics
        .lines()
        .filter(|line| TELLING.iter().any(|name| line.starts_with(name)));
    lines.collect::<Vec<_>>().join(", ")
}

fn missing_certificates(dump: &Value) -> String {
    let all = dump["certificates"].as_array().into_iter().flatten();
    let missing = all.filter(|one| one["serial"].is_null() || !one["last_error"].is_null());
    let told: Vec<_> = missing
        .map(|one| format!("{} ({})", one["id"], one["last_error"]))
        .collect();
    match told.is_empty() {
        true => "nobody".to_owned(),
        false => told.join(", "),
    }
}

fn warnings(log: &str) -> Vec<&str> {
    let loud = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let mut last: Vec<_> = log.lines().rev().filter(loud).take(WARNINGS_MAX).collect();
    last.reverse();
    last
}

/// The names of such metrics begin so.
const TELLING: [&str; 3] = [
    "tulle_connections_failed_total",
    "tulle_turns_",
    "tulle_xds_connected",
];
const WARNINGS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_tells_of_trouble_is_shown() {
        let metrics = "# HELP tulle_connections_failed x\ntulle_connections_failed_total{reason=\"denied\"} 3\n\
                       tulle_bytes_total 5\ntulle_turns_taken 2\n";
        assert_eq!(
            lines_about(metrics),
            "tulle_connections_failed_total{reason=\"denied\"} 3, tulle_turns_taken 2"
        );
        let dump = json!({"certificates": [
            {"id": "a", "serial": "1", "last_error": null},
            {"id": "b", "serial": null, "last_error": "no answer"},
        ]});
        assert_eq!(missing_certificates(&dump), "\"b\" (\"no answer\")");
        assert_eq!(missing_certificates(&json!({})), "nobody");
        let log = "1 WARN a\n2 INFO b\n3 ERROR c\n";
        assert_eq!(warnings(log), ["1 WARN a", "3 ERROR c"]);
    }
}
