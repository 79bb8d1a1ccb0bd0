use super::{Connect, LabConfig, Program, matches};

fn faults(text: &str) -> String {
    LabConfig::parse("my.yaml", text)
        .map(drop)
        .expect_err("the text is wrong")
        .to_string()
}

#[test]
fn built_in_lab_is_the_one_of_the_story() {
    let lab = LabConfig::built_in().unwrap();
    let tion = lab.cluster("tion").unwrap();
    assert_eq!(tion.control_plane().to_string(), "172.18.2.10");
    assert_eq!(tion.node_address(&tion.nodes[1]).to_string(), "172.18.2.12");
    assert_eq!(
        tion.node_address_v6(&tion.nodes[0]).to_string(),
        "fd00:18:2::11"
    );
    assert_eq!(tion.pod_address(&tion.nodes[1], 5).to_string(), "10.2.2.5");
    assert_eq!(
        tion.pod_address_v6(&tion.nodes[1], 5).to_string(),
        "fd00:10:2:2::5"
    );
    assert_eq!(tion.dns().to_string(), "172.20.2.10");
    assert_eq!(tion.trust_domain, "tion.tulle");
}

#[test]
fn images_are_found_as_a_container_runtime_finds_them() {
    let lab = LabConfig::built_in().unwrap();
    let check = |image: &str, expected| assert_eq!(lab.program_for(image), expected, "{image}");
    check("docker.io/nginx:1.15.8", Some(Program::Nginx));
    check("nginx:1.15.8", Some(Program::Nginx));
    check("nginx", Some(Program::Nginx));
    check("cilium/json-mock:1.2", Some(Program::JsonMock));
    check("tulle.test/host:1", Some(Program::Host));
    check("docker.io/nginx-other:1", None);
    check("", None);
}

#[test]
fn star_stands_for_any_text() {
    let check =
        |pattern, text, expected| assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    check("a", "a", true);
    check("a", "ab", false);
    check("a*", "ab", true);
    check("*b", "ab", true);
    check("a*c*e", "abcde", true);
    check("a*c*e", "abde", false);
    check("*", "", true);
    check("a*a", "a", false);
}

#[test]
fn every_fault_is_named_with_its_key() {
    let text = "rig: My-Rig\nclusters:\n- {name: a, id: 1, nodes: [{name: n}]}\n- {name: a, id: 1, podSubnet: 10.1.0.0/16, nodes: [{name: n}]}\n- {name: B, id: 600, nodes: []}\n";
    let message = faults(text);
    for part in [
        "my.yaml: rig: `My-Rig`",
        "clusters[1].name: `a` is there twice",
        "clusters[1].id: 1 is there twice",
        "clusters[1].podSubnet: 10.1.0.0/16 overlaps",
        "clusters[1].nodes[0].name: `n` is there twice",
        "clusters[2].name: `B`",
        "clusters[2].id: 600",
    ] {
        assert!(message.contains(part), "{part} missing in {message}");
    }
}

#[test]
fn syntax_errors_name_the_line() {
    assert!(
        faults("rig: lab\nclusters: 7\n").contains("line 2"),
        "{}",
        faults("rig: lab\nclusters: 7\n")
    );
    assert!(faults("clusters: []\nbogus: 1\n").contains("bogus"));
}

#[test]
fn lab_without_connections_is_the_same_but_for_that() {
    let config = LabConfig::built_in().unwrap();
    let alone = config.without_connections().unwrap();
    assert_eq!(alone.connect, Connect::Off);
    assert_eq!(alone.clusters, config.clusters);
    // Other commands read the text again.
    let again = alone.with_rig("other").unwrap();
    assert_eq!((again.connect, again.rig.as_str()), (Connect::Off, "other"));
    assert_eq!(alone.without_connections().unwrap(), alone);
}
