//! How busy the proxy's cores are with its pods: turns that are taken, and tasks that wait for one.
//!
//! CPU time tells of the past minute and of the whole process; a line that stays tells at once that pods slow each other down, and a line
//! that nobody leaves would tell of a fault.

use std::sync::Arc;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::encode_gauge;
use crate::fair::FairShare;

/// Looks at the turns whenever metrics are asked for.
#[derive(Debug)]
pub struct TurnsCollector {
    turns: Arc<FairShare>,
}

impl TurnsCollector {
    /// A collector of these turns.
    pub fn new(turns: Arc<FairShare>) -> Self {
        TurnsCollector { turns }
    }
}

impl Collector for TurnsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seen = self.turns.seen();
        let gauges = [
            (
                "tulle_turns_max",
                "Turns that pods can have at once",
                seen.max,
            ),
            (
                "tulle_turns_taken",
                "Turns that pods have, or are on the way to",
                seen.taken,
            ),
            (
                "tulle_turns_awaited",
                "Tasks of pods that are ready and wait for a turn",
                seen.awaited,
            ),
        ];
        for (name, help, value) in gauges {
            encode_gauge(&mut encoder, name, help, i64::try_from(value).ok())?;
        }
        Ok(())
    }
}
