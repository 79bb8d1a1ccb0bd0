//! What every part of the measurements has.

use anyhow::Result;

use super::{
    Settings,
    figure::Sample,
    place::{Path, Place},
};

/// One question that is asked of every rig.
pub(super) trait Part {
    /// What `--filter` calls it.
    fn name(&self) -> &'static str;

    /// Where it is asked.
    fn paths(&self, settings: &Settings) -> &'static [Path];

    /// How often.
    fn rounds(&self, settings: &Settings) -> usize {
        settings.rounds
    }

    /// Whether it belongs to the short run.
    fn is_quick(&self) -> bool {
        true
    }

    /// Whether it asks about proxies, so that direct TCP has no answer.
    fn needs_proxy(&self) -> bool {
        false
    }

    /// Why it is no question about what else may take the node proxy's place, if it is none.
    fn not_for_peer(&self) -> Option<&'static str> {
        None
    }

    /// Asks once.
    ///
    /// # Errors
    /// When there is no answer.
    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>>;
}
