//! Sleeps until a watched directory changes, somebody rings, or time is over.

use std::{
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

/// Rings for a [`Watch`] from another thread. Never blocks.
#[derive(Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Wakes the watch.
    pub(super) fn ring(&self) {
        // A full counter means that the watch has been rung for already.
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).ok();
    }
}

/// What woke the watch.
pub(super) enum Woken {
    /// These files may have changed.
    Files(Vec<PathBuf>),
    /// So much has changed that the kernel lost count: everything must be read again.
    Everything,
}

/// Watches directories for files that are renamed into them or deleted.
pub(super) struct Watch {
    inotify: OwnedFd,
    bell: Arc<OwnedFd>,
    directories: Vec<(i32, PathBuf)>,
}

impl Watch {
    pub(super) fn new() -> Result<Watch, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Watch {
            inotify,
            bell: Arc::new(bell),
            directories: Vec::new(),
        })
    }

    /// Watches one more directory.
    pub(super) fn add(&mut self, directory: &Path) -> Result<(), Errno> {
        let flags = WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        let id = inotify::add_watch(&self.inotify, directory, flags)?;
        self.directories.push((id, directory.to_owned()));
        Ok(())
    }

    /// Something that wakes this watch.
    pub(super) fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.bell))
    }

    /// Sleeps until something happens, at most `time`.
    pub(super) fn wait(&mut self, time: Duration) -> Result<Woken, Errno> {
        let timeout = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let mut descriptors = [
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(&*self.bell, PollFlags::IN),
        ];
        match rustix::event::poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let mut counter = [0; 8];
        match rustix::io::read(&*self.bell, &mut counter) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        self.changed_files()
    }

    fn changed_files(&self) -> Result<Woken, Errno> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BUFFER_LEN];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut files = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(Woken::Files(files)),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                return Ok(Woken::Everything);
            }
            let directory = self.directories.iter().find(|(id, _)| *id == event.wd());
            if let (Some((_, directory)), Some(name)) = (directory, event.file_name()) {
                files.push(directory.join(name.to_string_lossy().as_ref()));
            }
        }
    }
}

const EVENTS_BUFFER_LEN: usize = 16 * 1024;
