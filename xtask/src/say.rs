//! What the user reads: one line per thing that happens.
//!
//! A closed pipe must not turn a good run into a failed one, so write errors are dropped here and nowhere else.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::Duration,
};

/// A heading: what starts now.
pub(crate) fn heading(text: impl Display) {
    writeln!(io::stdout(), "\n== {text}").ok();
}

/// One plain line.
pub(crate) fn line(text: impl Display) {
    writeln!(io::stdout(), "{text}").ok();
}

/// What another program printed, as it is.
pub(crate) fn raw(bytes: &[u8]) {
    let mut stdout = io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).ok();
}

/// Something that holds, and how long it took to see it.
pub(crate) fn held(text: impl Display, took: Duration) {
    writeln!(io::stdout(), "   ok  {text}  ({:.1} s)", took.as_secs_f64()).ok();
}

/// The end of a run that failed, with every cause.
pub(crate) fn failure(error: &anyhow::Error) {
    writeln!(io::stderr(), "\nfailed: {error}").ok();
    for cause in error.chain().skip(1) {
        writeln!(io::stderr(), "  because: {cause}").ok();
    }
}
