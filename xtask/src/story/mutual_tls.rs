//! The proof that connections between clusters are mutual TLS, from three sides: what the link shows, which certificates
//! are presented, what a stranger gets.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{
    KOORNACHT, SERVICE, Story, TION,
    answers::{Answers, Tally},
    wiretap::{Recording, Wiretap},
};
use crate::{process::Captured, say};

/// Words of a request and of its answer, which nobody on the link may read.
const SECRETS: [&str; 3] = ["GET /", "Planet", "Cluster"];
const TUNNEL_PORT: u16 = 15008;
/// Packets between the pods of the two clusters.
const BETWEEN_CLUSTERS: &str = "net 10.1.0.0/16 and net 10.2.0.0/16";

/// Requests cross the link, and nothing of them can be read there; the same tap does show a request that is not encrypted.
pub(super) fn requests_cannot_be_read(story: &Story) -> Result<()> {
    let address = address_of(story, KOORNACHT)?;
    let tap = Wiretap::start(&story.lab, KOORNACHT, &story.scratch.join("mesh.pcap"))?;
    story.ask_until(
        KOORNACHT,
        "a mix of both, while the link is tapped",
        Tally::is_mix,
    )?;
    let recording = tap.stop(&story.lab, &address)?;
    let tunnelled = recording.packets(&format!("{BETWEEN_CLUSTERS} and tcp port {TUNNEL_PORT}"))?;
    let others = recording.packets(&format!(
        "{BETWEEN_CLUSTERS} and not tcp port {TUNNEL_PORT}"
    ))?;
    ensure!(
        tunnelled > 0,
        "no packet to port {TUNNEL_PORT} of the other cluster was seen"
    );
    ensure!(
        others == 0,
        "{others} packets went between the clusters outside of the tunnel"
    );
    let read = words_in(&recording);
    ensure!(read.is_empty(), "the link shows {read:?} in the clear");
    say::line(format_args!(
        "   {} bytes captured, {tunnelled} packets between the clusters, all to or from port {TUNNEL_PORT}; none shows {SECRETS:?}",
        recording.len()
    ));

    let tap = Wiretap::start(&story.lab, KOORNACHT, &story.scratch.join("plain.pcap"))?;
    let answer = story
        .lab
        .on_router("curl")
        .args(["-sS", "--max-time", "5", &format!("http://{address}/")])
        .output()?;
    Answers::read(&answer).expect(
        "koornacht's page, asked for from outside of the mesh",
        Tally::only_koornacht,
    )?;
    let read = words_in(&tap.stop(&story.lab, &address)?);
    ensure!(
        read.len() == SECRETS.len(),
        "the tap does not even show a plain request: it saw {read:?}"
    );
    say::line("   the same tap reads all of them in a request from outside of the mesh");
    Ok(())
}

/// Each server shows the certificate of its own workload, signed in its own trust domain.
pub(super) fn certificates_are_the_workloads(story: &Story) -> Result<()> {
    for cluster in [KOORNACHT, TION] {
        let address = address_of(story, cluster)?;
        let script = format!(
            "openssl s_client -connect {address}:{TUNNEL_PORT} -alpn h2 -tls1_3 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
        );
        let names = story.lab.on_router("sh").args(["-c", &script]).output()?;
        let found: Vec<&str> = names
            .split([' ', ',', '\n'])
            .filter(|name| name.contains(':'))
            .collect();
        let expected = format!("URI:spiffe://{cluster}.tulle/ns/default/sa/default");
        let found: Vec<&str> = found
            .into_iter()
            .filter(|name| !name.ends_with(':'))
            .collect();
        ensure!(
            found == [expected.as_str()],
            "{cluster}'s server shows {found:?}, expected {expected}"
        );
        say::line(format_args!(
            "   {cluster}'s server at {address}:{TUNNEL_PORT} shows {expected}"
        ));
    }
    Ok(())
}

/// Without a certificate of the mesh there is no answer on the tunnel's port: neither in the clear, nor over TLS without a
/// certificate, nor with one that merely claims a workload's name.
pub(super) fn strangers_get_nothing(story: &Story) -> Result<()> {
    let address = address_of(story, TION)?;
    let (certificate, key) = forge_certificate(story)?;
    let secure = format!("https://{address}:{TUNNEL_PORT}/");
    let plain = format!("http://{address}:{TUNNEL_PORT}/");
    let attempts: [(&str, Vec<&str>); 3] = [
        ("in the clear", vec![&plain]),
        (
            "over TLS without a certificate",
            vec!["-k", "--http2", &secure],
        ),
        (
            "with a certificate that it signed itself",
            vec![
                "-k",
                "--http2",
                "--cert",
                &certificate,
                "--key",
                &key,
                &secure,
            ],
        ),
    ];
    for (how, arguments) in attempts {
        let Captured {
            status,
            stdout,
            stderr,
        } = story
            .lab
            .on_router("curl")
            .args(["-sS", "--max-time", "5"])
            .args(arguments)
            .capture()?;
        ensure!(!status.success(), "a stranger got an answer {how}");
        ensure!(
            stdout.is_empty(),
            "a stranger got {} bytes {how}",
            stdout.len()
        );
        say::line(format_args!("   a stranger {how}: {}", stderr.trim()));
    }
    Ok(())
}

fn words_in(recording: &Recording) -> Vec<&'static str> {
    SECRETS
        .into_iter()
        .filter(|word| recording.shows(word))
        .collect()
}

/// The IPv4 address of a server's pod.
fn address_of(story: &Story, cluster: &str) -> Result<String> {
    let text = story
        .lab
        .shell(cluster, SERVICE, "ip -4 -o address show scope global")
        .output()?;
    let address = text
        .split_whitespace()
        .skip_while(|word| *word != "inet")
        .nth(1)
        .and_then(|word| word.split('/').next());
    Ok(address
        .with_context(|| format!("no address in `{}`", text.trim()))?
        .to_owned())
}

/// A certificate with a workload's name that nobody of the mesh signed.
fn forge_certificate(story: &Story) -> Result<(String, String)> {
    let path = |name: &str| story.scratch.join(name).display().to_string();
    let (certificate, key) = (path("stranger.pem"), path("stranger-key.pem"));
    fs::create_dir_all(&story.scratch)?;
    story
        .lab
        .on_router("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/",
        ])
        .args([
            "-addext",
            "subjectAltName=URI:spiffe://koornacht.tulle/ns/default/sa/default",
        ])
        .args(["-out", &certificate, "-keyout", &key])
        .output()?;
    Ok((certificate, key))
}
