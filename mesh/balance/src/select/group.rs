//! All endpoints together: which group serves, and whether ejections are believed.

use std::collections::BTreeMap;

use tulle_model::Service;

use super::{
    Reason, Verdict,
    rank::{Candidate, Rank},
    spill::{self, SpillState},
};
use crate::Ejected;

/// The verdict on each candidate, in their order.
pub(super) fn decide(
    service: &Service,
    candidates: &[Candidate],
    ejected: &Ejected,
    state: &SpillState,
) -> (Vec<Verdict>, SpillState) {
    let sound = candidates.iter().filter_map(Candidate::sound_rank).min();
    // With nobody left, the ejections are the less likely story.
    let anybody = || candidates.iter().filter_map(|c| c.rank.ok()).min();
    let Some(best) = sound.or_else(anybody) else {
        let verdicts = candidates.iter().map(|c| no_candidate(c.rank)).collect();
        return (verdicts, state.clone());
    };
    if !believes(candidates, best, ejected) {
        let serves = |c: &Candidate| c.rank == Ok(best);
        let shares = vec![(best, spill::WHOLE)];
        return (verdicts(candidates, &shares, best, serves), state.clone());
    }
    let (shares, state) = spill::share(service, candidates, best, state);
    let serves = |c: &Candidate| {
        let rank = c.sound_rank();
        rank.is_some_and(|rank| shares.iter().any(|(group, _)| *group == rank))
    };
    (verdicts(candidates, &shares, best, serves), state)
}

/// Whether one of the groups that are as sure as the serving one has few enough ejections.
///
/// The others count as well: if all of the own cluster is ejected and another cluster is well, the cause is not here.
fn believes(candidates: &[Candidate], best: Rank, ejected: &Ejected) -> bool {
    let mut groups: BTreeMap<Rank, (usize, usize)> = BTreeMap::new();
    for candidate in candidates {
        if let Ok(rank) = candidate.rank
            && rank.standing == best.standing
        {
            let (out, all) = groups.entry(rank).or_default();
            *out += usize::from(candidate.ejected);
            *all += 1;
        }
    }
    // A group without a sound endpoint cannot vouch for anything, whatever the threshold.
    let mut groups = groups.values().filter(|(out, all)| out < all);
    groups.any(|(out, all)| ejected.believes(*out, *all))
}

fn verdicts(
    candidates: &[Candidate],
    shares: &[(Rank, u64)],
    best: Rank,
    serves: impl Fn(&Candidate) -> bool,
) -> Vec<Verdict> {
    let weights = spill::Weights::new(candidates.iter().filter(|c| serves(c)), shares);
    let verdict = |candidate: &Candidate| match candidate.rank {
        Ok(rank) if serves(candidate) => Verdict::Serves {
            weight: weights.of(rank, candidate.capacity),
        },
        Ok(rank) => Verdict::Out(candidate.reason(rank, nearest(shares, rank, best))),
        Err(reason) => Verdict::Out(reason),
    };
    candidates.iter().map(verdict).collect()
}

/// The serving group that a candidate is to be compared with: that of its own place, else the best.
fn nearest(shares: &[(Rank, u64)], rank: Rank, best: Rank) -> Rank {
    let same = |group: &&(Rank, u64)| group.0.level == rank.level;
    shares.iter().find(same).map_or(best, |group| group.0)
}

fn no_candidate(rank: Result<Rank, Reason>) -> Verdict {
    // Without a group that serves there is nobody who could serve.
    Verdict::Out(rank.err().unwrap_or(Reason::Ejected))
}
