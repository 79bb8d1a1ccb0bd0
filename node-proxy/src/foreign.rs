//! The parsers of what others send, for those who try to break them.
//!
//! The fuzz targets live in a crate of their own and must reach what is private here. Nothing else may use this.

use crate::{dns, tunnel};

/// The reply to a datagram at the resolver, as if the mesh were empty and nobody else could be asked; `None` = none is sent.
pub fn dns_reply(datagram: &[u8]) -> Option<Vec<u8>> {
    dns::take_datagram(datagram)
}

/// Reads the authority and the `forwarded` header of a request for a tunnel.
pub fn tunnel_request(authority: &str, forwarded: &str) {
    tunnel::read_request(authority, forwarded);
}
