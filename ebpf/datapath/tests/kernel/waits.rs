//! Programs that wait in a call on a socket which does not block when it joins the sockmap: none of their calls may fail for it.
//!
//! The kernel's receive path for sockets of a sockmap waits once and then answers `EAGAIN`, whatever woke it. Each program here
//! waits in another way, while another thread gives it many reasons to wake up without data: room in the send buffer.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    fs::OFlags,
    net::{RecvFlags, recv},
};
use tulle_datapath::SockmapMode;

use crate::{
    hazards::{Stage, drain},
    support::{PATIENCE, wait_for},
    traffic::Style,
};

/// How the program comes to wait.
#[derive(Debug, Clone, Copy)]
enum Flip {
    /// `ioctl(FIONBIO)`
    Ioctl,
    /// `fcntl(F_SETFL)`
    Fcntl,
    /// `fcntl` on another descriptor of the same open file.
    Duplicate,
}

/// How the program waits.
#[derive(Debug, Clone, Copy)]
enum Wait {
    Read,
    /// `recv` of all bytes at once.
    AllAtOnce,
    /// With a time limit that is not reached.
    Limited,
    /// Another program that inherits the socket as its standard input.
    Child,
    /// After the end of its own sending.
    HalfClosed,
}

impl Flip {
    fn apply(self, socket: &TcpStream) {
        match self {
            Flip::Ioctl => socket.set_nonblocking(false).unwrap(),
            Flip::Fcntl => clear_flag(socket),
            Flip::Duplicate => clear_flag(&socket.try_clone().unwrap()),
        }
    }
}

fn clear_flag(socket: &TcpStream) {
    let flags = rustix::fs::fcntl_getfl(socket).unwrap();
    rustix::fs::fcntl_setfl(socket, flags - OFlags::NONBLOCK).unwrap();
}

impl Wait {
    /// Waits for the whole answer.
    fn answer(self, stage: &Stage, mut socket: TcpStream) -> io::Result<Vec<u8>> {
        match self {
            Wait::Read | Wait::HalfClosed => {
                let mut answer = vec![0; ANSWER.len()];
                socket.read_exact(&mut answer).map(|()| answer)
            }
            Wait::Limited => {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                Wait::Read.answer(stage, socket)
            }
            Wait::AllAtOnce => {
                let mut answer = vec![0; ANSWER.len()];
                let (len, _) = recv(socket.as_fd(), &mut answer, RecvFlags::WAITALL)?;
                answer.truncate(len);
                Ok(answer)
            }
            Wait::Child => {
                let output = stage.pod.run(|| {
                    let input = OwnedFd::from(socket);
                    Command::new("/usr/bin/head")
                        .args(["-c", &ANSWER.len().to_string()])
                        .stdin(Stdio::from(input))
                        .output()
                })?;
                if output.status.success() {
                    return Ok(output.stdout);
                }
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                Err(io::Error::other(text))
            }
        }
    }
}

/// One program: exchanges bytes as an event loop does, joins, flips, and waits for an answer while it uploads.
fn hold(stage: &Stage, is_outbound: bool, flip: Flip, wait: Wait) -> io::Result<()> {
    let (mut application, mut proxy) = if is_outbound {
        stage.outbound(Style::Polling)
    } else {
        stage.inbound(Style::Polling)
    };
    for _ in 0..3 {
        application.write_all(b"ping").unwrap();
        drain(&mut proxy, 4);
        proxy.write_all(b"pong").unwrap();
        drain(&mut application, 4);
    }
    flip.apply(&application);
    let has_answer = AtomicBool::new(false);
    let mut uploader = application.try_clone().unwrap();
    let mut answering = proxy.try_clone().unwrap();
    thread::scope(|scope| {
        // Fills the send buffer again and again: each time there is room, whoever waits on the socket is woken.
        let uploading = scope.spawn(move || {
            uploader.write_all(&vec![7; UPLOAD_LEN]).unwrap();
            if matches!(wait, Wait::HalfClosed) {
                uploader.shutdown(Shutdown::Write).unwrap();
            }
        });
        let waiting = scope.spawn(|| {
            let answer = wait.answer(stage, application);
            has_answer.store(true, Ordering::Relaxed);
            answer
        });
        drain(&mut proxy, UPLOAD_LEN);
        uploading.join().unwrap();
        let is_early = has_answer.load(Ordering::Relaxed);
        // A program whose call failed is gone by now.
        let answered = answering
            .write_all(&ANSWER[..3])
            .and_then(|()| answering.write_all(&ANSWER[3..]));
        let answer = waiting.join().unwrap()?;
        answered?;
        if is_early || answer != ANSWER {
            return Err(io::Error::other(format!(
                "answer {answer:?}, early: {is_early}"
            )));
        }
        Ok(())
    })
}

/// Lets every program run `rounds` times, and returns what went wrong.
fn faults(stage: &Stage, rounds: usize) -> Vec<String> {
    let mut faults = Vec::new();
    for round in 0..rounds {
        for flip in [Flip::Ioctl, Flip::Fcntl, Flip::Duplicate] {
            for wait in [
                Wait::Read,
                Wait::AllAtOnce,
                Wait::Limited,
                Wait::Child,
                Wait::HalfClosed,
            ] {
                let result = hold(stage, round % 2 == 0, flip, wait);
                faults.extend(
                    result
                        .err()
                        .map(|err| format!("{round} {flip:?} {wait:?}: {err}")),
                );
            }
        }
    }
    faults
}

#[test]
fn no_call_that_waits_fails_for_the_sockmap() {
    let stage = Stage::new("waits", SockmapMode::Auto);
    let faults = faults(&stage, ROUNDS);
    let (joined, evicted) = (stage.joined(), stage.evicted());
    println!(
        "guarded: {}; {joined} joined, {} messages redirected, {evicted} evicted, {} late; {} faults",
        stage.datapath.is_guarded(),
        stage.redirected(),
        stage.late(),
        faults.len()
    );
    assert!(faults.is_empty(), "{faults:#?}");
    // Where the kernel has no guards the mode is off; where it has them, every program was in the sockmap.
    if stage.datapath.is_guarded() {
        assert_eq!((evicted, stage.late()), (joined, 0));
        assert!(stage.redirected() > 0);
    } else {
        assert_eq!((joined, stage.redirected()), (0, 0));
    }
}

/// What the guards are for: where the kernel refuses them, the same programs meet the fault in the mode that goes without.
#[test]
fn calls_that_wait_fail_without_guards() {
    let stage = Stage::new("unguarded", SockmapMode::ToProxy);
    if stage.datapath.is_guarded() {
        return;
    }
    let faults = faults(&stage, 2);
    let spurious = faults
        .iter()
        .filter(|fault| fault.contains("os error 11") || fault.contains("unavailable"));
    println!(
        "unguarded: {} of {} programs failed, {} with EAGAIN",
        faults.len(),
        stage.joined(),
        spurious.count()
    );
    assert!(!faults.is_empty(), "then the guards are not needed");
}

#[test]
fn a_socket_that_cannot_be_an_event_loops_does_not_join() {
    let stage = Stage::new("no_join", SockmapMode::ToProxy);
    let (application, proxy) = stage.outbound(Style::Blocking);
    stage.watch(&application);
    assert!(!stage.join(&proxy), "it blocks");
    application.set_nonblocking(true).unwrap();
    assert!(stage.join(&proxy), "it blocks no longer");

    let (application, proxy) = stage.outbound(Style::Switching);
    application.set_nonblocking(true).unwrap();
    assert!(!stage.join(&proxy), "no epoll watches it");
    drop(application);
    assert!(!stage.join(&proxy), "it is gone");
}

#[test]
fn programs_that_never_wait_stay_in_the_sockmap() {
    let stage = Stage::new("stay", SockmapMode::ToProxy);
    let (mut application, mut proxy) = stage.outbound(Style::Polling);
    for _ in 0..200 {
        application.write_all(b"ping").unwrap();
        drain(&mut proxy, 4);
        proxy.write_all(b"pong").unwrap();
        drain(&mut application, 4);
    }
    // The first message may still find the last one by TCP under way.
    assert!(stage.redirected() >= 150, "{}", stage.redirected());
    assert_eq!(stage.evicted(), 0);
    application.shutdown(Shutdown::Write).unwrap();
    wait_for("the end", || proxy.read(&mut [0]).is_ok_and(|len| len == 0));
    proxy.write_all(b"last").unwrap();
    drain(&mut application, 4);
    drop(proxy);
    wait_for("the end", || match application.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(err) => err.kind() != ErrorKind::WouldBlock,
    });
}

/// More than both socket buffers hold, so that the uploader runs into the full one.
const UPLOAD_LEN: usize = 6 << 20;
const ANSWER: &[u8] = b"an answer in two pieces";
const ROUNDS: usize = 8;
