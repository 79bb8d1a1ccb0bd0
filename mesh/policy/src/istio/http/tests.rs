use super::*;

/// `x*`, `*x`, `*`, `{..}`, else exact.
fn text(text: &str) -> StringMatch {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => StringMatch::Presence,
        (Some(suffix), _) => StringMatch::Suffix(suffix.to_owned()),
        (None, Some(prefix)) => StringMatch::Prefix(prefix.to_owned()),
        (None, None) => StringMatch::Exact(text.to_owned()),
    }
}

fn path(of: &str) -> PathMatch {
    if of.contains('{') {
        PathMatch::Template(of.to_owned())
    } else {
        PathMatch::Text(text(of))
    }
}

const GET: HttpFacts<'_> = HttpFacts {
    method: "GET",
    path: "/",
    authority: "shop.org",
    headers: &[],
};

#[test]
fn hosts_are_compared_without_case_and_port() {
    let check = |wanted: &str, authority: &str, expected: bool| {
        let wanted_match = RequestMatch {
            hosts: vec![text(wanted)],
            ..RequestMatch::default()
        };
        let facts = HttpFacts { authority, ..GET };
        let found = fits_request(&wanted_match, &facts, Readings::All);
        assert_eq!(found, expected, "{wanted} on {authority}");
        let refused = RequestMatch {
            not_hosts: vec![text(wanted)],
            ..RequestMatch::default()
        };
        assert_eq!(fits_request(&refused, &facts, Readings::All), !expected);
    };
    check("shop.org", "shop.org", true);
    check("shop.org", "SHOP.org:80", true);
    check("SHOP.org", "shop.ORG", true);
    check("shop.org:80", "shop.org:80", true);
    check("shop.org:80", "shop.org", false);
    check("shop.org", "shop.org.", true);
    check("shop.org", "shop.org.:8080", true);
    check("shop.org", "shop.org.evil.net", false);
    check("*.shop.org", "a.shop.org:80", true);
    check("*.shop.org", "shop.org", false);
    check("shop*", "shop.net", true);
    check("[::1]", "[::1]:80", true);
    check("*", "x", true);
    check("*", "", false);
}

#[test]
fn paths_are_read_as_servers_may_read_them() {
    let check = |wanted: &str, found: &str, allowed: bool, denied: bool| {
        let wanted_match = RequestMatch {
            paths: vec![path(wanted)],
            ..RequestMatch::default()
        };
        let facts = HttpFacts { path: found, ..GET };
        assert_eq!(
            fits_request(&wanted_match, &facts, Readings::All),
            allowed,
            "ALLOW {wanted} on {found}"
        );
        assert_eq!(
            fits_request(&wanted_match, &facts, Readings::Any),
            denied,
            "DENY {wanted} on {found}"
        );
    };
    check("/a", "/a", true, true);
    check("/a", "/a?x=/b", true, true);
    check("/a", "/a#b", true, true);
    check("/a", "/A", false, false);
    check("/a", "/a/", false, false);
    check("/a*", "/a/b", true, true);
    check("*.html", "/x/y.html?z", true, true);
    check("*", "/", true, true);
    // One reading is enough to refuse, and not to let in.
    check("/admin", "//admin", false, true);
    check("/admin", "/x/../admin", false, true);
    check("/admin", "/./admin", false, true);
    check("/admin", "/%61dmin", false, true);
    check("/admin", "/x/%2e%2e/admin", false, true);
    check("/admin", "/x\\..\\admin", false, true);
    check("/admin/x", "/admin%2Fx", false, true);
    check("/admin*", "/x/..%2fadmin", false, true);
    check("/public*", "/public/../admin", false, true);
    check("/public*", "/public/./x", true, true);
    check("/public*", "/public//x", true, true);
    check("/a b", "/a%20b", false, false);
    check("/", "/..", false, true);
}

#[test]
fn paths_that_are_refused_count_in_every_reading() {
    let wanted = RequestMatch {
        not_paths: vec![path("/admin*")],
        ..RequestMatch::default()
    };
    let fits =
        |found: &str, readings| fits_request(&wanted, &HttpFacts { path: found, ..GET }, readings);
    assert!(fits("/x", Readings::All));
    assert!(!fits("/admin", Readings::All));
    assert!(!fits("//admin", Readings::All));
    assert!(!fits("/x/../admin/y", Readings::All));
}

#[test]
fn templates_go_by_segments() {
    let check = |template: &str, found: &str, expected: bool| {
        assert_eq!(
            fits_template(template, found),
            expected,
            "{template} on {found}"
        );
    };
    check("/a/{*}", "/a/b", true);
    check("/a/{*}", "/a/", false);
    check("/a/{*}", "/a/b/c", false);
    check("/a/{*}/c", "/a/b/c", true);
    check("/a/{**}", "/a/b/c", true);
    check("/a/{**}", "/a/", true);
    check("/a/{**}", "/a", false);
    check("/{**}/c", "/a/b/c", true);
    check("/{**}/c", "/c", false);
    check("/{*}/b/{**}", "/a/b/c/d", true);
    check("/{*}/b/{**}", "/a/c/b/d", false);
    check("/{**}", "/", true);
}

#[test]
fn headers_are_joined() {
    let check = |values: &[&str],
                 not_values: &[&str],
                 found: &[(&str, &[u8])],
                 allowed: bool,
                 denied: bool| {
        let condition = HeaderCondition {
            name: "x-key".to_owned(),
            values: values.iter().copied().map(text).collect(),
            not_values: not_values.iter().copied().map(text).collect(),
        };
        let wanted = RequestMatch {
            headers: vec![condition],
            ..RequestMatch::default()
        };
        let facts = HttpFacts {
            headers: found,
            ..GET
        };
        assert_eq!(
            fits_request(&wanted, &facts, Readings::All),
            allowed,
            "{values:?} {found:?}"
        );
        assert_eq!(
            fits_request(&wanted, &facts, Readings::Any),
            denied,
            "{values:?} {found:?}"
        );
    };
    check(&["a"], &[], &[("x-key", b"a")], true, true);
    check(&["a"], &[], &[("x-key", b"A")], false, false);
    check(&["a"], &[], &[("x-other", b"a")], false, false);
    check(
        &["a"],
        &[],
        &[("x-key", b"a"), ("x-key", b"b")],
        false,
        true,
    );
    check(
        &["a,b"],
        &[],
        &[("x-key", b"a"), ("x-key", b"b")],
        true,
        true,
    );
    check(&["*"], &[], &[("x-key", b"")], false, false);
    check(&["*"], &[], &[("x-key", b"z")], true, true);
    check(&[], &["a"], &[("x-key", b"a")], false, false);
    check(&[], &["a"], &[], true, true);
    check(&["pre*"], &[], &[("x-key", b"prefix")], true, true);
    check(
        &["*fix"],
        &[],
        &[("x-key", &[0xff, b'f', b'i', b'x'])],
        true,
        true,
    );
}

#[test]
fn methods_are_exact() {
    let wanted = RequestMatch {
        methods: vec![text("GET")],
        not_paths: vec![path("/x")],
        ..RequestMatch::default()
    };
    assert!(fits_request(&wanted, &GET, Readings::All));
    for other in ["get", "GETS", "POST"] {
        let facts = HttpFacts {
            method: other,
            ..GET
        };
        assert!(!fits_request(&wanted, &facts, Readings::All), "{other}");
    }
}
