//! What became of several promises that are held against one rig.

use anyhow::{Result, ensure};

/// Tells of each promise at once, and at the end of all that are broken: one broken promise must not hide the next.
#[derive(Debug, Default)]
pub struct Promises {
    broken: Vec<String>,
}

impl Promises {
    /// Notes how one came out.
    pub fn note(&mut self, promise: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => eprintln!("holds: {promise}"),
            Err(error) => {
                eprintln!("BROKEN: {promise}: {error:#}");
                self.broken.push(format!("{promise}: {error:#}"));
            }
        }
    }

    /// Whether nothing was broken.
    ///
    /// # Errors
    /// Names each that was, and how.
    pub fn all_kept(self) -> Result<()> {
        ensure!(self.broken.is_empty(), "{}", self.broken.join("\n\n"));
        Ok(())
    }
}
