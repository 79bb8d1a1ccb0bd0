//! Which slot a Maglev table has at each position.

use std::net::SocketAddr;

use tulle_abi::MAGLEV_POSITIONS;
use tulle_balance::maglev::{TABLE_LEN, Table};

use crate::slots::Slot;

const _: () = assert!(TABLE_LEN == MAGLEV_POSITIONS as usize);

/// The slot number at each position; nothing for a service without slots.
pub(crate) fn positions(slots: &[Slot]) -> Vec<u16> {
    let backends: Vec<(SocketAddr, u32)> = slots
        .iter()
        .map(|slot| (slot.endpoint.into(), slot.weight))
        .collect();
    Table::build(&backends).slots().to_vec()
}
