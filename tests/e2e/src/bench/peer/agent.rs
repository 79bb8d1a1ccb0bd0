//! The agent of one node: sees the node's pods come and go, leads their connections to the ztunnel, hands it their namespaces.
//!
//! It stands where a CNI plugin stands for Tulle's proxy, and keeps the same contract with the kubelet: a pod's file appears, and the
//! pod starts when a file `captured` lies beside it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tulle_lab::wait_until;

use super::{
    redirect,
    zds::{self, Pod},
};

/// The agent's thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Agent {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    pod_files: PathBuf,
    stop: AtomicBool,
    fault: Mutex<Option<String>>,
}

/// What is known of a pod, by its file.
type Pods = BTreeMap<PathBuf, Pod>;

impl Agent {
    /// Listens for the ztunnel of the node whose pods have their files in `pod_files`.
    pub(super) fn start(socket: PathBuf, pod_files: PathBuf) -> Result<Agent> {
        // A socket of an agent that is gone takes nobody in.
        if socket.exists() {
            fs::remove_file(&socket).with_context(|| socket.display().to_string())?;
        }
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        let address = SockAddr::unix(&socket).with_context(|| socket.display().to_string())?;
        listener
            .bind(&address)
            .with_context(|| socket.display().to_string())?;
        listener.listen(1)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            pod_files,
            stop: AtomicBool::new(false),
            fault: Mutex::default(),
        });
        let worker = Arc::clone(&shared);
        let thread = thread::spawn(move || worker.run(&listener));
        Ok(Agent {
            shared,
            thread: Some(thread),
        })
    }

    /// Why it has no ztunnel to speak with, if it had one.
    pub(super) fn fault(&self) -> Option<String> {
        self.shared.lock_fault().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the agent of {} broke off", self.shared.pod_files.display());
        }
    }
}

impl Shared {
    fn run(&self, listener: &Socket) {
        while !self.is_over() {
            let Ok((ztunnel, _)) = listener.accept() else {
                self.pause();
                continue;
            };
            *self.lock_fault() = None;
            if let Err(error) = self.serve(&ztunnel) {
                *self.lock_fault() = Some(format!("{error:#}"));
            }
        }
    }

    /// Tells one ztunnel of the pods until it is gone or the agent ends.
    fn serve(&self, ztunnel: &Socket) -> Result<()> {
        ztunnel.set_nonblocking(false)?;
        ztunnel.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        zds::check_hello(&receive(ztunnel)?)?;
        let mut known = Pods::new();
        self.tell_changes(ztunnel, &mut known)?;
        ask(ztunnel, &zds::snapshot_sent(), None)?;
        while !self.is_over() {
            self.tell_changes(ztunnel, &mut known)?;
            if is_gone(ztunnel)? {
                return Ok(());
            }
            self.pause();
        }
        Ok(())
    }

    fn tell_changes(&self, ztunnel: &Socket, known: &mut Pods) -> Result<()> {
        let files = pod_files(&self.pod_files)?;
        let gone = known.iter().filter(|(file, _)| !files.contains(file));
        let gone: Vec<(PathBuf, String)> = gone
            .map(|(file, pod)| (file.clone(), pod.uid.clone()))
            .collect();
        for (file, uid) in gone {
            ask(ztunnel, &zds::remove(&uid), None)?;
            known.remove(&file);
            remove_mark(&file)?;
        }
        for file in files {
            // One that goes in this moment is seen as gone, or never was.
            let Some((pod, namespace)) = read_pod(&file)? else {
                continue;
            };
            if known.get(&file) == Some(&pod) {
                continue;
            }
            take_in(ztunnel, &pod, &namespace)
                .with_context(|| format!("the pod {} of {}", pod.name, file.display()))?;
            let mark = file.with_extension("captured");
            fs::write(&mark, "").with_context(|| mark.display().to_string())?;
            known.insert(file, pod);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        wait_until(Instant::now() + LOOK_INTERVAL, || self.is_over());
    }

    fn lock_fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_in(ztunnel: &Socket, pod: &Pod, namespace: &Path) -> Result<()> {
    let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
    redirect::capture(namespace)?;
    ask(ztunnel, &zds::add(pod), Some(file.as_fd()))
}

/// Sends a request, with a descriptor beside it if there is one, and waits for a good answer.
fn ask(ztunnel: &Socket, request: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(
        ztunnel,
        &[IoSlice::new(request)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )
    .context("the ztunnel takes no request")?;
    match zds::complaint(&receive(ztunnel)?)? {
        None => Ok(()),
        Some(complaint) => bail!("the ztunnel refuses: {complaint}"),
    }
}

fn receive(ztunnel: &Socket) -> Result<Vec<u8>> {
    let mut packet = vec![0; PACKET_LEN_MAX];
    let (len, _) = rustix::net::recv(ztunnel, &mut *packet, rustix::net::RecvFlags::empty())
        .context("the ztunnel does not answer")?;
    if len == 0 {
        bail!("the ztunnel has closed its socket");
    }
    packet.truncate(len);
    Ok(packet)
}

/// Between two requests a ztunnel says nothing, so what can be read is the end.
fn is_gone(ztunnel: &Socket) -> Result<bool> {
    let mut byte = [0; 1];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    match rustix::net::recv(ztunnel, &mut byte[..], flags) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok(true),
        Ok(_) => bail!("the ztunnel speaks without being asked"),
        Err(rustix::io::Errno::AGAIN) => Ok(false),
        Err(error) => Err(error).context("the ztunnel's socket"),
    }
}

fn pod_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    files.retain(|path| path.extension() == Some(OsStr::new("json")));
    Ok(files)
}

fn read_pod(file: &Path) -> Result<Option<(Pod, PathBuf)>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let value: Value = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    let word = |key: &str| {
        let word = value.get(key).and_then(Value::as_str);
        let word = word.with_context(|| format!("{}: no text `{key}`", file.display()))?;
        anyhow::Ok(word.to_owned())
    };
    let pod = Pod {
        uid: word("uid")?,
        name: word("name")?,
        namespace: word("namespace")?,
        service_account: word("serviceAccount")?,
    };
    Ok(Some((pod, PathBuf::from(word("netns")?))))
}

fn remove_mark(file: &Path) -> Result<()> {
    let mark = file.with_extension("captured");
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| mark.display().to_string())
        }
        _ => Ok(()),
    }
}

const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// As long as Istio's own agent waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// As the protocol says.
const PACKET_LEN_MAX: usize = 1024;
