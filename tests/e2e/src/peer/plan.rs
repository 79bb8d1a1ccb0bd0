//! What both ends of a conversation are going to do.

use std::io::{self, Read, Write};

/// How a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The client sends, the server answers and closes first.
    ServerCloses,
    /// The server's answer is complete, the client closes first.
    ClientCloses,
    /// The client sends and shuts its sending side; the server answers after it saw that.
    HalfClose,
    /// After both have all bytes, the client resets.
    ClientResets,
    /// After both have all bytes, the server resets.
    ServerResets,
    /// No conversation: tells what the server saw of the conversation with this id.
    Report,
    /// No conversation: tells how many connections the server has accepted.
    Count,
}

impl Mode {
    /// Every way to end, [`Mode::Report`] excepted.
    pub const ENDINGS: [Mode; 5] = [
        Mode::ServerCloses,
        Mode::ClientCloses,
        Mode::HalfClose,
        Mode::ClientResets,
        Mode::ServerResets,
    ];

    fn number(self) -> u8 {
        match self {
            Mode::ServerCloses => 1,
            Mode::ClientCloses => 2,
            Mode::HalfClose => 3,
            Mode::ClientResets => 4,
            Mode::ServerResets => 5,
            Mode::Report => 6,
            Mode::Count => 7,
        }
    }

    fn from_number(number: u8) -> Option<Mode> {
        let all = [
            Mode::ServerCloses,
            Mode::ClientCloses,
            Mode::HalfClose,
            Mode::ClientResets,
            Mode::ServerResets,
            Mode::Report,
            Mode::Count,
        ];
        all.into_iter().find(|mode| mode.number() == number)
    }
}

/// The header of a conversation: 33 bytes, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How it ends.
    pub mode: Mode,
    /// Names the conversation, and seeds its bytes.
    pub id: u64,
    /// Bytes from client to server, header not counted.
    pub up_len: u64,
    /// Bytes from server to client.
    pub down_len: u64,
}

impl Plan {
    /// Writes the header.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(&MAGIC);
        header.push(self.mode.number());
        for part in [self.id, self.up_len, self.down_len] {
            header.extend_from_slice(&part.to_be_bytes());
        }
        to.write_all(&header)
    }

    /// Reads a header; `None` if the peer closed without sending a byte.
    ///
    /// # Errors
    /// What the reader says, or `InvalidData` for a header that is none.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Plan>> {
        let mut header = [0u8; HEADER_LEN];
        if from.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut header[1..])?;
        let number = |at: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let mode = Mode::from_number(header[8]).filter(|_| header[..8] == MAGIC);
        let mode = mode.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a plan"))?;
        Ok(Some(Plan {
            mode,
            id: number(9),
            up_len: number(17),
            down_len: number(25),
        }))
    }

    /// The bytes from client to server.
    pub fn up(&self) -> Pattern {
        Pattern::new(self.id.wrapping_mul(2).wrapping_add(1), self.up_len)
    }

    /// The bytes from server to client.
    pub fn down(&self) -> Pattern {
        Pattern::new(self.id.wrapping_mul(2).wrapping_add(2), self.down_len)
    }
}

/// Pseudo-random bytes that both ends can make (xorshift64*), in blocks.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    left: u64,
    /// Bytes of the last word that were not handed out yet.
    pending: ([u8; 8], usize),
}

impl Pattern {
    fn new(seed: u64, len: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Pattern {
            state,
            left: len,
            pending: ([0; 8], 8),
        }
    }

    /// How many bytes are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Fills the front of `block` with the next bytes and tells how many there were.
    pub fn fill(&mut self, block: &mut [u8]) -> usize {
        let len = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(block.len());
        for byte in &mut block[..len] {
            if self.pending.1 == 8 {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                self.pending = (
                    self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes(),
                    0,
                );
            }
            *byte = self.pending.0[self.pending.1];
            self.pending.1 += 1;
        }
        self.left -= len as u64;
        len
    }

    /// Compares `received` with the next bytes.
    ///
    /// # Errors
    /// `InvalidData` with the offset from the end if they differ or there are too many.
    pub fn check(&mut self, received: &[u8]) -> io::Result<()> {
        let left = self.left;
        let mut expected = vec![0u8; received.len()];
        let len = self.fill(&mut expected);
        if len == received.len() && expected == received {
            return Ok(());
        }
        let text = format!(
            "{} bytes differ, {left} bytes before the end",
            received.len()
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

const MAGIC: [u8; 8] = *b"TULLEPR1";
const HEADER_LEN: usize = 33;
