//! Numbers that others keep and that are read when somebody asks: the kernel's counters, the certificates' ages.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tulle_identity::SvidManager;

use crate::plane::Kernel;

/// What the kernel's programs counted.
pub(super) struct KernelCollector {
    kernel: Arc<dyn Kernel>,
}

impl KernelCollector {
    pub(super) fn new(kernel: Arc<dyn Kernel>) -> Self {
        KernelCollector { kernel }
    }
}

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = self.kernel.counters();
        let help = "How often a program of the kernel's side left for a reason";
        let mut family =
            encoder.encode_descriptor("tulle_kernel_exits", help, None, MetricType::Counter)?;
        for counter in counters {
            let labels = [("program", counter.program), ("reason", counter.reason)];
            ConstCounter::new(counter.count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for KernelCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelCollector").finish_non_exhaustive()
    }
}

/// How many certificates there are, and when the next one ends.
#[derive(Debug)]
pub(super) struct CertificateCollector {
    svids: Arc<SvidManager>,
}

impl CertificateCollector {
    pub(super) fn new(svids: Arc<SvidManager>) -> Self {
        CertificateCollector { svids }
    }
}

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let list = self.svids.list();
        let now = SystemTime::now();
        let count = |n: usize| ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
        let valid = list
            .iter()
            .filter(|svid| svid.not_after.is_some_and(|end| end > now))
            .count();
        let failing = list.iter().filter(|svid| svid.last_error.is_some()).count();
        let help = "Identities of this node by state of their certificate";
        let mut family =
            encoder.encode_descriptor("tulle_certificates", help, None, MetricType::Gauge)?;
        count(valid).encode(family.encode_family(&[("state", "valid")])?)?;
        count(list.len() - valid).encode(family.encode_family(&[("state", "missing")])?)?;
        count(failing).encode(family.encode_family(&[("state", "renewal_failing")])?)?;
        let next_end = list.iter().filter_map(|svid| svid.not_after).min();
        let next_end = next_end.and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        if let Some(end) = next_end.and_then(|end| i64::try_from(end.as_secs()).ok()) {
            let name = "tulle_certificate_next_end_timestamp_seconds";
            let help = "When the first certificate ends (Unix time)";
            let gauge = ConstGauge::new(end);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
