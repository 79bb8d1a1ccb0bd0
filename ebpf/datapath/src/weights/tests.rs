use super::*;

/// The chance of each slot, from the shares as the kernel side reads them.
fn chances(weights: &[u32]) -> Vec<f64> {
    let shares = shares(weights);
    let len = shares.len() as f64;
    let mut chances = vec![0.0; shares.len()];
    for (slot, share) in shares.iter().enumerate() {
        let stays = (f64::from(share.threshold) + 1.0) / 4_294_967_296.0;
        chances[slot] += stays / len;
        chances[share.alias] += (1.0 - stays) / len;
    }
    chances
}

fn check(weights: &[u32]) {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    for (slot, chance) in chances(weights).into_iter().enumerate() {
        let wanted = if total == 0.0 {
            1.0 / weights.len() as f64
        } else {
            f64::from(weights[slot]) / total
        };
        assert!(
            (chance - wanted).abs() < 1e-6,
            "{weights:?}: slot {slot} has {chance}, wanted {wanted}"
        );
    }
}

#[test]
fn every_slot_gets_its_share() {
    for weights in [
        &[1][..],
        &[0],
        &[0, 0, 0],
        &[1, 1, 1],
        &[1, 2],
        &[0, 1],
        &[3, 1, 0, 9],
        &[65_535, 1, 1, 1],
        &[65_535, 65_535, 0, 1],
        &[100, 50, 25, 12, 6, 3, 1],
    ] {
        check(weights);
    }
    let mut state = 1_u32;
    for len in 1..200_usize {
        let weights: Vec<u32> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 12
            })
            .collect();
        check(&weights);
    }
}

#[test]
fn alike_slots_keep_their_draws() {
    assert!(!is_weighted([]));
    assert!(!is_weighted([7, 7, 7]));
    assert!(is_weighted([7, 7, 8]));
    assert!(shares(&[7, 7, 7]).iter().all(|s| s.threshold == u32::MAX));
}
