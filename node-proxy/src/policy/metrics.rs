//! What is measured of policies.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tulle_datapath::DestroyReport;
use tulle_policy::compiled::Usage;

/// Names of a bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabels {
    bound: &'static str,
}

/// Names of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    direction: &'static str,
    outcome: &'static str,
    seen: &'static str,
}

/// See the module's text.
#[derive(Debug)]
pub struct PolicyMetrics {
    compile_seconds: Histogram,
    enforce_seconds: Histogram,
    usage: Family<BoundLabels, Gauge>,
    verdicts: Family<VerdictLabels, Counter>,
    recheck_seconds: Histogram,
    ended: Counter,
    end_failures: Counter,
}

impl Default for PolicyMetrics {
    fn default() -> Self {
        PolicyMetrics {
            compile_seconds: Histogram::new(SECONDS),
            enforce_seconds: Histogram::new(SECONDS),
            usage: Family::default(),
            verdicts: Family::default(),
            recheck_seconds: Histogram::new(SECONDS),
            ended: Counter::default(),
            end_failures: Counter::default(),
        }
    }
}

impl PolicyMetrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tulle_policy_compile_seconds",
            "How long it took to compile what a change touched",
            self.compile_seconds.clone(),
        );
        registry.register(
            "tulle_policy_enforce_seconds",
            "From the moment when a change became visible to the moment when the kernel enforced it",
            self.enforce_seconds.clone(),
        );
        registry.register(
            "tulle_policy_usage",
            "How much of each bound of the compiled policies is used",
            self.usage.clone(),
        );
        registry.register(
            "tulle_policy_verdicts",
            "What was decided by policies: by the proxies everything; what the kernel denied or audited as far as it tells, which is \
             bounded in rate (exact numbers: tulle_kernel_exits)",
            self.verdicts.clone(),
        );
        registry.register(
            "tulle_policy_recheck_seconds",
            "How long it took to look at all standing connections after a change",
            self.recheck_seconds.clone(),
        );
        registry.register(
            "tulle_policy_ended_connections",
            "Standing connections that were ended because policy no longer allows them",
            self.ended.clone(),
        );
        registry.register(
            "tulle_policy_end_failures",
            "Standing connections, or pods, where that failed",
            self.end_failures.clone(),
        );
    }

    pub(super) fn compiled(&self, took: Duration, usage: &Usage) {
        self.compile_seconds.observe(took.as_secs_f64());
        let used = [
            ("identities", usage.identities),
            ("prefixes", usage.prefixes),
            ("port_sets", usage.port_sets),
            ("port_entries", usage.port_entries),
            ("peers", usage.peers),
        ];
        for (bound, used) in used {
            let gauge = self.usage.get_or_create(&BoundLabels { bound });
            gauge.set(i64::try_from(used).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn enforced(&self, after: Duration) {
        self.enforce_seconds.observe(after.as_secs_f64());
    }

    pub(super) fn rechecked(&self, took: Duration) {
        self.recheck_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn ended(&self, report: &DestroyReport) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.ended.inc_by(count(report.destroyed));
        self.end_failures.inc_by(count(report.failed));
    }

    /// Counts what was decided about a connection or request, and where.
    pub(crate) fn decided(
        &self,
        direction: &'static str,
        outcome: &'static str,
        seen: &'static str,
    ) {
        let labels = VerdictLabels {
            direction,
            outcome,
            seen,
        };
        self.verdicts.get_or_create(&labels).inc();
    }
}

const SECONDS: [f64; 10] = [
    0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
];
