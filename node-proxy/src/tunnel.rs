//! Ways to a peer's proxy: HBONE (HTTP/2 CONNECT over mutual TLS, both ends, wire-compatible with Istio's ztunnel), and lanes between
//! two proxies of this mesh.
//!
//! The only place that knows HTTP/2. It decides which tunnel carries a stream and keeps tunnels alive; it does not decide where
//! a connection goes (outbound), whether it is allowed (inbound), or touch an application's socket (pump).

mod chunk;
mod client;
mod dial;
mod error;
mod headers;
mod io;
mod keepalive;
mod lane;
mod load;
mod pace;
mod pool;
mod server;
mod stream;

pub use chunk::Chunk;
pub(crate) use dial::{Dialer, Probers};
pub use error::{Blame, OpenTunnelError};
pub(crate) use headers::{Authority, ConnectHeaders, baggage, forwarded_client, parse_authority};
pub(crate) use io::TunnelIo;
pub use lane::LaneStream;
pub(crate) use lane::{
    CONTENT_LEN_MAX as LANE_CONTENT_LEN_MAX, Lane, LaneEnd, LaneError, LaneHome, PLAIN_MAX,
    Preface, slots,
};
pub(crate) use load::HeldBytes;
pub use pace::Congestion;
pub(crate) use pool::{Dialing, PoolKey, TunnelPool};
pub(crate) use server::{IncomingStream, Refusal, serve};
pub use stream::{HboneStream, StreamEnd, TunnelReceive, TunnelSend, TunnelStream};

/// Reads what a request says of its ends; for `foreign`.
pub(crate) fn read_request(authority: &str, forwarded: &str) {
    drop(parse_authority(authority));
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = http::HeaderValue::from_bytes(forwarded.as_bytes()) {
        headers.insert(http::header::FORWARDED, value);
    }
    let _client: Option<std::net::SocketAddr> = forwarded_client(&headers);
}

/// Reads a preface and writes it anew; for `foreign`.
pub(crate) fn read_preface(bytes: &[u8]) -> Option<Vec<u8>> {
    let preface = Preface::parse(bytes).ok()?;
    let mut out = [0; lane::PREFACE_LEN_MAX];
    let len = preface.encode(&mut out);
    out.get(..len).map(<[u8]>::to_vec)
}

/// How much a peer may send on one stream before the application has taken it.
const STREAM_WINDOW_LEN: u32 = 4 * 1024 * 1024;
/// The same for all streams of a tunnel together.
const CONNECTION_WINDOW_LEN: u32 = 16 * 1024 * 1024;
/// How far that may grow while slow applications hold much of it.
const CONNECTION_WINDOW_LEN_MAX: u32 = 64 * 1024 * 1024;
/// The largest frame that we accept.
const FRAME_LEN_MAX: u32 = 1024 * 1024;
/// Headers that we accept of a server.
const CLIENT_HEADER_LIST_LEN_MAX: u32 = 16_384;
/// Headers that we accept of a client.
const SERVER_HEADER_LIST_LEN_MAX: u32 = 65_536;
/// Streams that a client may have open on one tunnel.
const SERVER_STREAMS_MAX: u32 = 200;
/// Streams that a client may have reset before they were looked at. A burst of applications that give up is no attack, and the
/// peer has proven who it is.
const SERVER_RESETS_MAX: usize = 512;
/// Bytes of one stream that may wait in the tunnel: two large buffers, so that one is written while the next is read.
const STREAM_UNSENT_LEN_MAX: usize = 256 * 1024;
