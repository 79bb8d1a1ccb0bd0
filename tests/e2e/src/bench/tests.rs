use serde_json::json;
use tulle_lab::{LabConfig, Mesh};

use super::{
    Mode,
    figure::{Figure, Load},
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
    for (direct, mesh) in [(10.0, 20.0), (100.0, 300.0), (1.0, 10.0)] {
        samples.add(1, Figure::Upload, Mode::Direct, direct);
        samples.add(1, Figure::Upload, Mode::Mesh, mesh);
    }
    assert_eq!(
        samples.ratio(1, Figure::Upload).map(|ratio| ratio.median),
        Some(3.0)
    );
    assert_eq!(samples.ratio(0, Figure::Upload), None);
}

#[test]
fn a_load_that_did_nothing_is_an_error_not_a_zero() {
    let figures = |answer| {
        Load::Upload
            .figures(&answer)
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        figures(json!({"bytes_per_second": 2.5})),
        Ok(vec![(Figure::Upload, 2.5)])
    );
    assert!(figures(json!({"bytes_per_second": 0.0})).is_err());
    assert!(figures(json!({"bytes_per_second": "many"})).is_err());
    assert!(figures(json!({})).is_err());
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
    let stat = "42 (node) proxy) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 99";
    assert_eq!(proxy::ticks(stat), Some(300));
    assert_eq!(proxy::ticks("42 (x) S 1"), None);
    let status = "VmHWM:\t  99 kB\nVmRSS:\t  12345 kB\nRssAnon:\t 77 kB\n";
    assert_eq!(proxy::field(status, "VmRSS:"), Some(12345));
    assert_eq!(proxy::field(status, "VmSwap:"), None);
}

#[test]
fn both_rigs_are_the_built_in_lab() {
    let parse =
        |mode, sockmap| LabConfig::parse("test", &stage::config_text(mode, sockmap)).unwrap();
    let (direct, mesh) = (parse(Mode::Direct, None), parse(Mode::Mesh, Some("off")));
    assert_eq!((direct.mesh, mesh.mesh), (Mesh::None, Mesh::Tulle));
    assert_ne!(direct.rig, mesh.rig);
    assert_eq!(mesh.node_proxy_arguments, ["--sockmap", "off"]);
    assert_eq!(direct.clusters, LabConfig::built_in().unwrap().clusters);
    assert_eq!(direct.clusters, mesh.clusters);
}
