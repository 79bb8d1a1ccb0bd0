//! Trying everything again until a change is everywhere.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// From a change until every node has it and every try comes out right; a busy machine included.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(15);
/// So often at least, however long it takes: a machine that stood still for seconds has tried nothing meanwhile.
const ROUNDS_MIN: usize = 5;
/// Enough to see a pattern.
const SHOWN_MAX: usize = 12;

/// Plays rounds, each of which tries everything and says what was wrong, until nothing is; how long that took.
///
/// # Errors
/// When something still is after [`CHANGE_LIMIT`] and a few rounds: with the course of the rounds, and some of the last one's tries.
pub(crate) fn until_right(mut round: impl FnMut() -> Result<Vec<String>>) -> Result<Duration> {
    let began = Instant::now();
    let (mut course, mut played) = (String::new(), 0);
    loop {
        let wrong = round()?;
        let elapsed = began.elapsed();
        if wrong.is_empty() {
            return Ok(elapsed);
        }
        played += 1;
        write!(course, " {} after {elapsed:.1?};", wrong.len())?;
        if elapsed > CHANGE_LIMIT && played >= ROUNDS_MIN {
            let step = wrong.len().div_ceil(SHOWN_MAX);
            let shown: Vec<_> = wrong.iter().step_by(step).map(String::as_str).collect();
            bail!(
                "what was wrong in each round:{course}\nof the last round's, one in {step}:\n{}",
                shown.join("\n")
            );
        }
    }
}
