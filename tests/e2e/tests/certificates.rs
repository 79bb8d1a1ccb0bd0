//! A peer whose certificate is not in order gets nothing from a pod, and the node's metrics say why.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::{Builder, Runtime},
    time::timeout,
};
use tulle_e2e::rig::{Rig, sum_of};
use tulle_identity::{
    Svid,
    testing::{CarelessPeer, Flaw, Forge},
};
use tulle_model::{SpiffeId, TrustDomain};

#[test]
fn certificates_that_are_not_in_order_are_refused_with_the_reason() -> Result<()> {
    let rig = Rig::up("certs", &[])?;
    rig.pod(
        "koornacht",
        "koornacht-worker",
        "target",
        &["sleep", "100000"],
    )?;
    rig.pod(
        "koornacht",
        "koornacht-worker2",
        "stranger",
        &["sleep", "100000"],
    )?;
    let target = rig.address("koornacht", "pod/target", false)?;
    let caller = Caller {
        rig: &rig,
        target: SocketAddr::new(target, TUNNEL_PORT),
        runtime: Builder::new_current_thread().enable_all().build()?,
    };
    welcome_is_seen(&rig, &caller)?;
    let mut failed = Vec::new();
    for place in [Place::Router, Place::Pod] {
        for case in cases(&rig)? {
            let label = format!("{} from {place:?}", case.name);
            match case.is_refused(&caller, place) {
                Ok(()) => eprintln!("refused: {label}: {}", case.reason),
                Err(error) => {
                    eprintln!("NOT refused as promised: {label}: {error:#}");
                    failed.push(format!("{label}: {error:#}"));
                }
            }
        }
    }
    // What was refused changed nothing for those who are in order.
    welcome_is_seen(&rig, &caller)?;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// The same calls with certificates that are in order are answered: the refusals are not for another reason.
fn welcome_is_seen(rig: &Rig, caller: &Caller<'_>) -> Result<()> {
    for domain in ["koornacht", "tion"] {
        let svid =
            real_forge(rig, domain)?.svid(&id_of(&format!("{domain}.tulle"))?, Flaw::None)?;
        for place in [Place::Router, Place::Pod] {
            rig.wait_for(
                &format!("{domain}'s certificate is good, from {place:?}"),
                DEADLINE,
                || {
                    let before = caller.handshakes("ok")?;
                    let answer = caller.call(place, Some(&svid), Until::FirstBytes)?;
                    // Nine bytes: the head of an HTTP/2 frame.
                    ensure!(answer.len() >= 9, "{} bytes", answer.len());
                    Ok(caller.handshakes("ok")? > before)
                },
            )?;
        }
    }
    Ok(())
}

/// A certificate that is not in order.
struct Case {
    name: &'static str,
    svid: Option<Arc<Svid>>,
    /// The word in the metrics.
    reason: &'static str,
}

impl Case {
    fn is_refused(&self, caller: &Caller<'_>, place: Place) -> Result<()> {
        let (before, welcome) = (caller.handshakes(self.reason)?, caller.handshakes("ok")?);
        let answer = caller.call(place, self.svid.as_deref(), Until::End)?;
        ensure!(
            answer.is_empty(),
            "{} bytes came: {answer:02x?}",
            answer.len()
        );
        caller.rig.wait_for(
            &format!("the count of `{}` grows from {before}", self.reason),
            Duration::from_secs(5),
            || Ok(caller.handshakes(self.reason)? == before + 1),
        )?;
        ensure!(
            caller.handshakes("ok")? == welcome,
            "it was counted as good, too"
        );
        Ok(())
    }
}

fn cases(rig: &Rig) -> Result<Vec<Case>> {
    let real = real_forge(rig, "koornacht")?;
    let stranger = Forge::new(&domain("koornacht.tulle")?)?;
    let own = id_of("koornacht.tulle")?;
    let case = |name, forge: &Forge, id: &SpiffeId, flaw, reason| -> Result<Case> {
        let svid = Some(forge.svid(id, flaw)?);
        Ok(Case { name, svid, reason })
    };
    Ok(vec![
        Case {
            name: "no certificate",
            svid: None,
            reason: "no_certificate",
        },
        case("expired", &real, &own, Flaw::Expired, "expired")?,
        case(
            "not yet valid",
            &real,
            &own,
            Flaw::NotYetValid,
            "not_yet_valid",
        )?,
        case(
            "another cluster's trust domain",
            &real,
            &id_of("tion.tulle")?,
            Flaw::None,
            "wrong_trust_domain",
        )?,
        case(
            "a trust domain that nobody knows",
            &real,
            &id_of("elsewhere.example")?,
            Flaw::None,
            "wrong_trust_domain",
        )?,
        case("no URI", &real, &own, Flaw::NoSan, "no_san")?,
        case("two URIs", &real, &own, Flaw::TwoSans, "several_sans")?,
        case(
            "no workload's name",
            &real,
            &own,
            Flaw::NotAWorkloadId,
            "not_a_workload_id",
        )?,
        case(
            "self-signed",
            &real,
            &own,
            Flaw::SelfSigned,
            "unknown_authority",
        )?,
        case(
            "self-signed as an authority",
            &real,
            &own,
            Flaw::SelfSignedAuthority,
            "unknown_authority",
        )?,
        case(
            "an authority of the same name",
            &stranger,
            &own,
            Flaw::None,
            "unknown_authority",
        )?,
    ])
}

/// Where a stranger sits.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Between the nodes, where no node proxy is near.
    Router,
    /// In the namespace of another node's pod, as an intruder there would.
    Pod,
}

/// How long a caller listens.
#[derive(Debug, Clone, Copy)]
enum Until {
    /// Until something comes.
    FirstBytes,
    /// Until the other side has closed.
    End,
}

struct Caller<'a> {
    rig: &'a Rig,
    target: SocketAddr,
    runtime: Runtime,
}

impl Caller<'_> {
    /// Calls as a peer that accepts whatever the server shows, and returns what the server sent inside TLS.
    fn call(&self, place: Place, svid: Option<&Svid>, until: Until) -> Result<Vec<u8>> {
        let target = self.target;
        let dial = move || TcpStream::connect_timeout(&target, DEADLINE);
        // A socket belongs for good to the namespace that it was made in.
        let stream = match place {
            Place::Router => self.rig.lab.inside_router(dial)?,
            Place::Pod => self.rig.inside_pod("koornacht", "stranger", dial)?,
        }
        .with_context(|| format!("{target} from {place:?}"))?;
        stream.set_nonblocking(true)?;
        let answer = self.runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            // In TLS 1.3 a client is done before the server has judged its certificate: a refusal may come here or below.
            let Ok(mut tls) = CarelessPeer::default().connect(svid, stream).await else {
                return anyhow::Ok(Vec::new());
            };
            if tls.write_all(HTTP2_PREFACE).await.is_err() || tls.flush().await.is_err() {
                return Ok(Vec::new());
            }
            let mut answer = Vec::new();
            let listening = async {
                loop {
                    match tls.read_buf(&mut answer).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) if matches!(until, Until::FirstBytes) => return,
                        Ok(_) => {}
                    }
                }
            };
            timeout(DEADLINE, listening)
                .await
                .context("the connection stays open")?;
            Ok(answer)
        });
        answer.with_context(|| format!("from {place:?}"))
    }

    /// How many handshakes of the target's node ended so.
    fn handshakes(&self, reason: &str) -> Result<u64> {
        let labels = ["side=\"Server\"".to_owned(), format!("reason=\"{reason}\"")];
        let metrics = self.rig.metrics("koornacht-worker")?;
        Ok(sum_of(&metrics, "tulle_tunnel_handshakes_total", &labels))
    }
}

/// The forge with the very root that a cluster's xds-server signs with.
fn real_forge(rig: &Rig, cluster: &str) -> Result<Forge> {
    let directory = rig.lab.state_directory().join(cluster).join("ca");
    Ok(Forge::open(
        &directory,
        &domain(&format!("{cluster}.tulle"))?,
    )?)
}

fn id_of(trust_domain: &str) -> Result<SpiffeId> {
    Ok(format!("spiffe://{trust_domain}/ns/default/sa/default").parse()?)
}

fn domain(name: &str) -> Result<TrustDomain> {
    Ok(name.parse()?)
}

const TUNNEL_PORT: u16 = 15008;
/// What an HTTP/2 client says first: the preface and empty settings.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(10);
