use super::*;
use crate::{
    Svid, pem,
    testing::{Flaw, Forge, bundles},
};

fn id(text: &str) -> SpiffeId {
    format!("spiffe://{text}").parse().unwrap()
}

fn forge() -> Forge {
    Forge::new(&"a.tulle".parse().unwrap()).unwrap()
}

fn judge(
    demand: &Demand,
    leaf: &[u8],
    intermediates: &[CertificateDer<'_>],
) -> Result<Option<Peer>, PeerRefusal> {
    let leaf = CertificateDer::from(leaf);
    let now = UnixTime::now();
    demand.judge(&PresentedChain {
        leaf: &leaf,
        intermediates,
        role: PeerRole::Client,
        now,
    })
}

fn der(svid: &Svid) -> Vec<u8> {
    pem::certificates(&svid.chain_pem())
        .unwrap()
        .remove(0)
        .to_vec()
}

/// **Invariant:** no certificate passes of which a single bit was changed, and none brings the reader down.
#[test]
fn a_changed_certificate_is_refused_wherever_the_change_is() {
    let forge = forge();
    let demand = Demand::Workload {
        bundles: bundles(&[&forge]).unwrap(),
        expected: None,
    };
    let good = der(&forge
        .svid(&id("a.tulle/ns/default/sa/app"), Flaw::None)
        .unwrap());
    judge(&demand, &good, &[]).unwrap();
    for position in 0..good.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[position] ^= change;
            let verdict = judge(&demand, &bad, &[]);
            assert!(verdict.is_err(), "byte {position} ^ {change:#x}");
        }
        assert!(judge(&demand, &good[..position], &[]).is_err());
    }
    let mut longer = good;
    longer.push(0);
    assert!(judge(&demand, &longer, &[]).is_err());
}

#[test]
fn a_chain_longer_than_any_is_refused_unread() {
    let forge = forge();
    let demand = Demand::Workload {
        bundles: bundles(&[&forge]).unwrap(),
        expected: None,
    };
    let good = der(&forge
        .svid(&id("a.tulle/ns/default/sa/app"), Flaw::None)
        .unwrap());
    let padding = vec![CertificateDer::from(good.clone()); INTERMEDIATES_MAX];
    judge(&demand, &good, &padding).unwrap();
    let padding = vec![CertificateDer::from(good.clone()); INTERMEDIATES_MAX + 1];
    let refusal = judge(&demand, &good, &padding).unwrap_err();
    assert!(matches!(refusal, PeerRefusal::Malformed { .. }));
}

#[test]
fn every_refusal_has_a_reason_of_the_closed_set() {
    let text = || "x".to_owned();
    let refusals = [
        PeerRefusal::Expired,
        PeerRefusal::NotYetValid,
        PeerRefusal::WrongTrustDomain {
            claimed: id("a/ns/b/sa/c"),
            known: true,
        },
        PeerRefusal::NoSan,
        PeerRefusal::SeveralSans { count: 2 },
        PeerRefusal::NotAWorkloadId { detail: text() },
        PeerRefusal::WrongUsage { detail: text() },
        PeerRefusal::UnknownAuthority { detail: text() },
        PeerRefusal::UnexpectedIdentity {
            found: text(),
            expected: text(),
        },
        PeerRefusal::Malformed { detail: text() },
    ];
    for refusal in refusals {
        assert!(crate::REASONS.contains(&refusal.reason()), "{refusal:?}");
        assert!(!refusal.to_string().is_empty());
    }
}
