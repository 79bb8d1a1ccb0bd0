//! What is fed.

mod policies;
mod values;

/// A parser with its promises.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line, and of its folder in `corpus`.
    pub name: &'static str,
    /// Panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that the format knows.
    pub words: &'static [&'static str],
}

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "policy_file",
        run: policies::policy_file,
        seeds: Vec::new,
        words: policies::WORDS,
    },
    Target {
        name: "cilium",
        run: policies::object,
        seeds: policies::cilium_seeds,
        words: policies::WORDS,
    },
    Target {
        name: "kubernetes",
        run: policies::object,
        seeds: policies::kubernetes_seeds,
        words: policies::WORDS,
    },
    Target {
        name: "istio",
        run: policies::object,
        seeds: policies::istio_seeds,
        words: policies::WORDS,
    },
    Target {
        name: "name_pattern",
        run: policies::name_pattern,
        seeds: policies::name_seeds,
        words: &["**.", "*", ".", "-", "_", "xn--"],
    },
    Target {
        name: "http_rule",
        run: policies::http_rule,
        seeds: policies::http_seeds,
        words: &[
            "(?i)",
            "[[:alpha:]]",
            "{0,9}",
            ".*",
            "|",
            "\\d",
            "[^/]",
            "(",
            ")",
            "\n",
        ],
    },
    Target {
        name: "istio_request",
        run: policies::istio_request,
        seeds: policies::request_seeds,
        words: &[
            "/../", "//", "%2e", "%2F", "\\", "{*}", "{**}", "*", "\n", "?",
        ],
    },
    Target {
        name: "lane_preface",
        run: values::preface,
        seeds: values::preface_seeds,
        words: &[],
    },
    Target {
        name: "wire",
        run: values::wire,
        seeds: values::wire_seeds,
        words: &[],
    },
    Target {
        name: "layout",
        run: values::layout,
        seeds: values::layout_seeds,
        words: &[
            "\"",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "null",
            "workloads/",
            "services/",
            "slices/",
        ],
    },
    Target {
        name: "cilium_values",
        run: values::cilium_values,
        seeds: values::cilium_seeds,
        words: &[
            "\"",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "null",
            "backends",
            "frontends",
        ],
    },
    Target {
        name: "dns_question",
        run: values::dns_question,
        seeds: values::dns_seeds,
        words: &["\u{0}\u{1}\u{0}\u{1}", "\u{3}www"],
    },
    Target {
        name: "authority",
        run: values::authority,
        seeds: values::authority_seeds,
        words: &["[", "]", ":", "::", "%", "80", "for=\"", ";", ","],
    },
    Target {
        name: "http_request",
        run: values::http_request,
        seeds: values::http_request_seeds,
        words: &[
            "\r\n",
            "\r\n ",
            ": ",
            "\r\nContent-Length: 1",
            "\r\nTransfer-Encoding: chunked",
            "\r\nHost: a",
            "\r\nConnection: close, host",
            "\r\nUpgrade: websocket",
            "\r\nX_A: 1",
            " HTTP/1.1",
            "%2e%2e",
            "http://",
        ],
    },
    Target {
        name: "tls_hello",
        run: values::tls_hello,
        seeds: values::tls_hello_seeds,
        words: &["\u{16}\u{3}\u{1}\u{0}", "\u{0}\u{0}\u{0}", "a.example"],
    },
];
