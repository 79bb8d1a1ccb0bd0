//! `toPorts` and `icmps`.

use tulle_model::{L7Rules, PortMatch, Ports, RuleAction, Transport};

use super::{
    l3::Side,
    l7::{read_l7, read_server_name},
    rule::Budget,
};
use crate::read::{Node, ReadPolicyError};

/// An entry of `toPorts`.
pub(super) struct PortRule {
    pub(super) ports: Vec<PortMatch>,
    pub(super) l7: Option<L7Rules>,
    pub(super) server_names: Vec<String>,
}

/// Reads an entry of `toPorts`.
pub(super) fn read_port_rule(
    entry: &Node<'_>,
    side: &Side,
    action: RuleAction,
    budget: &mut Budget,
) -> Result<PortRule, ReadPolicyError> {
    refuse_foreign(entry, action)?;
    let items = entry.list("ports")?;
    let Some(items) = items.filter(|items| items.len() <= PORTS_MAX) else {
        let field = format!("{}.ports", entry.path());
        let found = match entry.items("ports")? {
            Some(items) => format!("{} ports", items.len()),
            None => "nothing".to_owned(),
        };
        return Err(ReadPolicyError::field(field, found, "1 to 40 ports"));
    };
    let server_names: Vec<String> = entry
        .list_or_empty("serverNames")?
        .iter()
        .map(read_server_name)
        .collect::<Result<_, _>>()?;
    let l7 = match entry.get("rules")? {
        Some(rules) => Some(read_l7(&rules, side, budget)?),
        None => None,
    };
    if l7.is_some() && !server_names.is_empty() {
        return Err(entry
            .required("serverNames")?
            .refuse("no serverNames beside rules, since the bytes of TLS are not looked into"));
    }
    let mut ports = Vec::new();
    for item in &items {
        let port = read_port(item)?;
        check_port(item, &port, l7.as_ref(), !server_names.is_empty())?;
        ports.push(port);
    }
    Ok(PortRule {
        ports,
        l7,
        server_names,
    })
}

/// What Cilium has beside, and the mesh does not, or not in a deny rule.
fn refuse_foreign(entry: &Node<'_>, action: RuleAction) -> Result<(), ReadPolicyError> {
    entry.only(&[
        "ports",
        "rules",
        "serverNames",
        "terminatingTLS",
        "originatingTLS",
        "listener",
    ])?;
    let never = [
        ("terminatingTLS", "TLS of applications is not opened"),
        (
            "originatingTLS",
            "TLS of applications is not begun for them",
        ),
        ("listener", "there is no Envoy to lead connections to"),
    ];
    for (name, reason) in never {
        if let Some(node) = entry.get(name)? {
            return Err(node.unsupported(reason));
        }
    }
    for name in ["rules", "serverNames"] {
        if let Some(node) = entry.get(name)?.filter(|_| action == RuleAction::Deny) {
            return Err(node
                .refuse("no such field in a deny rule, which speaks of far ends and ports only"));
        }
    }
    Ok(())
}

fn read_port(node: &Node<'_>) -> Result<PortMatch, ReadPolicyError> {
    node.only(&["port", "endPort", "protocol"])?;
    let transport = match node.get("protocol")? {
        None => Transport::AnyWithPorts,
        Some(protocol) => match protocol.text()? {
            "ANY" => Transport::AnyWithPorts,
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            "ICMP" | "ICMPV6" | "ICMPv6" => {
                return Err(protocol.refuse("TCP, UDP, SCTP or ANY; for ICMP write icmps"));
            }
            _ => return Err(protocol.refuse("TCP, UDP, SCTP or ANY")),
        },
    };
    let port = node.required("port")?;
    let text = port.text()?;
    let end = match node.get("endPort")? {
        None => None,
        // Zero is Go's way to say nothing.
        Some(end) => Some(end.number(0..=u16::MAX, PORT_RANGE)?)
            .filter(|number| *number != 0)
            .map(|number| (end, number)),
    };
    if is_service_name(text) {
        if let Some((end, _)) = end {
            return Err(end.refuse("no endPort beside a port's name"));
        }
        let ports = Ports::Named(text.to_ascii_lowercase());
        return Ok(PortMatch { transport, ports });
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    let first = text.parse::<u16>().ok().filter(|_| canonical);
    let first =
        first.ok_or_else(|| port.refuse("a port of 0–65535 or a port's name, as a text"))?;
    let ports = match (first, end) {
        (0, None) => Ports::All,
        (0, Some((end, _))) => return Err(end.refuse("no endPort beside port 0, which means all")),
        (first, None) => Ports::Range(first, first),
        (first, Some((_, last))) if last >= first => Ports::Range(first, last),
        (first, Some((end, _))) => {
            return Err(end.refuse(format!("a port of {first}–65535, not below `port`")));
        }
    };
    Ok(PortMatch { transport, ports })
}

/// Whether what stands beside the port can be enforced at it.
fn check_port(
    node: &Node<'_>,
    port: &PortMatch,
    l7: Option<&L7Rules>,
    server_names: bool,
) -> Result<(), ReadPolicyError> {
    let of = |name: &str| {
        node.get(name)
            .map(|found| found.unwrap_or_else(|| node.absent(name)))
    };
    let only_tcp = matches!(l7, Some(L7Rules::Http(_))) || server_names;
    if only_tcp && port.transport != Transport::Tcp {
        return Err(of("protocol")?.refuse("TCP beside rules.http and serverNames"));
    }
    let Some(l7) = l7 else { return Ok(()) };
    if port.ports == Ports::All {
        return Err(of("port")?.refuse("a port other than 0 beside rules"));
    }
    if matches!(l7, L7Rules::Dns(_)) {
        if port.transport == Transport::Sctp {
            return Err(of("protocol")?.refuse("UDP, TCP or ANY beside rules.dns"));
        }
        if matches!(port.ports, Ports::Range(first, last) if first != last) {
            return Err(of("endPort")?.refuse("no range of ports beside rules.dns"));
        }
    }
    Ok(())
}

/// As IANA names services (RFC 6335, 5.1): up to 15 letters, digits and single hyphens, with a letter.
fn is_service_name(text: &str) -> bool {
    text.len() <= 15
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// Reads an entry of `icmps`.
pub(super) fn read_icmp(entry: &Node<'_>) -> Result<Vec<PortMatch>, ReadPolicyError> {
    entry.only(&["fields"])?;
    let fields = entry.required("fields")?;
    let items = entry.list("fields")?.unwrap_or_default();
    if items.len() > ICMP_FIELDS_MAX {
        return Err(fields.refuse("at most 40 fields"));
    }
    items.iter().map(read_icmp_field).collect()
}

fn read_icmp_field(node: &Node<'_>) -> Result<PortMatch, ReadPolicyError> {
    node.only(&["family", "type"])?;
    let transport = match node.get("family")? {
        None => Transport::IcmpV4,
        Some(family) => match family.text()? {
            "IPv4" => Transport::IcmpV4,
            "IPv6" => Transport::IcmpV6,
            _ => return Err(family.refuse("IPv4 or IPv6")),
        },
    };
    let names = if transport == Transport::IcmpV4 {
        ICMP_V4
    } else {
        ICMP_V6
    };
    let wanted = node.required("type")?;
    let refuse = || wanted.refuse("an ICMP type of 0–255, or the name of a type of the family");
    let number = match wanted.number_or_text(0..=255, "an ICMP type of 0–255")? {
        Some(number) => number,
        None => {
            let text = wanted.text()?;
            let named = names.iter().find(|(_, name)| *name == text);
            let number = || {
                let canonical = text == "0" || !text.starts_with(['0', '+']);
                text.parse::<u8>().ok().filter(|_| canonical).map(u16::from)
            };
            named
                .map(|(number, _)| *number)
                .or_else(number)
                .ok_or_else(refuse)?
        }
    };
    Ok(PortMatch {
        transport,
        ports: Ports::Range(number, number),
    })
}

const PORT_RANGE: &str = "a port of 1–65535";

/// Cilium's limits.
const PORTS_MAX: usize = 40;
const ICMP_FIELDS_MAX: usize = 40;

/// The types of ICMP that have names in policies (numbers: IANA).
const ICMP_V4: &[(u16, &str)] = &[
    (0, "EchoReply"),
    (3, "DestinationUnreachable"),
    (5, "Redirect"),
    (8, "Echo"),
    (8, "EchoRequest"),
    (9, "RouterAdvertisement"),
    (10, "RouterSelection"),
    (11, "TimeExceeded"),
    (12, "ParameterProblem"),
    (13, "Timestamp"),
    (14, "TimestampReply"),
    (40, "Photuris"),
    (42, "ExtendedEchoRequest"),
    (43, "ExtendedEchoReply"),
];

/// The same of ICMPv6.
const ICMP_V6: &[(u16, &str)] = &[
    (1, "DestinationUnreachable"),
    (2, "PacketTooBig"),
    (3, "TimeExceeded"),
    (4, "ParameterProblem"),
    (128, "EchoRequest"),
    (129, "EchoReply"),
    (130, "MulticastListenerQuery"),
    (131, "MulticastListenerReport"),
    (132, "MulticastListenerDone"),
    (133, "RouterSolicitation"),
    (134, "RouterAdvertisement"),
    (135, "NeighborSolicitation"),
    (136, "NeighborAdvertisement"),
    (137, "RedirectMessage"),
    (138, "RouterRenumbering"),
    (139, "ICMPNodeInformationQuery"),
    (140, "ICMPNodeInformationResponse"),
    (141, "InverseNeighborDiscoverySolicitation"),
    (142, "InverseNeighborDiscoveryAdvertisement"),
    (144, "HomeAgentAddressDiscoveryRequestMessage"),
    (145, "HomeAgentAddressDiscoveryReplyMessage"),
    (146, "MobilePrefixSolicitation"),
    (147, "MobilePrefixAdvertisement"),
    (157, "DuplicateAddressRequestCodeSuffix"),
    (158, "DuplicateAddressConfirmationCodeSuffix"),
    (160, "ExtendedEchoRequest"),
    (161, "ExtendedEchoReply"),
];
