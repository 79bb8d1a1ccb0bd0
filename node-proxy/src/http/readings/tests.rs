use super::*;

fn readings(path: &str) -> Vec<String> {
    other_readings(path).unwrap()
}

#[test]
fn plain_paths_have_one_reading() {
    for path in ["/", "/a/b.c?d=e//%2e;\\", "/a.b/..c/d", "*", "/ä"] {
        assert_eq!(readings(path), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn every_way_to_read_a_path_is_among_the_readings() {
    for (path, reading) in [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/../../b", "/b"),
        ("//a///b", "/a/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E%2e/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%252e%252e/b", "/b"),
        ("/a%2fb", "/a/b"),
        ("/a%2f..%2fb", "/b"),
        ("/a%5c..%5cb", "/b"),
        ("/a%5Cb", "/a/b"),
        ("/a;x=1/b", "/a/b"),
        ("/a/..;/b", "/b"),
        ("/a;%2f../b", "/a/b"),
        ("/a/%2e%2e;x/b", "/b"),
        ("/a/..%3bx/b", "/b"),
        ("/%61dmin", "/admin"),
        ("/%2561dmin", "/admin"),
        ("/a/../b?c=../d", "/b?c=../d"),
        ("/a%3fb", "/a?b"),
    ] {
        assert!(
            readings(path).iter().any(|r| r == reading),
            "{path}: {reading} is missing in {:?}",
            readings(path)
        );
    }
}

#[test]
fn what_nobody_agrees_on_is_refused() {
    for path in [
        "/a%00b",
        "/a%0ab",
        "/a%0d%0ab",
        "/a%2500",
        "/%c0%ae%c0%ae/",
        "/%ff",
        "/%e0%80%af",
        "/%7f",
    ] {
        assert_eq!(
            other_readings(path).unwrap_err(),
            BadRequest::PathEncoding,
            "{path}"
        );
    }
    for path in ["/a b", "/a#b", "/a\\b", "/a\tb", "/a?b c", "/\u{7f}"] {
        assert_eq!(
            other_readings(path).unwrap_err(),
            BadRequest::Target,
            "{path}"
        );
    }
    for path in ["/%", "/%1", "/%zz", "/a%2"] {
        assert!(has_broken_encoding(path), "{path}");
    }
    assert!(!has_broken_encoding("/%41?%"));
}

#[test]
fn the_number_of_readings_is_bounded() {
    let path = "/a;b/%2561;c/%2f%5c../%252e%252e;%2f//x;y/./%25252e";
    match other_readings(path) {
        Ok(readings) => assert!(readings.len() < READINGS_MAX),
        Err(error) => assert_eq!(error, BadRequest::AmbiguousPath),
    }
}

proptest::proptest! {
    /// Whichever of these steps a server takes, what it gets is among the readings that were judged.
    #[test]
    fn any_steps_end_at_a_judged_reading(
        path in "/(a|b|\\.|/|;|%2e|%2f|%5c|%3b){0,8}",
        steps in proptest::sample::subsequence(vec![0, 1, 2, 3, 4, 5], 1..=4),
    ) {
        if let Ok(mut judged) = other_readings(&path) {
            judged.push(path.clone());
            let mut got = path;
            for step in steps {
                got = match step {
                    0 => cut_parameters(&got),
                    1 => decode_dots(&got),
                    2 => decode(&got),
                    3 => turn_slashes(&got),
                    4 => merge_slashes(&got),
                    _ => remove_dots(&got),
                }.unwrap().into_owned();
            }
            proptest::prop_assert!(judged.contains(&got), "{got} is not in {judged:?}");
        }
    }
}
