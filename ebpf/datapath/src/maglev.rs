//! Which slot a Maglev table has at each position.

use std::net::SocketAddr;

use tulle_abi::MAGLEV_POSITIONS;
use tulle_balance::maglev::{TABLE_LEN, Table};

use crate::slots::Slot;

const _: () = assert!(TABLE_LEN == MAGLEV_POSITIONS as usize);

/// The slot number at each position; nothing for a service without slots. `old` are the positions that `before` had, if they are
/// known: then only what changed is computed.
pub(crate) fn positions(old: &[u16], before: &[Slot], slots: &[Slot]) -> Vec<u16> {
    let table = Table::rebuild(old, &backends(before), &backends(slots));
    table.slots().to_vec()
}

fn backends(slots: &[Slot]) -> Vec<(SocketAddr, u32)> {
    let backends = slots.iter().map(|s| (s.endpoint.into(), s.weight));
    backends.collect()
}
