//! The texts in which Istio writes names, addresses, ports and service accounts.

use std::net::IpAddr;

use tulle_model::{AddressRange, PathMatch, ServiceAccountMatch, StringMatch};

use crate::read::{Node, ReadPolicyError};

/// `*` any, `x*` prefix, `*x` suffix, else exact. A `*` elsewhere is refused: it would be compared as a letter.
pub(super) fn read_string(node: &Node<'_>) -> Result<StringMatch, ReadPolicyError> {
    let text = node.text()?;
    let (matched, rest) = if text == "*" {
        (StringMatch::Presence, "")
    } else if let Some(suffix) = text.strip_prefix('*') {
        (StringMatch::Suffix(suffix.to_owned()), suffix)
    } else if let Some(prefix) = text.strip_suffix('*') {
        (StringMatch::Prefix(prefix.to_owned()), prefix)
    } else {
        (StringMatch::Exact(text.to_owned()), text)
    };
    if rest.contains('*') {
        Err(node.refuse("at most one '*', at the beginning or at the end"))
    } else {
        Ok(matched)
    }
}

/// A text, or a template with the operators `{*}` and `{**}`, each a segment of its own.
pub(super) fn read_path(node: &Node<'_>) -> Result<PathMatch, ReadPolicyError> {
    let text = node.text()?;
    if !text.contains(['{', '}']) {
        return read_string(node).map(PathMatch::Text);
    }
    let mut is_over = false;
    for segment in text.split('/') {
        let is_operator = matches!(segment, "{*}" | "{**}");
        if is_operator && is_over {
            return Err(node.refuse("no operator behind {**}"));
        }
        if !is_operator && segment.contains(['{', '}', '*']) {
            return Err(node.refuse("a template whose operators {*} and {**} are whole segments"));
        }
        is_over |= segment == "{**}";
    }
    Ok(PathMatch::Template(text.to_owned()))
}

/// The header's name, lower case, in `request.headers[x-key]`.
pub(super) fn read_header_key(node: &Node<'_>) -> Result<String, ReadPolicyError> {
    let name = node
        .text()?
        .strip_prefix("request.headers[")
        .and_then(|rest| rest.strip_suffix(']'));
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    name.filter(|name| !name.is_empty() && name.bytes().all(token))
        .map(str::to_ascii_lowercase)
        .ok_or_else(|| node.refuse("request.headers[<name of a header>]"))
}

/// A trust domain, as a comparison of principals, which begin with it. `None` if it cannot be said in that way.
pub(super) fn read_trust_domain(node: &Node<'_>) -> Result<Option<StringMatch>, ReadPolicyError> {
    Ok(match read_string(node)? {
        StringMatch::Exact(domain) => Some(StringMatch::Prefix(format!("{domain}/"))),
        StringMatch::Prefix(prefix) => Some(StringMatch::Prefix(prefix)),
        StringMatch::Presence => Some(StringMatch::Presence),
        StringMatch::Suffix(_) => None,
    })
}

/// An address or a CIDR block.
pub(super) fn read_range(node: &Node<'_>) -> Result<AddressRange, ReadPolicyError> {
    let parse = |text: &str| {
        let (address, len) = text
            .split_once('/')
            .map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = match len {
            Some(len) if len.bytes().all(|b| b.is_ascii_digit()) => {
                len.parse().ok().filter(|len| *len <= bits)?
            }
            Some(_) => return None,
            None => bits,
        };
        Some(AddressRange {
            address,
            prefix_len,
        })
    };
    parse(node.text()?).ok_or_else(|| node.refuse("an IP address or a CIDR block"))
}

/// A port, written as a text.
pub(super) fn read_port(node: &Node<'_>) -> Result<u16, ReadPolicyError> {
    let text = node.text()?;
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| node.refuse("a port of 0–65535 as a text"))
}

/// `account` of the policy's namespace, or `namespace/account`.
pub(super) fn read_account(
    node: &Node<'_>,
    namespace: &str,
) -> Result<ServiceAccountMatch, ReadPolicyError> {
    let text = node.text()?;
    let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
    let whole = !namespace.is_empty() && !account.is_empty();
    if !whole || account.contains('/') || text.contains('*') || text.len() > ACCOUNT_LEN_MAX {
        return Err(node.refuse("a service account or namespace/service account, without '*'"));
    }
    Ok(ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
    })
}

/// Istio's limit for one entry of `serviceAccounts`.
const ACCOUNT_LEN_MAX: usize = 320;
