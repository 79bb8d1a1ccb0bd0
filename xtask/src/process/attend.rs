//! Attends a started program: reads what it says, and notices when it ends or when its time is over.
//!
//! The end of the program is what counts, not the end of its output: a server that it left behind may hold the other end of the
//! pipe for ever.

use std::{
    io,
    os::fd::OwnedFd,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// One output of the program and who takes its bytes.
pub(super) struct Outlet<'a> {
    pipe: Option<OwnedFd>,
    take: &'a mut dyn FnMut(&[u8]),
}

impl<'a> Outlet<'a> {
    pub(super) fn new(pipe: impl Into<OwnedFd>, take: &'a mut dyn FnMut(&[u8])) -> Result<Self> {
        let pipe = pipe.into();
        rustix::io::ioctl_fionbio(&pipe, true).context("cannot make a pipe non-blocking")?;
        Ok(Self {
            pipe: Some(pipe),
            take,
        })
    }

    /// Hands on all that can be read now.
    fn drain(&mut self, chunk: &mut [u8]) -> Result<()> {
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut *chunk) {
                Ok(0) => self.pipe = None,
                Ok(length) => (self.take)(chunk.get(..length).unwrap_or_default()),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(io::Error::from(error)).context("cannot read what a program says");
                }
            }
        }
        Ok(())
    }
}

/// Waits until the program has ended or the time is over; says whether it has ended.
pub(super) fn exits_within(
    child: &Child,
    limit: Duration,
    outlets: &mut [Outlet<'_>],
) -> Result<bool> {
    let descriptor = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .context("cannot watch a started program (pidfd_open)")?;
    let deadline = Instant::now() + limit;
    let mut chunk = vec![0; CHUNK];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("the time limit is too large")?;
        let mut watched = vec![PollFd::new(&descriptor, PollFlags::IN)];
        let open = outlets.iter().filter_map(|outlet| outlet.pipe.as_ref());
        watched.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).context("cannot wait for a started program"),
        }
        // Read after the end was seen, so that the last words are not lost.
        let ended = watched
            .first()
            .is_some_and(|first| !first.revents().is_empty());
        for outlet in &mut *outlets {
            outlet.drain(&mut chunk)?;
        }
        if ended {
            return Ok(true);
        }
    }
}
