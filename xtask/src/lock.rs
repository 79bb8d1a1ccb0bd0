//! One run at a time on a machine, and the memory that a run was killed.
//!
//! The lab uses fixed names, so two runs would fight. The file is locked while a run lives and removed when it ends in order:
//! a file that exists and is not locked was left by a run that was killed.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

const LOCK_FILE: &str = "/run/tulle-xtask.lock";

/// Held while the lab's names are in use.
#[must_use]
pub(crate) struct RunLock {
    path: PathBuf,
    _locked: File,
}

/// What the last run left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LastRun {
    EndedInOrder,
    WasKilled,
    IsRunning,
}

impl RunLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take() -> Result<Self> {
        Self::take_at(Path::new(LOCK_FILE))
    }

    fn take_at(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot create {}; run this as root", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _locked: file,
            }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `cargo xtask lab`, `test` or `bench` runs on this machine; wait for it to end"
                )
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A file that stays makes the next run clean up once more, which is harmless.
        fs::remove_file(&self.path).ok();
    }
}

/// How the last run that held the lock ended.
pub(crate) fn last_run() -> LastRun {
    last_run_at(Path::new(LOCK_FILE))
}

fn last_run_at(path: &Path) -> LastRun {
    let Ok(file) = File::open(path) else {
        return LastRun::EndedInOrder;
    };
    match file.try_lock() {
        Ok(()) => LastRun::WasKilled,
        Err(_) => LastRun::IsRunning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_run_is_remembered_and_a_second_one_is_refused() {
        let path = std::env::temp_dir().join(format!("tulle-lock-{}", std::process::id()));
        assert_eq!(last_run_at(&path), LastRun::EndedInOrder);
        let lock = RunLock::take_at(&path).unwrap();
        assert_eq!(last_run_at(&path), LastRun::IsRunning);
        let refused = RunLock::take_at(&path)
            .err()
            .map(|error| error.to_string())
            .unwrap();
        assert!(refused.contains("wait for it to end"), "{refused}");
        drop(lock);
        assert_eq!(last_run_at(&path), LastRun::EndedInOrder);

        File::create(&path).unwrap();
        assert_eq!(last_run_at(&path), LastRun::WasKilled);
        fs::remove_file(&path).unwrap();
    }
}
