use proptest::prelude::*;

use super::{ParseSpiffeIdError, SpiffeId, TrustDomain};

fn check(text: &str, valid: bool) {
    let parsed = text.parse::<SpiffeId>();
    assert_eq!(parsed.is_ok(), valid, "{text:?}: {parsed:?}");
    let stored = serde_json::to_string(text).unwrap();
    assert_eq!(
        serde_json::from_str::<SpiffeId>(&stored).is_ok(),
        valid,
        "{text:?}"
    );
    if let Ok(id) = parsed {
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("spiffe://{}", id.principal()), text);
        assert_eq!(serde_json::to_string(&id).unwrap(), stored);
    }
}

#[test]
fn ids_of_workloads_are_read() {
    check("spiffe://cluster.local/ns/default/sa/default", true);
    check("spiffe://td/ns/a/sa/b", true);
    check(
        "spiffe://koornacht.tulle/ns/tulle-system/sa/node-proxy",
        true,
    );
    check("spiffe://td/ns/a.b_c-d/sa/A.B_C-D", true);
    check("spiffe://td/ns/.../sa/.a", true);
    let id: SpiffeId = "spiffe://td/ns/shop/sa/web".parse().unwrap();
    assert_eq!(id.trust_domain.as_str(), "td");
    assert_eq!(
        (id.namespace.as_str(), id.service_account.as_str()),
        ("shop", "web")
    );
}

#[test]
fn other_forms_are_refused() {
    for text in [
        "",
        "spiffe://",
        "spiffe://td",
        "spiffe://td/",
        "td/ns/a/sa/b",
        "SPIFFE://td/ns/a/sa/b",
        "https://td/ns/a/sa/b",
        "spiffe:/td/ns/a/sa/b",
        " spiffe://td/ns/a/sa/b",
        "spiffe://td/ns/a/sa/b ",
        // Another path is somebody, but no workload of the mesh.
        "spiffe://td/workload/b",
        "spiffe://td/ns/a",
        "spiffe://td/ns/a/sa",
        "spiffe://td/sa/b/ns/a",
        "spiffe://td/NS/a/sa/b",
        // Empty and extra segments.
        "spiffe://td/ns//sa/b",
        "spiffe://td/ns/a/sa/",
        "spiffe://td//ns/a/sa/b",
        "spiffe://td/ns/a/sa/b/",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe:///ns/a/sa/b",
        // Dots that a path would resolve.
        "spiffe://td/ns/./sa/b",
        "spiffe://td/ns/a/sa/..",
        // Characters that a SPIFFE id has not: port, user, query, fragment, percent, NUL, others.
        "spiffe://td:1/ns/a/sa/b",
        "spiffe://u@td/ns/a/sa/b",
        "spiffe://td/ns/a/sa/b?q",
        "spiffe://td/ns/a/sa/b#f",
        "spiffe://td/ns/a%2fb/sa/b",
        "spiffe://td/ns/a/sa/b\0",
        "spiffe://td/ns/ä/sa/b",
        "spiffe://TD/ns/a/sa/b",
        "spiffe://tä/ns/a/sa/b",
    ] {
        check(text, false);
    }
}

#[test]
fn lengths_are_bounded_at_both_sides() {
    let of_len = |len: usize| {
        let head = "spiffe://td/ns/a/sa/";
        format!("{head}{}", "b".repeat(len - head.len()))
    };
    check(&of_len(2048), true);
    check(&of_len(2049), false);
    let of_domain = |len: usize| format!("spiffe://{}/ns/a/sa/b", "d".repeat(len));
    check(&of_domain(255), true);
    check(&of_domain(256), false);
}

#[test]
fn trust_domains_follow_the_rule() {
    for text in ["a", "cluster.local", "koornacht.tulle", "a_b-c.0", "-", "."] {
        assert_eq!(text.parse::<TrustDomain>().unwrap().as_str(), text);
    }
    for text in ["", "A", "a/b", "a:1", "a b", "ä", "a\n"] {
        let refused = ParseSpiffeIdError::TrustDomain {
            found: text.to_owned(),
        };
        assert_eq!(text.parse::<TrustDomain>(), Err(refused));
    }
}

/// A certificate's name goes into logs: what a peer wrote there is cut.
#[test]
fn a_refused_id_is_cut_in_the_error() {
    let error = "X".repeat(100_000).parse::<SpiffeId>().unwrap_err();
    assert!(error.to_string().len() < 600);
}

proptest! {
    #[test]
    fn any_text_is_judged_without_panic(text in ".{0,60}|spiffe://[a-z/.]{0,30}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn every_good_id_survives(
        domain in "[a-z0-9._-]{1,40}", namespace in "[a-z0-9][a-z0-9-]{0,20}", account in "[a-z0-9][a-z0-9.-]{0,20}",
    ) {
        let id = SpiffeId {
            trust_domain: domain.parse().unwrap(), namespace: namespace.as_str().into(), service_account: account.as_str().into(),
        };
        prop_assert_eq!(id.to_string().parse::<SpiffeId>(), Ok(id));
    }
}
