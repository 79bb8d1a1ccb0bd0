//! The kernel's `sock_diag` protocol (`linux/inet_diag.h`), as far as it lists and destroys TCP and UDP sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A family, a protocol, and the states in which a socket of it has a far end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    family: u8,
    protocol: u8,
    states: u32,
}

/// All kinds of sockets that lead to somebody. Dual-stack sockets are of the IPv6 kind, whomever they lead to.
pub(super) const KINDS: [Kind; 4] = [
    Kind {
        family: FAMILY_V4,
        protocol: PROTOCOL_TCP,
        states: STATES_TCP,
    },
    Kind {
        family: FAMILY_V6,
        protocol: PROTOCOL_TCP,
        states: STATES_TCP,
    },
    Kind {
        family: FAMILY_V4,
        protocol: PROTOCOL_UDP,
        states: 1 << STATE_ESTABLISHED,
    },
    Kind {
        family: FAMILY_V6,
        protocol: PROTOCOL_UDP,
        states: 1 << STATE_ESTABLISHED,
    },
];

/// Listening sockets of TCP.
pub(super) const LISTENERS: [Kind; 2] = [
    Kind {
        family: FAMILY_V4,
        protocol: PROTOCOL_TCP,
        states: 1 << STATE_LISTEN,
    },
    Kind {
        family: FAMILY_V6,
        protocol: PROTOCOL_TCP,
        states: 1 << STATE_LISTEN,
    },
];

impl Kind {
    /// The protocol's number.
    pub(super) fn protocol(self) -> u8 {
        self.protocol
    }
}

/// A socket as the kernel tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketSeen {
    pub(super) local: SocketAddr,
    pub(super) far: SocketAddr,
    /// The cgroup that it belongs to, if the kernel tells.
    pub(super) cgroup: Option<u64>,
}

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destroyed {
    /// It is destroyed.
    Done,
    /// It was gone already.
    Gone,
}

/// A socket as the kernel names it; the cookie in it says that it is still the same one.
pub(super) struct Found(SocketId);

/// A conversation with the kernel about the sockets of one namespace.
pub(super) struct Diagnosis {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diagnosis {
    /// In the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let protocol = Some(netlink::SOCK_DIAG);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Diagnosis {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER_LEN_MAX],
        })
    }

    /// The sockets of a kind that are wanted, at most `limit`, and whether there were more.
    pub(super) fn list(
        &mut self,
        kind: Kind,
        limit: usize,
        mut is_wanted: impl FnMut(&SocketSeen) -> bool,
    ) -> io::Result<(Vec<Found>, bool)> {
        self.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, kind, SocketId::default())?;
        let (mut found, mut is_cut) = (Vec::new(), false);
        // The list is read to its end: what is left of it would be taken for the next answer.
        self.read_answer(|message| {
            let Ok((socket, rest)) = DiagMessage::read_from_prefix(message) else {
                return;
            };
            let [local, far] = socket.id.ends(socket.family);
            let seen = SocketSeen {
                local,
                far,
                cgroup: cgroup_of(rest),
            };
            if !is_wanted(&seen) {
            } else if found.len() < limit {
                found.push(Found(socket.id));
            } else {
                is_cut = true;
            }
        })?;
        Ok((found, is_cut))
    }

    /// Destroys a socket.
    pub(super) fn destroy(&mut self, kind: Kind, socket: &Found) -> io::Result<Destroyed> {
        self.ask(SOCK_DESTROY, NLM_F_ACK, kind, socket.0)?;
        match self.read_answer(|_message| {}) {
            Ok(()) => Ok(Destroyed::Done),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Destroyed::Gone),
            Err(err) => Err(err),
        }
    }

    fn ask(&mut self, message: u16, flags: u16, kind: Kind, id: SocketId) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = size_of::<Header>() + size_of::<DiagRequest>();
        let header = Header {
            len: u32::try_from(len).map_err(io::Error::other)?,
            kind: message,
            flags: NLM_F_REQUEST | flags,
            sequence: self.sequence,
            port: 0,
        };
        let request = DiagRequest {
            family: kind.family,
            protocol: kind.protocol,
            extensions: 0,
            padding: 0,
            states: kind.states,
            id,
        };
        let bytes = [header.as_bytes(), request.as_bytes()].concat();
        send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Reads messages until the answer to the last question is complete.
    fn read_answer(&mut self, mut handle: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let (len, _) = recv(&self.socket, &mut self.buffer, RecvFlags::empty())?;
            let mut rest = self.buffer.get(..len).unwrap_or_default();
            while let Ok((header, _)) = Header::read_from_prefix(rest) {
                let message_len = usize::try_from(header.len).map_err(io::Error::other)?;
                let message = rest.get(size_of::<Header>()..message_len);
                let message = message.ok_or_else(malformed)?;
                if header.sequence == self.sequence {
                    match header.kind {
                        NLMSG_DONE => return Ok(()),
                        NLMSG_ERROR => return outcome(message),
                        _ => handle(message),
                    }
                }
                rest = rest
                    .get(message_len.next_multiple_of(4)..)
                    .unwrap_or_default();
            }
        }
    }
}

/// An error message with the code zero is a receipt.
fn outcome(message: &[u8]) -> io::Result<()> {
    let (code, _) = i32::read_from_prefix(message).map_err(|_short| malformed())?;
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// The cgroup's id among the attributes behind a message. What does not parse ends them.
fn cgroup_of(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let (head, _) = <[u16; 2]>::read_from_prefix(attributes).ok()?;
        let [len, kind] = head;
        let len = usize::from(len);
        let value = attributes.get(4..len)?;
        if kind == INET_DIAG_CGROUP_ID {
            return u64::read_from_prefix(value).ok().map(|(id, _)| id);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's answer about sockets is shorter than it says",
    )
}

/// `struct nlmsghdr`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_req_v2`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DiagRequest {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_sockid`
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SocketId {
    /// Both ports in network order.
    ports: [u16; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

impl SocketId {
    /// The near and the far end. A dual-stack socket names IPv4 ones in their v4-mapped form.
    fn ends(&self, family: u8) -> [SocketAddr; 2] {
        let address = |octets: [u8; 16]| {
            let [a, b, c, d, ..] = octets;
            if family == FAMILY_V4 {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            } else {
                IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
            }
        };
        let [near, far] = self.ports.map(u16::from_be);
        [
            SocketAddr::new(address(self.source), near),
            SocketAddr::new(address(self.destination), far),
        ]
    }
}

/// `struct inet_diag_msg`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DiagMessage {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
    rest: [u32; 5],
}

const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(size_of::<SocketId>() == 48);
const _: () = assert!(size_of::<DiagRequest>() == 56);
const _: () = assert!(size_of::<DiagMessage>() == 72);

const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// Of a UDP socket: connected.
const STATE_ESTABLISHED: u32 = 1;
const STATE_LISTEN: u32 = 10;
/// Everything between the first packet and the last: ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
const STATES_TCP: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_CGROUP_ID: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// The kernel answers from its memory; only a bug would let it be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel sends at most 32 KiB at a time.
const ANSWER_LEN_MAX: usize = 65_536;
