use super::*;

#[test]
fn what_both_engines_read_alike_is_taken() {
    for text in [
        "",
        "GET|PUT",
        "/public.*",
        "^/a$",
        "(?i)get",
        "(?P<name>a)(?:b)(?-s:c)",
        r"[[:alpha:]]+[^[:space:]]",
        r"[]a]+[^]b]",
        r"[\]\[&-]",
        r"\d{2,}\.\[",
        "a{0,5}",
    ] {
        assert_eq!(check_expression(text), Ok(()), "{text}");
    }
}

#[test]
fn what_is_no_expression_is_refused_with_the_reason() {
    let check = |text: &str, expected: &str| {
        let error = check_expression(text).expect_err(text);
        assert_eq!(error, expected, "{text}");
    };
    let same = "an expression that RE2 reads in the same way";
    check(
        "*",
        "an expression in RE2's syntax (repetition operator missing expression)",
    );
    check("a)(b", "an expression in RE2's syntax (unopened group)");
    check("(a", "an expression in RE2's syntax (unclosed group)");
    check(
        "[a",
        "an expression in RE2's syntax (unclosed character class)",
    );
    check("(?=a)", &format!("{same}: only the flags i, m, s and U"));
    check("(?x)a b", &format!("{same}: only the flags i, m, s and U"));
    check("(?u:é)", &format!("{same}: only the flags i, m, s and U"));
    check("[[a]]", &format!("{same}: write '[' in a class as \\["));
    check(
        "[a&&b]",
        &format!("{same}: write '&', '-' and '~' in a class once, or with '\\'"),
    );
    check(r"\<a\>", &format!("{same}: write '<' and '>' without '\\'"));
    check("a{,5}", &format!("{same}: write {{0,n}} for {{,n}}"));
    check(
        "(a{1000}){1000}",
        "an expression whose compiled form takes at most 262144 bytes",
    );
    check(&"a".repeat(4097), "an expression of at most 4096 bytes");
}
