//! Questions that are not ours: asked of the pod's own resolvers, from inside the pod's namespace.
//!
//! Every question gets its own socket with a port of the kernel's choice and an id of ours, so that an answer can only come
//! from whom we asked, to what we asked. Nothing is cached: the pod's resolvers do that.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use rand::seq::SliceRandom;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};
use tulle_balance::{Ejected, Endpoint, SpillState, Viewpoint, select};
use tulle_model::{Directory, Protocol, ServiceAddress, ServicePort, Workload};

use super::message::{Question, Transport, answers_question, response_code, set_id};
use crate::{
    metrics::{DnsMetrics, UpstreamOutcome},
    netns::NamespaceHandle,
};

/// Asks the resolvers of one pod.
pub(crate) struct Forwarder {
    /// Where the sockets are made.
    pub(crate) namespace: Arc<NamespaceHandle>,
    /// The pod's resolvers, in its own order.
    pub(crate) nameservers: Vec<SocketAddr>,
    /// How long to wait for whom.
    pub(crate) limits: ForwardLimits,
    /// What was asked and how it ended.
    pub(crate) metrics: Arc<DnsMetrics>,
    /// Until when the resolvers are believed to be silent, because none of them answered a question in time.
    pub(crate) silent_until: Mutex<Option<Instant>>,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForwardLimits {
    /// One resolver, one try.
    pub(crate) attempt_timeout: Duration,
    /// The same, a moment after all resolvers were silent.
    pub(crate) silent_attempt_timeout: Duration,
    /// All tries together.
    pub(crate) deadline: Duration,
}

impl Default for ForwardLimits {
    /// Stub resolvers ask again after 5 s, so a failure must be known before that.
    fn default() -> Self {
        ForwardLimits {
            attempt_timeout: Duration::from_secs(1),
            silent_attempt_timeout: Duration::from_millis(300),
            deadline: Duration::from_millis(4500),
        }
    }
}

impl Forwarder {
    /// The addresses to ask, in order; empty when every resolver is a service without endpoints.
    ///
    /// A cluster's resolver usually is a service. The proxy's own sockets are not captured, so nobody would translate its
    /// cluster IP for them: that happens here, from the same view as everywhere.
    pub(crate) fn candidates(
        &self,
        directory: &Directory,
        viewpoint: Viewpoint<'_>,
        ejected: &Ejected,
        transport: Transport,
    ) -> Vec<SocketAddr> {
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        let resolve = |socket: &SocketAddr| {
            behind_service(
                directory,
                viewpoint,
                ejected,
                ServiceAddress {
                    socket: *socket,
                    protocol,
                },
            )
            .unwrap_or_else(|| vec![*socket])
        };
        let mut found: Vec<SocketAddr> = self.nameservers.iter().flat_map(resolve).collect();
        found.truncate(CANDIDATES_MAX);
        found
    }

    /// The answer of the first resolver that has one, else SERVFAIL.
    pub(crate) async fn ask(
        &self,
        candidates: &[SocketAddr],
        question: &Question,
        raw: &[u8],
        transport: Transport,
    ) -> Vec<u8> {
        let rounds = self.ask_all(candidates, question, raw, transport);
        let found = timeout(self.limits.deadline, rounds)
            .await
            .unwrap_or(Found::Silence);
        let answer = match found {
            Found::Answer(answer) => {
                *self.silence() = None;
                Some(answer)
            }
            // The next questions, which an application asks one after the other, need not wait as long to learn the same.
            Found::Silence => {
                *self.silence() = Some(Instant::now() + SILENCE);
                None
            }
            Found::Nobody => None,
        };
        let Some(mut answer) = answer else {
            return question.failure(ResponseCode::ServFail);
        };
        set_id(&mut answer, question.id());
        if answer.len() > question.answer_len_max(transport) {
            return question.truncated();
        }
        answer
    }

    async fn ask_all(
        &self,
        candidates: &[SocketAddr],
        question: &Question,
        raw: &[u8],
        transport: Transport,
    ) -> Found {
        let silent = (*self.silence()).is_some_and(|until| Instant::now() < until);
        let (rounds, attempt_timeout) = if silent {
            (1, self.limits.silent_attempt_timeout)
        } else {
            (ROUNDS, self.limits.attempt_timeout)
        };
        let mut unwilling = None;
        let mut may_answer_later = false;
        for _round in 0..rounds {
            may_answer_later = false;
            for resolver in candidates {
                let asked = self.ask_one(*resolver, question, raw, transport, attempt_timeout);
                match asked.await {
                    Ok(answer) if is_unwilling(&answer) => unwilling = Some(answer),
                    Ok(answer) => return Found::Answer(answer),
                    Err(error) => {
                        may_answer_later |= error.kind() == io::ErrorKind::TimedOut;
                        tracing::debug!(%resolver, %error, "a resolver did not answer");
                    }
                }
            }
            // Nobody is at home there: the second round would fail as fast and as surely as the first.
            if unwilling.is_some() || !may_answer_later {
                break;
            }
        }
        match unwilling {
            Some(answer) => Found::Answer(answer),
            None if may_answer_later => Found::Silence,
            None => Found::Nobody,
        }
    }

    fn silence(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_one(
        &self,
        resolver: SocketAddr,
        question: &Question,
        raw: &[u8],
        transport: Transport,
        attempt_timeout: Duration,
    ) -> io::Result<Vec<u8>> {
        let id: u16 = rand::random();
        let mut query = raw.to_vec();
        set_id(&mut query, id);
        let started = Instant::now();
        let exchange = async {
            match transport {
                Transport::Udp => self.ask_udp(resolver, question, id, &query).await,
                Transport::Tcp => self.ask_tcp(resolver, question, id, &query).await,
            }
        };
        let result = timeout(attempt_timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.metrics
            .upstream_seconds
            .observe(started.elapsed().as_secs_f64());
        self.metrics.upstream(match &result {
            Ok(_) => UpstreamOutcome::Answered,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => UpstreamOutcome::TimedOut,
            Err(_) => UpstreamOutcome::Unreachable,
        });
        result
    }

    async fn ask_udp(
        &self,
        resolver: SocketAddr,
        question: &Question,
        id: u16,
        query: &[u8],
    ) -> io::Result<Vec<u8>> {
        let socket = UdpSocket::from_std(self.udp_socket(resolver)?)?;
        socket.send(query).await?;
        let mut answer = vec![0; question.answer_len_max(Transport::Udp) + 1];
        loop {
            let len = socket.recv(&mut answer).await?;
            let received = answer.get(..len).unwrap_or_default();
            if answers_question(question, id, received) {
                answer.truncate(len);
                return Ok(answer);
            }
            self.metrics.upstream(UpstreamOutcome::Mismatched);
        }
    }

    async fn ask_tcp(
        &self,
        resolver: SocketAddr,
        question: &Question,
        id: u16,
        query: &[u8],
    ) -> io::Result<Vec<u8>> {
        let mut stream = self.tcp_stream(resolver).await?;
        let len = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream
            .write_all(&[&len.to_be_bytes(), query].concat())
            .await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        if answers_question(question, id, &answer) {
            return Ok(answer);
        }
        self.metrics.upstream(UpstreamOutcome::Mismatched);
        Err(io::ErrorKind::InvalidData.into())
    }

    fn udp_socket(&self, resolver: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let domain = Domain::for_address(resolver);
        let make = || Socket::new(domain, kind, Some(SocketProtocol::UDP));
        let socket = self.namespace.run_in(make)??;
        // Connected: the kernel drops datagrams from anybody else and reports an unreachable resolver at once.
        socket.connect(&resolver.into())?;
        Ok(socket.into())
    }

    async fn tcp_stream(&self, resolver: SocketAddr) -> io::Result<TcpStream> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let domain = Domain::for_address(resolver);
        let make = || Socket::new(domain, kind, Some(SocketProtocol::TCP));
        let socket = self.namespace.run_in(make)??;
        TcpSocket::from_std_stream(socket.into())
            .connect(resolver)
            .await
    }
}

/// What the resolvers said.
enum Found {
    /// An answer, if only a refusal.
    Answer(Vec<u8>),
    /// Nothing, from at least one of them.
    Silence,
    /// There is nobody to ask.
    Nobody,
}

/// Where a resolver that is a service is served; `None` if the address is no service's.
fn behind_service(
    directory: &Directory,
    viewpoint: Viewpoint<'_>,
    ejected: &Ejected,
    address: ServiceAddress,
) -> Option<Vec<SocketAddr>> {
    let service = directory.service_at(address.socket.ip())?;
    let key = service.key();
    let serves =
        |p: &&ServicePort| p.port == address.socket.port() && p.protocol == address.protocol;
    let Some(port) = service.ports.iter().find(serves) else {
        return Some(Vec::new());
    };
    let serving = |workload: &Workload| {
        workload
            .serving_addresses(&key, port)
            .find(|socket| socket.is_ipv4() == address.socket.is_ipv4())
    };
    let able = directory
        .endpoints(&key)
        .filter_map(|workload| serving(workload).map(|address| Endpoint { workload, address }));
    let selection = select(viewpoint, service, able, ejected, &SpillState::default());
    let serving = selection.serving.into_iter();
    let mut found: Vec<SocketAddr> = serving.map(|one| one.address).collect();
    found.shuffle(&mut rand::rng());
    found.truncate(ENDPOINTS_MAX);
    Some(found)
}

/// The resolver cannot or will not say; another one may.
fn is_unwilling(answer: &[u8]) -> bool {
    matches!(
        response_code(answer),
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

/// How long silence is believed in.
const SILENCE: Duration = Duration::from_secs(3);
/// Lost datagrams are asked again once; a third try would outlast the client's patience.
const ROUNDS: usize = 2;
/// Resolver endpoints that are tried for one service.
const ENDPOINTS_MAX: usize = 2;
/// As glibc: three resolvers; here each may be a service.
const CANDIDATES_MAX: usize = 6;

#[cfg(test)]
mod tests;
