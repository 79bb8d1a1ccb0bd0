//! The kernel's `rtnetlink` protocol (`linux/rtnetlink.h`), as far as it tells which interfaces a namespace has and where their other
//! ends are.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// An interface of the calling thread's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    /// The index of its other end, if it is a pair of two and that end is in the other namespace that was asked about.
    pub(crate) peer: Option<u32>,
}

/// What an interface says of itself.
#[derive(Default)]
struct Link {
    index: u32,
    flags: u32,
    peer: Option<u32>,
    peer_namespace: Option<i32>,
    is_pair: bool,
}

/// The interfaces of the calling thread's namespace, without the loopback.
pub(crate) fn interfaces(other: BorrowedFd<'_>) -> io::Result<Vec<Interface>> {
    let mut conversation = Conversation::open()?;
    let mut links = Vec::new();
    conversation.ask(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_HEADER_LEN], |message| {
        links.extend(parse_link(message));
    })?;
    // The number of a namespace is given when an interface that leads there is first told of.
    let namespace = namespace_number(&mut conversation, other)?;
    let interfaces = links
        .into_iter()
        .filter(|link| link.flags & IFF_LOOPBACK == 0)
        .map(|link| {
            let leads_there =
                link.is_pair && namespace.is_some() && link.peer_namespace == namespace;
            Interface {
                index: link.index,
                peer: link.peer.filter(|_| leads_there),
            }
        });
    Ok(interfaces.take(INTERFACES_MAX).collect())
}

/// The number by which the calling thread's namespace knows another one.
fn namespace_number(
    conversation: &mut Conversation,
    other: BorrowedFd<'_>,
) -> io::Result<Option<i32>> {
    let descriptor = u32::try_from(other.as_raw_fd()).map_err(io::Error::other)?;
    let mut body = vec![0; NAMESPACE_HEADER_LEN];
    body.extend(8_u16.to_ne_bytes());
    body.extend(NETNSA_FD.to_ne_bytes());
    body.extend(descriptor.to_ne_bytes());
    let mut number = None;
    conversation.ask(RTM_GETNSID, 0, &body, |message| {
        for (kind, value) in attributes(message, NAMESPACE_HEADER_LEN) {
            if kind == NETNSA_NSID {
                number = int(value).filter(|number| *number >= 0);
            }
        }
    })?;
    Ok(number)
}

fn parse_link(message: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: word(message, 4)?,
        flags: word(message, 8)?,
        ..Link::default()
    };
    for (kind, value) in attributes(message, LINK_HEADER_LEN) {
        match kind {
            IFLA_LINK => link.peer = word(value, 0),
            IFLA_LINK_NETNSID => link.peer_namespace = int(value),
            IFLA_LINKINFO => {
                link.is_pair = attributes(value, 0).any(|(kind, value)| {
                    kind == IFLA_INFO_KIND && value.strip_suffix(b"\0").unwrap_or(value) == b"veth"
                });
            }
            _ => {}
        }
    }
    Some(link)
}

/// The attributes of a message behind its header. What does not parse ends them.
fn attributes(message: &[u8], header_len: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(header_len..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & !NLA_F_NESTED;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A conversation with the kernel in the namespace in which it was opened.
struct Conversation {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            NETLINK_ROUTE,
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Conversation {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER_LEN_MAX],
        })
    }

    /// Asks, and hands over each message of the answer.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut handle: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = u32::try_from(HEADER_LEN + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::new();
        request.extend(len.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(body);
        send(&self.socket, &request, SendFlags::empty())?;
        loop {
            let (len, _) = recv(&self.socket, &mut self.buffer, RecvFlags::empty())?;
            let mut rest = self.buffer.get(..len).unwrap_or_default();
            while let (Some(len), Some(kind)) = (word(rest, 0), half(rest, 4)) {
                let len = usize::try_from(len).map_err(io::Error::other)?;
                let message = rest.get(HEADER_LEN..len).ok_or_else(malformed)?;
                if word(rest, 8) == Some(self.sequence) {
                    match kind {
                        NLMSG_DONE => return Ok(()),
                        NLMSG_ERROR => return outcome(message),
                        _ => handle(message),
                    }
                    if flags & NLM_F_DUMP == 0 {
                        return Ok(());
                    }
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// An error message with the code zero is a receipt.
fn outcome(message: &[u8]) -> io::Result<()> {
    match int(message).ok_or_else(malformed)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's answer about interfaces is shorter than it says",
    )
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*chunk))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*chunk))
}

fn int(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.first_chunk()?))
}

/// The first of netlink's protocols has the number that elsewhere means "none".
const NETLINK_ROUTE: Option<Protocol> = None;
/// `struct nlmsghdr`
const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`
const LINK_HEADER_LEN: usize = 16;
/// `struct rtgenmsg`, aligned.
const NAMESPACE_HEADER_LEN: usize = 4;
const RTM_GETLINK: u16 = 18;
const RTM_GETNSID: u16 = 90;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFF_LOOPBACK: u32 = 0x8;

/// More interfaces than any pod has.
const INTERFACES_MAX: usize = 16;
/// The kernel answers from its memory; only a bug would let it be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel sends at most 32 KiB at a time.
const ANSWER_LEN_MAX: usize = 65_536;
