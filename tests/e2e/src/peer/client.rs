//! The connecting end, and campaigns of many conversations.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    plan::{Mode, Plan},
    server::{expect_end, expect_reset, receive, send},
    socket::{Discipline, Socket},
};

/// Many conversations with one server.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The server.
    pub server: SocketAddr,
    /// How many conversations.
    pub conversations: u64,
    /// How many at once.
    pub parallel: usize,
    /// The longest direction, in bytes.
    pub len_max: u64,
    /// Names the campaign, so that ids of two campaigns do not meet.
    pub seed: u64,
    /// How the client's sockets wait.
    pub discipline: Discipline,
}

/// A conversation that went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was planned.
    pub plan: Plan,
    /// What happened instead.
    pub reason: String,
}

/// What became of a campaign.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Conversations that went as planned.
    pub passed: u64,
    /// Payload bytes of those, both directions.
    pub bytes: u64,
    /// The others.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs the campaign to its end.
pub fn run_campaign(campaign: &Campaign) -> Summary {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..campaign.parallel {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= campaign.conversations {
                        return;
                    }
                    let plan = campaign.plan(index);
                    let result = hold(campaign, &plan);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(()) => {
                            summary.passed += 1;
                            summary.bytes += plan.up_len + plan.down_len;
                        }
                        Err(error) => {
                            summary.failures.push(Failure {
                                plan,
                                reason: error.to_string(),
                            });
                        }
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.elapsed = begun.elapsed();
    summary
}

impl Campaign {
    /// The plan of one conversation: endings in turn, lengths spread over all magnitudes from 0 to `len_max`.
    fn plan(&self, index: u64) -> Plan {
        let id = self.seed.wrapping_mul(1_000_003).wrapping_add(index);
        let mut state = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_F491_4F6C_DD1D)
        };
        let mut len = || match draw() % 10 {
            0 => 0,
            1..=3 => draw() % 100,
            4..=6 => draw() % 20_000,
            7 | 8 => draw() % (self.len_max / 16).max(1),
            _ => draw() % (self.len_max + 1),
        };
        let (up_len, down_len) = (len(), len());
        let endings = Mode::ENDINGS.len() as u64;
        let mode = Mode::ENDINGS[usize::try_from(index % endings).unwrap_or(0)];
        Plan {
            mode,
            id,
            up_len,
            down_len,
        }
    }
}

fn hold(campaign: &Campaign, plan: &Plan) -> io::Result<()> {
    let socket = Socket::connect(campaign.server, campaign.discipline)
        .map_err(|error| io::Error::other(format!("connect: {error}")))?;
    follow(socket, plan).map_err(|error| io::Error::other(format!("client: {error}")))?;
    let report = Plan {
        mode: Mode::Report,
        ..*plan
    };
    let mut socket = Socket::connect(campaign.server, campaign.discipline)?;
    report.write(&mut socket)?;
    let mut outcome = String::new();
    socket
        .read_to_string(&mut outcome)
        .map_err(|error| io::Error::other(format!("report: {error}")))?;
    if outcome == "ok" {
        Ok(())
    } else {
        Err(io::Error::other(outcome))
    }
}

fn follow(mut socket: Socket, plan: &Plan) -> io::Result<()> {
    plan.write(&mut socket)?;
    match plan.mode {
        Mode::ServerCloses | Mode::Report | Mode::Count => {
            send(&mut socket, plan.up())?;
            receive(&mut socket, plan.down())?;
            expect_end(&mut socket)
        }
        Mode::ClientCloses => {
            send(&mut socket, plan.up())?;
            receive(&mut socket, plan.down())
        }
        Mode::HalfClose => {
            send(&mut socket, plan.up())?;
            socket.shut_write()?;
            receive(&mut socket, plan.down())?;
            expect_end(&mut socket)
        }
        Mode::ClientResets => {
            send(&mut socket, plan.up())?;
            receive(&mut socket, plan.down())?;
            socket.read_exact(&mut [0u8])?;
            socket.reset_on_close()
        }
        Mode::ServerResets => {
            send(&mut socket, plan.up())?;
            receive(&mut socket, plan.down())?;
            socket.write_all(&[1])?;
            expect_reset(&mut socket)
        }
    }
}

/// Opens `count` connections, sends a few bytes on each and resets it at once. Returns how many of them the server has accepted, when
/// it has accepted all or `patience` has ended.
///
/// # Errors
/// When a connection cannot be opened.
pub fn reset_early(server: SocketAddr, count: u64, patience: Duration) -> io::Result<u64> {
    let before = accepted(server)?;
    for id in 0..count {
        let mut socket = Socket::connect(server, Discipline::Blocking)?;
        let plan = Plan {
            mode: Mode::ClientCloses,
            id,
            up_len: 0,
            down_len: 0,
        };
        plan.write(&mut socket)?;
        socket.reset_on_close()?;
    }
    let until = Instant::now() + patience;
    // Each question is a connection too.
    let mut questions = 1;
    loop {
        let seen = accepted(server)?.saturating_sub(before + questions);
        if seen >= count || Instant::now() >= until {
            return Ok(seen);
        }
        questions += 1;
    }
}

fn accepted(server: SocketAddr) -> io::Result<u64> {
    let mut socket = Socket::connect(server, Discipline::Blocking)?;
    let question = Plan {
        mode: Mode::Count,
        id: 0,
        up_len: 0,
        down_len: 0,
    };
    question.write(&mut socket)?;
    let mut answer = [0; 8];
    socket.read_exact(&mut answer)?;
    Ok(u64::from_be_bytes(answer))
}
