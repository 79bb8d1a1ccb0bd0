use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde_json::json;
use tulle_lab::{LabConfig, Mesh};

use super::{
    Mode, Report, Settings, elf,
    figure::{Figure, Unit},
    gate::Baseline,
    machine, parts,
    place::{self, Path},
    proxy, readme,
    samples::{Samples, Spread},
    stage,
};

#[test]
fn a_spread_has_the_middle_and_both_ends() {
    let spread = |samples: &[f64]| Spread::of(samples).map(|s| (s.median, s.min, s.max));
    assert_eq!(spread(&[]), None);
    assert_eq!(spread(&[3.0]), Some((3.0, 3.0, 3.0)));
    assert_eq!(spread(&[9.0, 1.0, 2.0]), Some((2.0, 1.0, 9.0)));
    assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), Some((3.0, 1.0, 9.0)));
}

#[test]
fn the_ratio_compares_round_by_round() {
    let mut samples = Samples::default();
    let figure = || Figure::new("upload", Unit::MegabytesPerSecond);
    for (direct, mesh) in [(10.0, 20.0), (100.0, 300.0), (1.0, 10.0)] {
        samples.extend("p", Path::TwoNodes, Mode::Direct, [figure().of(direct)]);
        samples.extend("p", Path::TwoNodes, Mode::Tulle, [figure().of(mesh)]);
    }
    let series = samples.find("p", "two nodes", "upload").unwrap();
    let ratio = series.ratio(Mode::Tulle, Mode::Direct);
    assert_eq!(ratio.map(|ratio| ratio.median), Some(3.0));
    let lowest = series.ratio_of_lowest(Mode::Tulle, Mode::Direct);
    assert_eq!(lowest, Some(10.0));
    assert!(samples.find("p", "same node", "upload").is_none());
}

#[test]
fn the_readme_has_no_figure_without_its_ratio() {
    let mut samples = Samples::default();
    let figure = |name: &str| Figure::new(name.to_owned(), Unit::MegabytesPerSecond).headline(true);
    samples.extend("p", Path::TwoNodes, Mode::Direct, [figure("both").of(2.0)]);
    let tulle = [figure("both").of(1.0), figure("alone").of(1.0)];
    samples.extend("p", Path::TwoNodes, Mode::Tulle, tulle);
    let report = Report {
        machine: machine::Machine::look().unwrap(),
        settings: Settings {
            rounds: 1,
            length: Duration::from_secs(1),
            quick: false,
            filter: Vec::new(),
            sockmap: None,
            pacing: Some("system".to_owned()),
            limit: Duration::from_secs(1),
            load: PathBuf::new(),
            binaries: PathBuf::new(),
            gate: false,
            peer: None,
        },
        elapsed: Duration::ZERO,
        samples,
        failures: Vec::new(),
        cut: Vec::new(),
        left_out: Vec::new(),
    };
    let (short, whole) = (report.markdown(true), report.markdown(false));
    assert!(
        short.contains("| both") && !short.contains("| alone"),
        "{short}"
    );
    assert!(
        whole.contains("| both") && whole.contains("| alone"),
        "{whole}"
    );
    assert!(
        short.contains("the node proxies: --pacing system"),
        "{short}"
    );
    assert!(short.contains("congestion control "), "{short}");
}

#[test]
fn a_load_that_did_nothing_is_an_error_not_a_zero() {
    let number = |answer| place::number(&answer, "per_second").ok();
    assert_eq!(number(json!({"per_second": 2.5})), Some(2.5));
    assert_eq!(number(json!({"per_second": 0.0})), None);
    assert_eq!(number(json!({"per_second": "many"})), None);
    assert_eq!(number(json!({})), None);
}

#[test]
fn churn_compares_its_last_window_with_its_first_and_counts_failures() {
    let window = |rate: f64, errors: u64| json!({"per_second": rate, "errors": errors});
    let answer = json!({"windows": [window(400.0, 0), window(300.0, 2), window(100.0, 5)]});
    let figures = parts::churn_figures(&answer).unwrap();
    let values: Vec<f64> = figures.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [400.0, 100.0, 0.25, 7.0]);
    assert!(parts::churn_figures(&json!({"windows": []})).is_err());
}

#[test]
fn what_wrk_and_h2load_print_is_read() {
    let text = "  Latency Distribution\n     50%   87.00us\n     99%    1.20ms\n  100 requests in 1.00s\nRequests/sec:  11375.02\n";
    assert_eq!(parts::wrk(text), Some((11375.02, 87.0)));
    assert_eq!(
        parts::wrk(&text.replace("87.00us", "1.5ms")),
        Some((11375.02, 1500.0))
    );
    assert_eq!(
        parts::wrk(&format!("{text}  Non-2xx or 3xx responses: 3\n")),
        None
    );
    assert_eq!(parts::wrk(""), None);
    let text = "finished in 1.00s, 51234.00 req/s, 4.20MB/s\nstatus codes: 51234 2xx, 0 3xx, 0 4xx, 0 5xx\n";
    assert_eq!(parts::h2load(text), Some(51234.0));
    assert_eq!(parts::h2load(&text.replace("0 4xx", "7 4xx")), None);
    assert_eq!(parts::h2load(""), None);
}

#[test]
fn only_what_stands_between_the_markers_is_replaced() {
    let text = "# A\n<!-- bench:begin -->\nold\nold\n<!-- bench:end -->\nrest\n";
    let wanted = "# A\n<!-- bench:begin -->\n| new |\n<!-- bench:end -->\nrest\n";
    assert_eq!(readme::replace(text, "| new |\n").unwrap(), wanted);
    assert_eq!(readme::replace(wanted, "| new |").unwrap(), wanted);
    for broken in [
        "",
        "<!-- bench:begin -->",
        "<!-- bench:end --><!-- bench:begin -->",
    ] {
        assert!(readme::replace(broken, "new").is_err(), "{broken}");
    }
}

#[test]
fn the_kernels_texts_are_read() {
    let status = "VmHWM:\t  99 kB\nVmRSS:\t  12345 kB\nRssAnon:\t 77 kB\n";
    assert_eq!(proxy::field(status, "VmRSS:"), Some(12345));
    assert_eq!(proxy::field(status, "VmSwap:"), None);
    let pressure = "some avg10=12.50 avg60=3.00 avg300=1.00 total=9\nfull avg10=0.00 avg60=0.00";
    assert_eq!(machine::pressure(pressure), Some(0.125));
    assert_eq!(machine::pressure("nothing"), None);
    let times = machine::times("cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3\n").unwrap();
    assert_eq!((times.all, times.stolen), (36, 8));
    assert_eq!(machine::times("cpu  1 2 3\n"), None);
}

#[test]
fn a_function_is_found_in_this_very_program() {
    let program = std::fs::read("/proc/self/exe").unwrap();
    let offset = elf::function_offset(&program, |name| name.ends_with("___rust_alloc"));
    assert!(offset.is_some_and(|offset| offset < program.len() as u64));
    assert_eq!(
        elf::function_offset(&program, |name| name == "no such"),
        None
    );
    for len in 0..256 {
        assert_eq!(elf::function_offset(&program[..len], |_| true), None);
    }
}

#[test]
fn a_baseline_needs_complete_rules() {
    let rule = json!({"part": "syscalls", "path": "two nodes", "figure": "per request",
        "compare": "count", "baseline": 10.0, "tolerance": 0.1});
    let parse = |rules| Baseline::parse(&json!({"rules": rules}).to_string());
    assert!(parse(json!([rule])).is_ok());
    assert!(parse(json!([])).is_err());
    for key in ["part", "path", "figure", "compare", "baseline", "tolerance"] {
        let mut broken = rule.clone();
        broken.as_object_mut().unwrap().remove(key);
        assert!(parse(json!([broken])).is_err(), "without {key}");
    }
    let mut other = rule;
    other["compare"] = json!("seconds");
    assert!(parse(json!([other])).is_err());
}

#[test]
fn all_rigs_are_the_built_in_lab_with_more_room_for_services() {
    let parse =
        |mode, arguments| LabConfig::parse("test", &stage::config_text(mode, arguments)).unwrap();
    let arguments = ["--sockmap", "off", "--pacing", "system"];
    let (direct, mesh) = (parse(Mode::Direct, &[]), parse(Mode::Tulle, &arguments));
    let peer = parse(Mode::Ztunnel, &arguments);
    assert_eq!((direct.mesh, mesh.mesh), (Mesh::None, Mesh::Tulle));
    assert_eq!(peer.mesh, Mesh::ControlPlane);
    let rigs = BTreeSet::from([&direct.rig, &mesh.rig, &peer.rig]);
    assert_eq!(rigs.len(), 3);
    assert_eq!(mesh.node_proxy_arguments, arguments);
    assert!(parse(Mode::Tulle, &[]).node_proxy_arguments.is_empty());
    assert!(peer.node_proxy_arguments.is_empty());
    assert_eq!(direct.clusters, mesh.clusters);
    assert_eq!(direct.clusters, peer.clusters);
    for cluster in &mesh.clusters {
        assert_eq!(cluster.service_subnet.prefix_len(), 16);
    }
}

#[test]
fn what_is_added_is_compared_with_what_the_peer_adds() {
    let mut samples = Samples::default();
    let figure = || Figure::new("p50", Unit::Micros);
    // Direct, Tulle, ztunnel; in the last round the peer was faster than no mesh, which is no measure.
    for (direct, mesh, peer) in [(10.0, 20.0, 50.0), (10.0, 30.0, 50.0), (10.0, 40.0, 9.0)] {
        for (mode, value) in [
            (Mode::Direct, direct),
            (Mode::Tulle, mesh),
            (Mode::Ztunnel, peer),
        ] {
            samples.extend("p", Path::TwoNodes, mode, [figure().of(value)]);
        }
    }
    let series = samples.find("p", "two nodes", "p50").unwrap();
    let added = series.added_ratio(Mode::Tulle, Mode::Ztunnel, Mode::Direct);
    assert_eq!(
        added.map(|a| (a.median, a.min, a.max)),
        Some((0.375, 0.25, 0.5))
    );
    let none = series.added_ratio(Mode::Tulle, Mode::Direct, Mode::Direct);
    assert_eq!(none, None);
}
