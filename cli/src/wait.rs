//! `--wait`: asks again until the answer is as wanted.

use std::time::{Duration, Instant};

use clap::Args;

use crate::client::{CallError, Client};

/// The arguments of a command that can wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitArguments {
    /// Wait until it is so
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub(crate) wait_duration: Duration,
}

impl WaitArguments {
    /// Asks until `holds`, or once if nobody wants to wait; the last answer, and whether it held.
    pub(crate) fn until<T>(
        &self,
        client: &Client,
        ask: impl Fn() -> Result<T, CallError>,
        holds: impl Fn(&T) -> bool,
    ) -> Result<(T, bool), CallError> {
        let deadline = Instant::now() + self.wait_duration;
        loop {
            let late = !self.wait || Instant::now() >= deadline;
            match ask() {
                Ok(answer) if holds(&answer) => return Ok((answer, true)),
                Ok(answer) if late => return Ok((answer, false)),
                Err(error) if late || !error.may_pass() => return Err(error),
                Ok(_) | Err(_) => client.pause(ASK_AGAIN),
            }
        }
    }
}

/// `90s`, `5m`, `1h`, or plain seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, factor) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    let seconds = seconds.filter(|seconds| *seconds <= WAIT_SECONDS_MAX);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a time such as 30s, 5m or 1h, at most a day".to_owned())
}

const ASK_AGAIN: Duration = Duration::from_millis(250);
const WAIT_SECONDS_MAX: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h", 3600), ("7", 7)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "m",
            "-1s",
            "1.5m",
            "99999999999999999999s",
            "25h",
            "5 m",
            "µ",
        ] {
            parse_duration(text).unwrap_err();
        }
    }
}
