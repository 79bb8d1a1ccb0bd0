//! Which slot a Maglev table has at each position.

use crate::slots::Slot;

/// Whether there are tables.
pub(crate) const IS_BUILT: bool = false;

/// The slot number at each position.
pub(crate) fn positions(_slots: &[Slot]) -> Vec<u16> {
    Vec::new()
}
