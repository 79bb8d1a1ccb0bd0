use super::*;

fn facts<'a>(method: &'a str, path: &'a str, headers: &'a [(&'a str, &'a [u8])]) -> HttpFacts<'a> {
    HttpFacts {
        method,
        path,
        authority: "web:8080",
        headers,
    }
}

fn rule(method: &str, path: &str) -> HttpRule {
    HttpRule {
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        ..HttpRule::default()
    }
}

fn header(name: &str, value: Option<&str>, mismatch: HeaderMismatch) -> HttpRule {
    HttpRule {
        headers: vec![HeaderRule {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            mismatch,
        }],
        ..HttpRule::default()
    }
}

#[test]
fn expressions_match_the_whole_value_with_the_query() {
    let matcher = HttpMatcher::new(&[rule("GET", "/public")]);
    let check = |method, path, expected: bool| {
        assert_eq!(
            matcher.matches(&facts(method, path, &[])).is_some(),
            expected,
            "{method} {path}"
        );
    };
    check("GET", "/public", true);
    check("GET", "/public?x=1", false);
    check("GET", "/public/", false);
    check("GET", "x/public", false);
    check("GETS", "/public", false);
    check("POST", "/public", false);
}

#[test]
fn an_expression_cannot_step_out_of_its_anchors() {
    assert!(check_expression("a)|(?:b").is_err());
    let matcher = HttpMatcher::new(&[rule("GET", "/a|/b")]);
    assert!(matcher.matches(&facts("GET", "/a", &[])).is_some());
    assert!(matcher.matches(&facts("GET", "/ac", &[])).is_none());
    assert!(matcher.matches(&facts("GET", "/a\n", &[])).is_none());
}

#[test]
fn an_expression_that_is_none_is_refused_in_one_line() {
    let error = check_expression("/a(").unwrap_err().to_string();
    assert_eq!(
        error,
        "\"/a(\" is no usable expression (RE2 syntax): unclosed group"
    );
    let error = check_expression("((a{1000}){1000}){1000}").unwrap_err();
    assert!(
        matches!(error, ExpressionError::TooLarge { .. }),
        "{error:?}"
    );
    // Such a request is not on the list, and the others still are.
    let matcher = HttpMatcher::new(&[rule("GET", "/a("), rule("(", "/b"), rule("GET", "/c")]);
    assert!(matcher.matches(&facts("GET", "/a(", &[])).is_none());
    assert!(matcher.matches(&facts("(", "/b", &[])).is_none());
    assert!(matcher.matches(&facts("GET", "/c", &[])).is_some());
}

#[test]
fn the_empty_rule_is_every_request_and_the_empty_list_none() {
    let every = HttpMatcher::new(&[HttpRule::default()]);
    assert!(every.matches(&facts("DELETE", "/x", &[])).is_some());
    assert!(
        HttpMatcher::new(&[])
            .matches(&facts("GET", "/", &[]))
            .is_none()
    );
}

#[test]
fn the_host_is_compared_with_its_port() {
    let host = |host: &str| {
        HttpMatcher::new(&[HttpRule {
            host: Some(host.to_owned()),
            ..HttpRule::default()
        }])
    };
    let facts = facts("GET", "/", &[]);
    assert!(host("web(:[0-9]+)?").matches(&facts).is_some());
    assert!(host("web").matches(&facts).is_none());
}

#[test]
fn one_right_value_does_not_hide_a_wrong_one() {
    let matcher = HttpMatcher::new(&[header("x-role", Some("user"), HeaderMismatch::Fail)]);
    let check = |headers: &[(&str, &[u8])], expected: bool| {
        assert_eq!(
            matcher.matches(&facts("GET", "/", headers)).is_some(),
            expected,
            "{headers:?}"
        );
    };
    check(&[("x-role", b"user")], true);
    check(&[("x-role", b"admin")], false);
    check(&[("x-role", b"user"), ("x-role", b"admin")], false);
    check(&[("other", b"user")], false);
    check(&[], false);
}

#[test]
fn a_header_that_is_not_so_is_noted_added_removed_or_set() {
    let name: Arc<str> = "x-a".into();
    let value: Arc<str> = "1".into();
    let check = |mismatch, expected: Option<HeaderEdit>| {
        let matcher = HttpMatcher::new(&[header("x-a", Some("1"), mismatch)]);
        let wrong = facts("GET", "/", &[("x-a", b"2")]);
        assert_eq!(
            matcher.matches(&wrong),
            expected.map(|edit| vec![edit]),
            "{mismatch:?}"
        );
        let right = facts("GET", "/", &[("x-a", b"1")]);
        assert_eq!(matcher.matches(&right), Some(vec![]), "{mismatch:?}");
    };
    check(HeaderMismatch::Fail, None);
    check(
        HeaderMismatch::Log,
        Some(HeaderEdit::Note {
            name: Arc::clone(&name),
        }),
    );
    check(
        HeaderMismatch::Delete,
        Some(HeaderEdit::Remove {
            name: Arc::clone(&name),
        }),
    );
    check(
        HeaderMismatch::Add,
        Some(HeaderEdit::Add {
            name: Arc::clone(&name),
            value: Arc::clone(&value),
        }),
    );
    check(
        HeaderMismatch::Replace,
        Some(HeaderEdit::Set { name, value }),
    );
}

#[test]
fn the_first_of_a_long_list_counts_wherever_it_stands() {
    let mut rules: Vec<HttpRule> = (0..1000)
        .map(|n| rule("GET", &format!("/items/{n}/[0-9]+")))
        .collect();
    rules.push(header("x-late", None, HeaderMismatch::Log));
    rules.push(rule("GET", "/.*"));
    let matcher = HttpMatcher::new(&rules);
    assert_eq!(
        matcher.matches(&facts("GET", "/items/999/7", &[])),
        Some(vec![])
    );
    let noted = matcher.matches(&facts("GET", "/other", &[])).unwrap();
    assert_eq!(noted.len(), 1);
}
