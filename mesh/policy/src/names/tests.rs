use tulle_model::NamePattern;

use super::*;

fn check(pattern: &str, name: &str, expected: bool) {
    let pattern = NamePattern::Pattern(pattern.to_owned());
    assert_eq!(matches_name(&pattern, name), expected, "{pattern:?} {name}");
}

#[test]
fn a_star_stays_within_its_label() {
    check("*.cilium.io.", "www.cilium.io.", true);
    check("*.cilium.io.", "cilium.io.", false);
    check("*.cilium.io.", "a.b.cilium.io.", false);
    check("*cilium.io.", "cilium.io.", true);
    check("*cilium.io.", "subcilium.io.", true);
    check("*cilium.io.", "sub.cilium.io.", false);
    check("sub*.cilium.io.", "sub-1_x.cilium.io.", true);
    check("a*b*c.io.", "aXbYbZc.io.", true);
    check("a*b*c.io.", "aXc.io.", false);
    check("a*b.io.", "a/b.io.", false);
}

#[test]
fn two_leading_stars_are_one_label_or_more() {
    check("**.cilium.io.", "cilium.io.", false);
    check("**.cilium.io.", "a.cilium.io.", true);
    check("**.cilium.io.", "a.b.cilium.io.", true);
    check("**.cilium.io.", ".cilium.io.", false);
    check("**.cilium.io.", "a.xcilium.io.", false);
    check("**.s*.io.", "a.b.sub.io.", true);
}

#[test]
fn the_lone_star_is_every_name() {
    check("*.", "a.b.c.", true);
    check("*.", ".", true);
    check("*.", "a..b.", false);
    check("*.", "a b.", false);
}

#[test]
fn neither_case_nor_the_final_dot_matters() {
    check("*.Cilium.io", "WWW.cilium.IO.", true);
    let exact = NamePattern::Exact("cilium.io.".to_owned());
    assert!(matches_name(&exact, "CILIUM.io"));
    assert!(!matches_name(&exact, "www.cilium.io"));
}

#[test]
fn server_names_follow_the_same_grammar() {
    assert!(matches_server_name("*.example.com", "WWW.example.com"));
    assert!(!matches_server_name("*.example.com", "example.com"));
    assert!(matches_server_name("**.example.com", "a.b.example.com"));
    assert!(matches_server_name("example.com", "example.com"));
}
