//! Every limit of the HTTP layer, with its default and its reason.

use std::time::Duration;

/// Limits and modes of the HTTP layer.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Bytes of a head, also of the trailers: what nginx and Envoy take at most by default is 32 and 60 KiB.
    pub head_len_max: usize,
    /// Fields of a head: Envoy's 100, and room for browsers with many cookies.
    pub fields_max: usize,
    /// From the first byte of a head to its last. Who drips a head byte by byte holds a connection for this long and no more.
    pub head_timeout: Duration,
    /// Between two requests, and before the first one.
    pub idle_timeout: Duration,
    /// How long the end of a connection may take on which everything was said.
    pub linger_timeout: Duration,
    /// Streams that a client may have open on one HTTP/2 connection.
    pub streams_max: u32,
    /// What one HTTP/2 stream may send before the other side has taken it.
    pub stream_window_len: u32,
    /// The same for all streams of a connection together: the bound of what a connection holds, for each direction.
    pub connection_window_len: u32,
    /// Streams that a client may reset at once. Hedged calls and closed browser tabs are bursts; an attack does not stop.
    pub resets_max: u32,
    /// How many of these are forgotten per second.
    pub resets_per_second: u32,
    /// Tells the client in `x-tulle-policy` which policy denied its request. Off: it tells an attacker where to dig.
    pub show_policy: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            head_len_max: 64 * 1024,
            fields_max: 128,
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60 * 60),
            linger_timeout: Duration::from_secs(2),
            streams_max: 200,
            stream_window_len: 1024 * 1024,
            connection_window_len: 4 * 1024 * 1024,
            resets_max: 400,
            resets_per_second: 40,
            show_policy: false,
        }
    }
}
