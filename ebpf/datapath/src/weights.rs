//! Unequal weights as a draw of a slot and of a threshold (Walker's alias method): two random numbers and at most two look-ups for the
//! kernel side, however the weights lie.
//!
//! Pure. Sums are exact: shares are counted in parts of `total × slots`, so nothing is lost to rounding before the threshold itself.

/// What stands in a slot beside the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// A 32-bit draw above this goes to `alias`.
    pub(crate) threshold: u32,
    /// Another slot.
    pub(crate) alias: usize,
}

/// Whether the slots are not all alike.
pub(crate) fn is_weighted(weights: impl IntoIterator<Item = u32>) -> bool {
    let mut weights = weights.into_iter();
    let first = weights.next();
    weights.any(|weight| Some(weight) != first)
}

/// The shares of slots with these weights. All alike, also all zero: every slot keeps its draw.
pub(crate) fn shares(weights: &[u32]) -> Vec<Share> {
    let whole = |alias| Share {
        threshold: u32::MAX,
        alias,
    };
    let mut shares: Vec<Share> = (0..weights.len()).map(whole).collect();
    if !is_weighted(weights.iter().copied()) {
        return shares;
    }
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let len = u64::try_from(weights.len()).unwrap_or(u64::MAX);
    // What each slot should get, in parts of which a whole slot has `total`.
    let mut parts: Vec<u64> = weights
        .iter()
        .map(|weight| u64::from(*weight).saturating_mul(len))
        .collect();
    let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|slot| part(&parts, *slot) < total);
    while let (Some(taker), Some(giver)) = (poor.pop(), rich.last().copied()) {
        let own = part(&parts, taker);
        if let Some(share) = shares.get_mut(taker) {
            *share = Share {
                threshold: threshold(own, total),
                alias: giver,
            };
        }
        let rest = part(&parts, giver).saturating_sub(total.saturating_sub(own));
        if let Some(parts) = parts.get_mut(giver) {
            *parts = rest;
        }
        if rest < total {
            rich.pop();
            poor.push(giver);
        }
    }
    shares
}

fn part(parts: &[u64], slot: usize) -> u64 {
    parts.get(slot).copied().unwrap_or(0)
}

/// The draws that stay, as the largest of them. A slot without weight keeps one draw of four billion.
fn threshold(own: u64, total: u64) -> u32 {
    let draws = u128::from(own) * (u128::from(u32::MAX) + 1) / u128::from(total.max(1));
    u32::try_from(draws.saturating_sub(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
