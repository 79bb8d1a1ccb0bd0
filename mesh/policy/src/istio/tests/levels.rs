//! Several PeerAuthentications: which wins, and what a workload is bound to.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{prelude::*, sample::select};
use tulle_model::{Change, Directory, NamespacedName};

use super::*;
use crate::istio::{MtlsMode, PeerAuthentication, PeerAuthentications};

/// `namespace/name mode [port=mode …] [app]`, made at the time `created`; modes by their first letter.
fn object(text: &str, created: &str) -> PeerAuthentication {
    let mut words = text.split_whitespace();
    let key = words.next().unwrap().parse().unwrap();
    let mode = read_mode(words.next().unwrap());
    let (ports, labels): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('='));
    let port = |word: &str| {
        word.split_once('=')
            .map(|(port, mode)| (port.parse().unwrap(), read_mode(mode)))
    };
    PeerAuthentication {
        key,
        created: created.to_owned(),
        selector: labels
            .into_iter()
            .map(|app| ("app".to_owned(), app.to_owned()))
            .collect(),
        mode,
        ports: ports.into_iter().filter_map(port).collect(),
    }
}

fn read_mode(text: &str) -> MtlsMode {
    match text {
        "U" => MtlsMode::Unset,
        "D" => MtlsMode::Disable,
        "P" => MtlsMode::Permissive,
        "S" => MtlsMode::Strict,
        other => panic!("{other}"),
    }
}

/// What `shop`'s workload `app: db` is bound to, each as `namespace/name: rules`.
fn bound(objects: &[&str]) -> String {
    let at = |(i, text): (usize, &&str)| object(text, &format!("2026-01-01T00:00:{i:02}Z"));
    let set = PeerAuthentications::new("root", objects.iter().enumerate().map(at));
    let labels: BTreeMap<_, _> = [("app".to_owned(), "db".to_owned())].into();
    let policies = set.authorizations();
    let show_bound = |key: NamespacedName| {
        let policy = policies
            .iter()
            .find(|policy| policy.key() == key)
            .expect("bound to what exists");
        show(policy).replace("DENY WorkloadSelector ", "")
    };
    set.bindings("shop", &labels)
        .into_iter()
        .map(show_bound)
        .collect::<Vec<_>>()
        .join("; ")
}

const STATIC: &str = "root/istio_converted_static_strict: [!principal=any]";

fn converted(rules: &str) -> String {
    format!("shop/converted_peer_authentication_w: {rules}")
}

#[test]
fn workload_over_namespace_over_mesh() {
    for (objects, strict) in [
        (vec![], false),
        (vec!["root/m S"], true),
        (vec!["root/m P"], false),
        (vec!["root/m D"], false),
        (vec!["root/m U"], false),
        (vec!["root/m S", "shop/n U"], true),
        (vec!["root/m S", "shop/n P"], false),
        (vec!["root/m S", "shop/n D"], false),
        (vec!["root/m P", "shop/n S"], true),
        (vec!["shop/n S"], true),
        (vec!["other/n S"], false),
        (vec!["root/m S", "shop/n P", "shop/w S db"], true),
        (vec!["root/m S", "shop/n S", "shop/w P db"], false),
        (vec!["root/m S", "shop/n S", "shop/w D db"], false),
        (vec!["root/m S", "shop/w U db"], true),
        (vec!["root/m S", "shop/n P", "shop/w U db"], false),
        (vec!["shop/w S db"], true),
        (vec!["shop/w S cache"], false),
        (vec!["shop/n S", "shop/w P cache"], true),
        // A selector in the root namespace is ignored.
        (vec!["root/m S", "root/w P db"], true),
        (vec!["root/w S db"], false),
    ] {
        let expected = if strict { STATIC } else { "" };
        assert_eq!(bound(&objects), expected, "{objects:?}");
    }
}

#[test]
fn the_oldest_of_a_level_wins() {
    for (objects, strict) in [
        (vec!["root/m S", "root/m2 P"], true),
        (vec!["root/m P", "root/m2 S"], false),
        (vec!["shop/n S", "shop/n2 P"], true),
        (vec!["shop/n P", "shop/n2 S"], false),
        // The oldest wins even if it only passes the question on.
        (vec!["shop/n U", "shop/n2 S"], false),
        (vec!["shop/w P db", "shop/w2 S db"], false),
        (vec!["shop/w S db", "shop/w2 P db"], true),
        (vec!["shop/w2 P cache", "shop/w S db"], true),
    ] {
        let expected = if strict { STATIC } else { "" };
        assert_eq!(bound(&objects), expected, "{objects:?}");
    }
}

/// Manifests from files have no time; the name decides, so that every process decides alike.
#[test]
fn without_times_the_name_decides() {
    let both = || [object("shop/b S", ""), object("shop/a P", "")];
    let mut turned = both();
    turned.reverse();
    for objects in [both(), turned] {
        assert!(
            PeerAuthentications::new("root", objects)
                .bindings("shop", &BTreeMap::new())
                .is_empty()
        );
    }
}

#[test]
fn ports_that_differ_get_a_policy_of_their_own() {
    let except = |port| converted(&format!("[!principal=any] & [!port={port}]"));
    let only = |port| converted(&format!("[!principal=any, port={port}]"));
    for (objects, expected) in [
        // STRICT workload.
        (vec!["shop/w S db 80=P"], except(80)),
        (vec!["shop/w S db 80=D"], except(80)),
        (vec!["shop/w S db 80=P 81=S"], except(80)),
        (vec!["shop/w S db 80=S"], STATIC.to_owned()),
        (vec!["shop/w S db 80=U"], STATIC.to_owned()),
        (vec!["root/m P", "shop/n P", "shop/w S db 80=P"], except(80)),
        // PERMISSIVE or DISABLE workload.
        (vec!["shop/w P db 80=S"], only(80)),
        (vec!["shop/w D db 80=S"], only(80)),
        (vec!["shop/w P db 80=S 81=P"], only(80)),
        (vec!["shop/w P db 80=P"], String::new()),
        (vec!["root/m S", "shop/w P db 80=S"], only(80)),
        (vec!["root/m S", "shop/w P db 80=P"], String::new()),
        // UNSET workload under a strict parent.
        (vec!["root/m S", "shop/w U db 80=P"], except(80)),
        (
            vec!["root/m S", "shop/n U", "shop/w U db 80=P 81=S"],
            except(80),
        ),
        (vec!["root/m P", "shop/n S", "shop/w U db 80=D"], except(80)),
        (vec!["root/m S", "shop/w U db 80=S"], STATIC.to_owned()),
        // UNSET workload under a permissive parent.
        (vec!["shop/w U db 80=S"], only(80)),
        (
            vec!["root/m S", "shop/n P", "shop/w U db 80=S 81=P"],
            only(80),
        ),
        (vec!["root/m P", "shop/w U db 80=P"], String::new()),
    ] {
        assert_eq!(bound(&objects), expected, "{objects:?}");
    }
    let two = converted("[!principal=any, port=80] | [!principal=any, port=81]");
    assert_eq!(bound(&["shop/w P db 80=S 81=S"]), two);
}

#[test]
fn the_static_policy_is_there_as_soon_as_one_object_is() {
    assert_eq!(PeerAuthentications::new("root", []).authorizations(), []);
    let set = PeerAuthentications::new("root", [object("shop/n P", "")]);
    let shown: Vec<String> = set.authorizations().iter().map(show).collect();
    assert_eq!(shown, [format!("DENY WorkloadSelector {STATIC}")]);
}

prop_compose! {
    fn any_object()(
        namespace in select(vec!["root", "shop", "other"]), name in "[a-c]", mode in "[UDPS]",
        ports in proptest::collection::btree_map(80..83u16, "[UDPS]", 0..3),
        selector in select(vec!["", "db", "cache"]), second in 0..3u8,
    ) -> PeerAuthentication {
        let mut text = format!("{namespace}/{name} {mode} {selector}");
        if !selector.is_empty() {
            text.extend(ports.iter().map(|(port, mode)| format!(" {port}={mode}")));
        }
        object(&text, &format!("2026-01-01T00:00:0{second}Z"))
    }
}

proptest! {
    /// For every port, plain text is refused exactly when the most particular level that speaks says STRICT; and a proven
    /// identity always passes.
    #[test]
    fn plain_text_is_refused_where_the_levels_say_strict(
        objects in proptest::collection::btree_map("[a-z]", any_object(), 0..6), port in 79..84u16,
    ) {
        // A cluster has one object of a name.
        let by_key: BTreeMap<_, _> = objects.into_values().map(|o| (o.key.clone(), o)).collect();
        let mut objects: Vec<_> = by_key.into_values().collect();
        objects.sort_by(|a, b| a.created.cmp(&b.created));
        let labels: BTreeMap<_, _> = [("app".to_owned(), "db".to_owned())].into();
        let set = PeerAuthentications::new("root", objects.clone());
        let unset = |mode: MtlsMode| (mode != MtlsMode::Unset).then_some(mode == MtlsMode::Strict);
        let level = |namespace: &str| {
            let whole = objects.iter().find(|o| o.key.namespace == namespace && o.selector.is_empty());
            whole.and_then(|o| unset(o.mode))
        };
        let workload = objects.iter().find(|o| o.key.namespace == "shop" && o.selector == labels);
        let of_port = workload.and_then(|o| o.ports.get(&port)).and_then(|mode| unset(*mode));
        let of_workload = workload.and_then(|o| unset(o.mode));
        let strict = of_port.or(of_workload).or(level("shop")).or(level("root")).unwrap_or(false);

        let mut directory = Directory::default();
        for policy in set.authorizations() {
            directory.apply(Change::Policy(Arc::new(policy)));
        }
        let bound: Vec<String> = set.bindings("shop", &labels).iter().map(ToString::to_string).collect();
        let fits = |peer| {
            let connection = crate::Connection {
                peer, source: [10, 0, 0, 1].into(), destination: ([10, 0, 0, 2], port).into(),
            };
            bound.iter().any(|name| {
                crate::policy_matches(directory.policy(&name.parse().unwrap()).unwrap(), &connection)
            })
        };
        prop_assert_eq!(fits(None), strict, "{:?}", bound);
        prop_assert!(!fits(Some(&"spiffe://td/ns/a/sa/b".parse().unwrap())));
    }
}
