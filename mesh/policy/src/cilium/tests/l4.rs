//! Ports, and what may pass over a connection.

use super::*;

/// A rule for anyone at these ports.
fn check_ports(entries: &str, expected: &[&str]) {
    let lines: Vec<String> = expected
        .iter()
        .enumerate()
        .map(|(i, line)| format!("+ spec.egress[0].toPorts[{i}]: anyone at {line}"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    check(
        &format!("egress: [{{toPorts: [{entries}]}}]"),
        &[&["egress!"], lines.as_slice()].concat(),
    );
}

fn check_ports_refused(entries: &str, expected: &str) {
    check_refused(
        &format!("egress: [{{toPorts: [{entries}]}}]"),
        &format!("spec.egress[0].toPorts[0]{expected}"),
    );
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    check_ports(
        "{ports: [{port: '80'}, {port: '80', protocol: ANY}, {port: '1', endPort: 65535, protocol: SCTP}, {port: HTTP-alt, protocol: TCP}, {port: '0', protocol: UDP}, {port: '7', endPort: 0}, {port: '7', endPort: 7}, {port: '0x10'}]}",
        &["any/80,any/80,sctp/1-65535,tcp/http-alt,udp,any/7,any/7,any/0x10"],
    );
    check_ports(
        "{ports: [{port: '80'}]}, {ports: [{port: '81'}]}",
        &["any/80", "any/81"],
    );
    let port = "expected a port of 0–65535 or a port's name, as a text";
    for wrong in [
        "65536",
        "-1",
        "010",
        "1-2",
        "a--b",
        "sixteen-letters-",
        "1_0",
    ] {
        check_ports_refused(
            &format!("{{ports: [{{port: '{wrong}'}}]}}"),
            &format!(".ports[0].port holds \"{wrong}\", {port}"),
        );
    }
    check_ports_refused(
        "{ports: [{port: 80}]}",
        ".ports[0].port holds 80, expected a text that is not empty",
    );
    check_ports_refused(
        "{ports: [{protocol: TCP}]}",
        ".ports[0].port holds nothing, expected a value",
    );
    check_ports_refused(
        "{ports: [{port: '80', protocol: tcp}]}",
        ".ports[0].protocol holds \"tcp\", expected TCP, UDP, SCTP or ANY",
    );
    check_ports_refused(
        "{ports: [{port: '8', protocol: ICMP}]}",
        ".ports[0].protocol holds \"ICMP\", expected TCP, UDP, SCTP or ANY; for ICMP write icmps",
    );
    check_ports_refused(
        "{ports: [{port: '80', endPort: 79}]}",
        ".ports[0].endPort holds 79, expected a port of 80–65535, not below `port`",
    );
    check_ports_refused(
        "{ports: [{port: '80', endPort: 65536}]}",
        ".ports[0].endPort holds 65536, expected a port of 1–65535",
    );
    check_ports_refused(
        "{ports: [{port: http, endPort: 90}]}",
        ".ports[0].endPort holds 90, expected no endPort beside a port's name",
    );
    check_ports_refused(
        "{ports: [{port: '0', endPort: 90}]}",
        ".ports[0].endPort holds 90, expected no endPort beside port 0, which means all",
    );
    check_ports_refused("{}", ".ports holds nothing, expected 1 to 40 ports");
    check_ports_refused(
        "{ports: []}",
        ".ports holds [], expected a list that is not empty",
    );
    let many = |count: usize| vec!["{port: '80'}"; count].join(", ");
    check_ports(
        &format!("{{ports: [{}]}}", many(40)),
        &[&vec!["any/80"; 40].join(",")],
    );
    check_ports_refused(
        &format!("{{ports: [{}]}}", many(41)),
        ".ports holds 41 ports, expected 1 to 40 ports",
    );
}

#[test]
fn http_rules_are_expressions() {
    check_ports(
        "{ports: [{port: '80', protocol: TCP}], rules: {http: [{}, {method: GET, path: '/v1/.*', host: 'a|b'}, {headers: ['X-Key: a b', 'X-Other true', X-There], headerMatches: [{name: X-A, value: b}, {name: X-C, value: d, mismatch: REPLACE}, {name: X-E, mismatch: LOG}]}]}}",
        &[
            "tcp/80 http () or (method=GET, path=/v1/.*, host=a|b) or (x-key=a b, x-other=true, x-there, x-a=b, x-c=d else Replace, x-e else Log)",
        ],
    );
    check_ports(
        "{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: '', method: GET}]}}",
        &["tcp/80 http (method=GET)"],
    );
    let check_rule = |rule: &str, expected: &str| {
        check_ports_refused(
            &format!("{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rule}]}}}}"),
            &format!(".rules.http[0]{expected}"),
        );
    };
    check_rule(
        "{path: '/('}",
        ".path holds \"/(\", expected an expression in RE2's syntax (unclosed group)",
    );
    check_rule(
        "{host: '*'}",
        ".host holds \"*\", expected an expression in RE2's syntax (repetition operator missing expression)",
    );
    check_rule(
        "{method: 'a)(b'}",
        ".method holds \"a)(b\", expected an expression in RE2's syntax (unopened group)",
    );
    check_rule(
        "{paths: x}",
        ".paths holds a value, expected no field of this name",
    );
    check_rule(
        "{headers: ['X Y Z', ': x']}",
        ".headers[1] holds \": x\", expected a header's name, or a name and a value such as \"X-Key: true\"",
    );
    check_rule(
        "{headers: ['X-Key:true']}",
        ".headers[0] holds \"X-Key:true\", expected a header's name, or a name and a value such as \"X-Key: true\"",
    );
    check_rule(
        "{headerMatches: [{value: x}]}",
        ".headerMatches[0].name holds nothing, expected a value",
    );
    check_rule(
        "{headerMatches: [{name: x, mismatch: DROP}]}",
        ".headerMatches[0].mismatch holds \"DROP\", expected LOG, ADD, DELETE or REPLACE",
    );
    check_rule(
        "{headerMatches: [{name: x, mismatch: ADD}]}",
        ".headerMatches[0] holds {\"mismatch\":\"ADD\",\"name\":\"x\"}, expected a value to write beside ADD and REPLACE",
    );
    check_rule(
        "{headerMatches: [{name: x, secret: {name: y}}]}",
        ".headerMatches[0].secret is not supported: secrets are not read; write the value",
    );
}

#[test]
fn rules_of_a_protocol_stand_at_its_ports() {
    let check_rules = |port: &str, rules: &str, expected: &str| {
        check_ports_refused(&format!("{{ports: [{port}], rules: {rules}}}"), expected);
    };
    let tcp = "expected TCP beside rules.http and serverNames";
    check_rules(
        "{port: '80'}",
        "{http: [{}]}",
        &format!(".ports[0].protocol holds null, {tcp}"),
    );
    check_rules(
        "{port: '80', protocol: UDP}",
        "{http: [{}]}",
        &format!(".ports[0].protocol holds \"UDP\", {tcp}"),
    );
    check_rules(
        "{port: '80', protocol: TCP}, {port: '80', protocol: ANY}",
        "{http: [{}]}",
        &format!(".ports[1].protocol holds \"ANY\", {tcp}"),
    );
    check_rules(
        "{port: '0', protocol: TCP}",
        "{http: [{}]}",
        ".ports[0].port holds \"0\", expected a port other than 0 beside rules",
    );
    check_rules(
        "{port: '53', protocol: SCTP}",
        "{dns: [{matchPattern: '*'}]}",
        ".ports[0].protocol holds \"SCTP\", expected UDP, TCP or ANY beside rules.dns",
    );
    check_rules(
        "{port: '53', endPort: 54}",
        "{dns: [{matchPattern: '*'}]}",
        ".ports[0].endPort holds 54, expected no range of ports beside rules.dns",
    );
    check_rules(
        "{port: '80', protocol: TCP}",
        "{http: [{}], dns: [{matchPattern: '*'}]}",
        ".rules holds {\"dns\":[{\"matchPattern\":\"*\"}],\"http\":[{}]}, expected either http or dns",
    );
    check_rules(
        "{port: '80', protocol: TCP}",
        "{}",
        ".rules holds {}, expected either http or dns",
    );
    check_rules(
        "{port: '80', protocol: TCP}",
        "{http: []}",
        ".rules.http holds [], expected a list that is not empty",
    );
    check_rules(
        "{port: '80', protocol: TCP}",
        "{kafka: [{}]}",
        ".rules.kafka is not supported: Cilium has removed it; http and dns are left",
    );
    check_ports(
        "{ports: [{port: '53'}, {port: dns, protocol: UDP}], rules: {dns: [{matchName: A.org}, {matchPattern: '*.b.org'}]}}",
        &["any/53,udp/dns dns a.org. or *.b.org."],
    );
    check_refused(
        "ingress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]}]",
        "spec.ingress[0].toPorts[0].rules.dns holds [{\"matchPattern\":\"*\"}], expected no rules.dns at ingress: who asks is told by its own egress",
    );
}

#[test]
fn server_names_and_foreign_tls() {
    check_ports(
        "{ports: [{port: '443', protocol: TCP}], serverNames: [A.org, '*.b.org', '**.c.org']}",
        &["tcp/443 sni a.org or *.b.org or **.c.org"],
    );
    check_ports_refused(
        "{ports: [{port: '443', protocol: TCP}], serverNames: ['']}",
        ".serverNames[0] holds \"\", expected a text that is not empty",
    );
    check_ports_refused(
        "{ports: [{port: '443'}], serverNames: [a.org]}",
        ".ports[0].protocol holds null, expected TCP beside rules.http and serverNames",
    );
    check_ports_refused(
        "{ports: [{port: '443', protocol: TCP}], serverNames: [a.org], rules: {http: [{}]}}",
        ".serverNames holds [\"a.org\"], expected no serverNames beside rules, since the bytes of TLS are not looked into",
    );
    for (field, reason) in [
        ("terminatingTLS", "TLS of applications is not opened"),
        (
            "originatingTLS",
            "TLS of applications is not begun for them",
        ),
        ("listener", "there is no Envoy to lead connections to"),
    ] {
        check_ports_refused(
            &format!("{{ports: [{{port: '443', protocol: TCP}}], {field}: {{}}}}"),
            &format!(".{field} is not supported: {reason}"),
        );
    }
}

#[test]
fn icmp_has_types() {
    check(
        "ingress: [{fromEntities: [world], icmps: [{fields: [{type: 8}, {family: IPv6, type: EchoRequest}]}, {fields: [{family: IPv4, type: '0'}]}]}]",
        &[
            "ingress!",
            "+ spec.ingress[0].icmps[0]: World at icmp/8,icmp6/128",
            "+ spec.ingress[0].icmps[1]: World at icmp/0",
        ],
    );
    let kind = "expected an ICMP type of 0–255, or the name of a type of the family";
    check_refused(
        "ingress: [{icmps: [{fields: [{type: 256}]}]}]",
        "spec.ingress[0].icmps[0].fields[0].type holds 256, expected an ICMP type of 0–255",
    );
    check_refused(
        "ingress: [{icmps: [{fields: [{type: PacketTooBig}]}]}]",
        &format!("spec.ingress[0].icmps[0].fields[0].type holds \"PacketTooBig\", {kind}"),
    );
    check_refused(
        "ingress: [{icmps: [{fields: [{type: 8, family: IPv5}]}]}]",
        "spec.ingress[0].icmps[0].fields[0].family holds \"IPv5\", expected IPv4 or IPv6",
    );
    check_refused(
        "ingress: [{icmps: [{}]}]",
        "spec.ingress[0].icmps[0].fields holds nothing, expected a value",
    );
    check_refused(
        "ingress: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '80'}]}]}]",
        "spec.ingress[0].icmps holds [{\"fields\":[{\"type\":8}]}], expected no icmps beside toPorts; write a rule of its own",
    );
}

#[test]
fn authentication_is_asked_for_or_not() {
    check(
        "ingress: [{fromEndpoints: [{}], authentication: {mode: required}}, {fromEntities: [host], authentication: {mode: disabled}}]",
        &[
            "ingress!",
            "+ spec.ingress[0]: [k8s:NS=shop] authenticated",
            "+ spec.ingress[1]: Host",
        ],
    );
    check_refused(
        "ingress: [{authentication: {mode: test-always-fail}}]",
        "spec.ingress[0].authentication.mode is not supported: it is for tests of Cilium; write a deny rule",
    );
    check_refused(
        "ingress: [{authentication: {mode: maybe}}]",
        "spec.ingress[0].authentication.mode holds \"maybe\", expected disabled or required",
    );
    check_refused(
        "ingress: [{authentication: {}}]",
        "spec.ingress[0].authentication.mode holds nothing, expected a value",
    );
    check_refused(
        "ingressDeny: [{authentication: {mode: required}}]",
        "spec.ingressDeny[0].authentication holds a value, expected no field of this name",
    );
}

#[test]
fn deny_rules_speak_of_far_ends_and_ports() {
    check(
        "egressDeny: [{toCIDR: [10.0.0.0/8], toPorts: [{ports: [{port: '25', protocol: TCP}]}]}, {icmps: [{fields: [{type: 8}]}]}]",
        &[
            "egress!",
            "- spec.egressDeny[0].toPorts[0]: 10.0.0.0/8 at tcp/25",
            "- spec.egressDeny[1].icmps[0]: anyone at icmp/8",
        ],
    );
    let port = "{port: '80', protocol: TCP}";
    let expected = "expected no such field in a deny rule, which speaks of far ends and ports only";
    check_refused(
        &format!("ingressDeny: [{{toPorts: [{{ports: [{port}], rules: {{http: [{{}}]}}}}]}}]"),
        &format!("spec.ingressDeny[0].toPorts[0].rules holds {{\"http\":[{{}}]}}, {expected}"),
    );
    check_refused(
        &format!("egressDeny: [{{toPorts: [{{ports: [{port}], serverNames: [a.org]}}]}}]"),
        &format!("spec.egressDeny[0].toPorts[0].serverNames holds [\"a.org\"], {expected}"),
    );
}

#[test]
fn one_object_cannot_unfold_without_end() {
    let peers = vec!["world"; 1000].join(", ");
    let ports = vec!["{ports: [{port: '80'}]}"; 100].join(", ");
    let manifest = policy(&format!(
        "{{endpointSelector: {{}}, egress: [{{toEntities: [{peers}], toPorts: [{ports}]}}]}}"
    ));
    let error = read_cilium_policy(&manifest, &settings(DefaultCluster::Any)).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "expected an object with at most 65536 pairs of a far end and an entry of toPorts"
        ),
        "{error}"
    );
    let rules = vec!["{}"; 4097].join(", ");
    let manifest = policy(&format!(
        "{{endpointSelector: {{}}, egress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}]}}"
    ));
    let error = read_cilium_policy(&manifest, &settings(DefaultCluster::Any)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("expected an object with at most 4096 rules for HTTP"),
        "{error}"
    );
}
