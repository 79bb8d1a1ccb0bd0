//! DNS on the wire: datagrams and framed streams, both bounded. What a question means is decided elsewhere.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    message::{QUERY_LEN_MAX, Transport},
    resolver::{Resolver, Step},
};
use crate::metrics::QueryOutcome;

/// Answers datagrams until it is cancelled.
pub(crate) async fn serve_udp(
    socket: Arc<UdpSocket>,
    resolver: Arc<Resolver>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    // One byte more than allowed, so that a question which is too long is seen as such.
    let mut buffer = vec![0; QUERY_LEN_MAX + 1];
    loop {
        // Both arms are cancel-safe: `recv_from` leaves the datagram in the socket.
        let received = tokio::select! {
            () = cancel.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (bytes, client) = match received {
            Ok((len, client)) => (buffer.get(..len).unwrap_or_default(), client),
            Err(error) => {
                tracing::debug!(%error, "a DNS datagram cannot be received");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        match resolver.take(bytes, Transport::Udp) {
            Step::Drop => {}
            Step::Reply(answer) => send(&socket, &answer, client).await,
            Step::Wait(waiting) => {
                let (socket, resolver, cancel) =
                    (Arc::clone(&socket), Arc::clone(&resolver), cancel.clone());
                tasks.spawn(cancel.run_until_cancelled_owned(async move {
                    if let Some(answer) = resolver.finish(waiting).await {
                        send(&socket, &answer, client).await;
                    }
                }));
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%error, %client, "a DNS answer cannot be sent");
    }
}

/// Answers streams until it is cancelled.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    resolver: Arc<Resolver>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Both arms are cancel-safe: an accepted connection is returned or still in the queue.
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _client)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a DNS connection cannot be accepted");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Closing tells the client at once; a queue would let it wait for nothing.
            resolver.count(QueryOutcome::Busy);
            continue;
        };
        let (resolver, cancel) = (Arc::clone(&resolver), cancel.clone());
        tasks.spawn(cancel.run_until_cancelled_owned(async move {
            serve_stream(stream, resolver).await;
            drop(place);
        }));
    }
}

/// Serves one connection: questions may follow each other without waiting, answers come in the order in which they are known
/// (RFC 7766 §6.2.1.1, §7).
async fn serve_stream(stream: TcpStream, resolver: Arc<Resolver>) {
    let (read, write) = stream.into_split();
    let (answers, queue) = mpsc::channel(PIPELINE_MAX);
    let reading = read_questions(read, resolver, answers);
    let writing = write_answers(write, queue);
    // The writer ends when the reader and all the questions that wait are done, or when the client takes no more answers.
    let (read, wrote) = tokio::join!(reading, writing);
    if let Err(error) = read.and(wrote) {
        tracing::debug!(%error, "a DNS connection ended early");
    }
}

async fn read_questions(
    mut read: OwnedReadHalf,
    resolver: Arc<Resolver>,
    answers: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let in_flight = Arc::new(Semaphore::new(PIPELINE_MAX));
    let result = loop {
        let question = match timeout(IDLE_TIMEOUT, read_frame(&mut read)).await {
            Ok(Ok(Some(question))) => question,
            Ok(Ok(None)) | Err(_) => break Ok(()),
            Ok(Err(error)) => {
                // A length that lies: too long, or more than ever came.
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) {
                    resolver.count(QueryOutcome::Malformed);
                }
                break Err(error);
            }
        };
        let step = resolver.take(&question, Transport::Tcp);
        let Ok(place) = Arc::clone(&in_flight).acquire_owned().await else {
            break Ok(());
        };
        match step {
            // A client that sends an answer, or less than a header, has lost the framing.
            Step::Drop => break Err(io::ErrorKind::InvalidData.into()),
            Step::Reply(answer) => {
                if answers.send(answer).await.is_err() {
                    break Ok(());
                }
            }
            Step::Wait(waiting) => {
                let (resolver, answers) = (Arc::clone(&resolver), answers.clone());
                tasks.spawn(async move {
                    if let Some(answer) = resolver.finish(waiting).await {
                        // A client that is gone needs no answer.
                        drop(answers.send(answer).await);
                    }
                    drop(place);
                });
            }
        }
    };
    drop(answers);
    tasks.close();
    tasks.wait().await;
    result
}

/// One framed message; `None` at the end of the stream.
async fn read_frame(read: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let len = match read.read_u16().await {
        Ok(len) => usize::from(len),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if len > QUERY_LEN_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the question is too long",
        ));
    }
    let mut message = vec![0; len];
    read.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_answers(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(answer) = queue.recv().await {
        let Ok(len) = u16::try_from(answer.len()) else {
            continue;
        };
        let framed = [len.to_be_bytes().as_slice(), &answer].concat();
        timeout(WRITE_TIMEOUT, write.write_all(&framed)).await??;
    }
    write.shutdown().await
}

/// Connections of one pod at one time.
const CONNECTIONS_MAX: usize = 64;
/// Questions of one connection that may be unanswered at one time; after that the connection is not read.
const PIPELINE_MAX: usize = 32;
/// RFC 7766 §6.2.3 asks for seconds rather than minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes no answers for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// An error of the socket itself may repeat at once; this keeps it from taking a core.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
