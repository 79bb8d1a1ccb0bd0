//! One `epoll(7)` instance of a client.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

/// Watches sockets that are known by a number.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_LEN),
        })
    }

    /// Begins to watch a socket; closing it ends that.
    pub(super) fn watch(
        &self,
        socket: impl AsFd,
        number: usize,
        flags: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, data(number), flags)?)
    }

    /// Watches for something else from now on.
    pub(super) fn change(
        &self,
        socket: impl AsFd,
        number: usize,
        flags: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, data(number), flags)?)
    }

    /// The numbers of the sockets that are ready; none when `limit` is over.
    pub(super) fn wait(&mut self, limit: Duration) -> io::Result<Vec<usize>> {
        self.events.clear();
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&limit)) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            done => done?,
        };
        let ready = self.events.iter().map(|event| event.data.u64());
        ready
            .map(|number| usize::try_from(number).map_err(io::Error::other))
            .collect()
    }
}

fn data(number: usize) -> EventData {
    EventData::new_u64(number as u64)
}

const EVENTS_LEN: usize = 256;
