//! What may pass over a connection: HTTP requests, DNS questions, TLS server names.

use tulle_model::{HeaderMismatch, HeaderRule, HttpRule, L7Rules};

use super::{
    expression::check_expression,
    l3::{INGRESS, Side},
    name::read_name_pattern_at,
    rule::Budget,
};
use crate::read::{Node, ReadPolicyError};

/// Reads `rules` of an entry of `toPorts`: exactly one protocol.
pub(super) fn read_l7(
    node: &Node<'_>,
    side: &Side,
    budget: &mut Budget,
) -> Result<L7Rules, ReadPolicyError> {
    node.only(&["http", "dns", "kafka", "l7", "l7proto"])?;
    for name in ["kafka", "l7", "l7proto"] {
        if let Some(node) = node.get(name)? {
            return Err(node.unsupported("Cilium has removed it; http and dns are left"));
        }
    }
    match (node.list("http")?, node.list("dns")?) {
        (Some(http), None) => {
            let mut rules = Vec::new();
            for rule in &http {
                budget.spend_http_rule(rule)?;
                rules.push(read_http(rule)?);
            }
            Ok(L7Rules::Http(rules))
        }
        (None, Some(dns)) => {
            if side.section == INGRESS.section {
                return Err(node
                    .required("dns")?
                    .refuse("no rules.dns at ingress: who asks is told by its own egress"));
            }
            let names = dns.iter().map(read_name_pattern_at);
            names.collect::<Result<_, _>>().map(L7Rules::Dns)
        }
        (None, None) | (Some(_), Some(_)) => Err(node.refuse("either http or dns")),
    }
}

fn read_http(node: &Node<'_>) -> Result<HttpRule, ReadPolicyError> {
    node.only(&["path", "method", "host", "headers", "headerMatches"])?;
    let expression = |name: &str| -> Result<Option<String>, ReadPolicyError> {
        // An empty text is Go's way to say nothing.
        let Some(node) = node.get(name)? else {
            return Ok(None);
        };
        let text = node.text_or_empty()?;
        if text.is_empty() {
            return Ok(None);
        }
        check_expression(text).map_err(|expected| node.refuse(expected))?;
        Ok(Some(text.to_owned()))
    };
    let mut rule = HttpRule {
        path: expression("path")?,
        method: expression("method")?,
        host: expression("host")?,
        headers: Vec::new(),
    };
    for header in node.list_or_empty("headers")? {
        rule.headers.push(read_header(&header)?);
    }
    for header in node.list_or_empty("headerMatches")? {
        rule.headers.push(read_header_match(&header)?);
    }
    Ok(rule)
}

/// `X-Key` asks for the header, `X-Key: value` for the value; the colon may be missing.
fn read_header(node: &Node<'_>) -> Result<HeaderRule, ReadPolicyError> {
    let text = node.text()?;
    let (name, value) = match text.split_once(' ') {
        Some((name, value)) => (name.trim_end_matches(':'), Some(value)),
        None => (text, None),
    };
    let value_right = value.is_none_or(is_header_value);
    if !is_header_name(name) || !value_right {
        return Err(node.refuse("a header's name, or a name and a value such as \"X-Key: true\""));
    }
    Ok(HeaderRule {
        name: name.to_ascii_lowercase(),
        value: value.map(str::to_owned),
        mismatch: HeaderMismatch::Fail,
    })
}

fn read_header_match(node: &Node<'_>) -> Result<HeaderRule, ReadPolicyError> {
    node.only(&["name", "value", "mismatch", "secret"])?;
    if let Some(secret) = node.get("secret")? {
        return Err(secret.unsupported("secrets are not read; write the value"));
    }
    let name = node.required("name")?;
    if !is_header_name(name.text()?) {
        return Err(name.refuse("a header's name"));
    }
    let value = match node.get("value")? {
        None => None,
        Some(value) => match value.text_or_empty()? {
            "" => None,
            text if is_header_value(text) => Some(text.to_owned()),
            _ => return Err(value.refuse("a header's value, without control characters")),
        },
    };
    let mismatch = match node.get("mismatch")? {
        None => HeaderMismatch::Fail,
        Some(mismatch) => match mismatch.text()? {
            "LOG" => HeaderMismatch::Log,
            "ADD" => HeaderMismatch::Add,
            "DELETE" => HeaderMismatch::Delete,
            "REPLACE" => HeaderMismatch::Replace,
            _ => return Err(mismatch.refuse("LOG, ADD, DELETE or REPLACE")),
        },
    };
    let writes = matches!(mismatch, HeaderMismatch::Add | HeaderMismatch::Replace);
    if writes && value.is_none() {
        return Err(node.refuse("a value to write beside ADD and REPLACE"));
    }
    Ok(HeaderRule {
        name: name.text()?.to_ascii_lowercase(),
        value,
        mismatch,
    })
}

/// A token (RFC 9110, 5.6.2).
fn is_header_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_header_value(text: &str) -> bool {
    !text
        .bytes()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
}

/// A TLS server name, with stars as in the patterns of DNS names.
pub(super) fn read_server_name(node: &Node<'_>) -> Result<String, ReadPolicyError> {
    let text = node.text()?.to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*'))
    };
    if text.len() <= SERVER_NAME_LEN_MAX && text.split('.').all(label) {
        Ok(text)
    } else {
        Err(node.refuse("a server name such as api.example.com, *.example.com or **.example.com"))
    }
}

/// The longest name of DNS, without the final dot.
const SERVER_NAME_LEN_MAX: usize = 253;
