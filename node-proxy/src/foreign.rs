//! The parsers of what others send, for those who try to break them.
//!
//! The fuzz targets live in a crate of their own and must reach what is private here. Nothing else may use this.

use crate::{dns, http::reread, tunnel};

/// The reply to a datagram at the resolver, as if the mesh were empty and nobody else could be asked; `None` = none is sent.
pub fn dns_reply(datagram: &[u8]) -> Option<Vec<u8>> {
    dns::take_datagram(datagram)
}

/// Reads the authority and the `forwarded` header of a request for a tunnel.
pub fn tunnel_request(authority: &str, forwarded: &str) {
    tunnel::read_request(authority, forwarded);
}

/// The head of an HTTP/1 request as policy is shown it, and the same of what a server gets for it; `None` = it is refused, or not whole. The
/// second is `None` if what is written would itself be refused.
pub fn request_twice(bytes: &[u8]) -> Option<(String, Option<String>)> {
    reread::request_twice(bytes)
}

/// How many bytes of a chunked body can be read.
pub fn chunks(bytes: &[u8]) -> usize {
    reread::chunks(bytes)
}

/// The name in a first message of TLS.
pub fn server_name(bytes: &[u8]) -> Option<String> {
    reread::server_name(bytes)
}

/// Reads the preface of a session on a lane; what was understood, written anew.
pub fn lane_preface(bytes: &[u8]) -> Option<Vec<u8>> {
    tunnel::read_preface(bytes)
}
