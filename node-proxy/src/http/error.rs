//! Why a request, a response or a whole connection is not carried: closed sets, so that each can be a label.

/// What is wrong with a request. Nothing of such a request reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// A line ends in something else than CR LF.
    #[error("a line must end in CR LF")]
    LineEnding,
    /// The request line is not `method SP target SP version`.
    #[error("the request line must be a method, a target and a version")]
    RequestLine,
    /// The method is no token, or belongs to another protocol.
    #[error("the method must be a token of at most 32 characters")]
    Method,
    /// A proxy is asked to dig a tunnel.
    #[error("CONNECT is not served")]
    Connect,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version must be HTTP/1.0 or HTTP/1.1")]
    Version,
    /// The target is neither a path nor the absolute form of one.
    #[error("the target must be a path")]
    Target,
    /// The path holds bytes that servers decode differently.
    #[error("the path must be valid UTF-8, also when it is decoded")]
    PathEncoding,
    /// More readings of the path than are judged.
    #[error("the path can be read in too many ways")]
    AmbiguousPath,
    /// A field name is no token.
    #[error("a field name must be a token")]
    FieldName,
    /// A field is continued on the next line.
    #[error("a field must not be folded")]
    Fold,
    /// A field value holds control characters.
    #[error("a field value must not hold control characters")]
    FieldValue,
    /// Two spellings of one field, which some servers take for the same.
    #[error("a field name with an underscore stands for another field")]
    FieldAlias,
    /// More bytes than allowed.
    #[error("the head is too long")]
    HeadLength,
    /// More fields than allowed.
    #[error("the head has too many fields")]
    FieldCount,
    /// No host, several, or not the one of the target.
    #[error("there must be one host, and it must be the target's")]
    Host,
    /// A `Content-Length` that is not one decimal number.
    #[error("the content length must be one decimal number")]
    ContentLength,
    /// A `Transfer-Encoding` that is not `chunked`.
    #[error("the transfer encoding must be chunked")]
    TransferEncoding,
    /// Both kinds of framing.
    #[error("a request has a content length or a transfer encoding, not both")]
    FramingConflict,
    /// A `Connection` option names a field that must not be taken away.
    #[error("the connection options name a field that belongs to the request")]
    ConnectionOption,
    /// An expectation other than `100-continue`.
    #[error("the only expectation is 100-continue")]
    Expect,
    /// A request to upgrade that carries a body, or is no `GET`.
    #[error("only a GET without a body can ask for an upgrade")]
    Upgrade,
    /// A chunk's size, extension or end is malformed.
    #[error("a chunk is malformed")]
    Chunk,
    /// A trailer that is malformed, or belongs into the head.
    #[error("a trailer is malformed or belongs into the head")]
    Trailer,
    /// The head did not arrive in time.
    #[error("the head did not arrive in time")]
    HeadTimeout,
    /// A `:scheme` that is neither `http` nor `https`.
    #[error("the scheme must be http or https")]
    Scheme,
}

impl BadRequest {
    /// The name in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            BadRequest::LineEnding => "line_ending",
            BadRequest::RequestLine => "request_line",
            BadRequest::Method => "method",
            BadRequest::Connect => "connect",
            BadRequest::Version => "version",
            BadRequest::Target => "target",
            BadRequest::PathEncoding => "path_encoding",
            BadRequest::AmbiguousPath => "ambiguous_path",
            BadRequest::FieldName => "field_name",
            BadRequest::Fold => "fold",
            BadRequest::FieldValue => "field_value",
            BadRequest::FieldAlias => "field_alias",
            BadRequest::HeadLength => "head_length",
            BadRequest::FieldCount => "field_count",
            BadRequest::Host => "host",
            BadRequest::ContentLength => "content_length",
            BadRequest::TransferEncoding => "transfer_encoding",
            BadRequest::FramingConflict => "framing_conflict",
            BadRequest::ConnectionOption => "connection_option",
            BadRequest::Expect => "expect",
            BadRequest::Upgrade => "upgrade",
            BadRequest::Chunk => "chunk",
            BadRequest::Trailer => "trailer",
            BadRequest::HeadTimeout => "head_timeout",
            BadRequest::Scheme => "scheme",
        }
    }

    /// The status that tells the client.
    pub fn status(self) -> u16 {
        match self {
            BadRequest::HeadLength | BadRequest::FieldCount => 431,
            BadRequest::HeadTimeout => 408,
            BadRequest::Connect => 405,
            _ => 400,
        }
    }
}

/// What is wrong with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BadResponse {
    /// A line of the head is malformed.
    #[error("the head of the response is malformed")]
    Head,
    /// Its length can be read in two ways.
    #[error("the length of the response can be read in two ways")]
    Framing,
    /// A chunk or a trailer is malformed.
    #[error("a chunk of the response is malformed")]
    Chunk,
    /// It changes to a protocol that nobody asked for.
    #[error("the server changes to a protocol that the client did not ask for")]
    Upgrade,
    /// It came without a request.
    #[error("the server answers what nobody asked")]
    Unasked,
}

impl BadResponse {
    /// The name in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            BadResponse::Head => "response_head",
            BadResponse::Framing => "response_framing",
            BadResponse::Chunk => "response_chunk",
            BadResponse::Upgrade => "response_upgrade",
            BadResponse::Unasked => "response_unasked",
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// Both sides are done.
    Clean,
    /// The client broke off.
    DownstreamGone,
    /// The server broke off.
    UpstreamGone,
    /// A request was refused in a way that leaves no room for another.
    Bad(BadRequest),
    /// The server's answer cannot be passed on.
    BadResponse(BadResponse),
    /// A denied request left a body that nobody reads.
    Denied,
    /// A request that was let through is allowed no longer.
    Revoked,
    /// Policy does not allow the name in the client's TLS hello, or that there is none.
    NameDenied,
    /// The client's first bytes are those of TLS.
    Tls,
    /// The server spoke first.
    ServerFirst,
    /// The client's first bytes are of no protocol that can be judged.
    Unknown,
    /// The client broke HTTP/2.
    Http2,
    /// The client opened and reset streams faster than allowed.
    RapidReset,
    /// Nobody said anything for too long.
    Idle,
}

impl Ended {
    /// The name in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Ended::Clean => "clean",
            Ended::DownstreamGone => "http_client_gone",
            Ended::UpstreamGone => "http_server_gone",
            Ended::Bad(_) => "http_bad_request",
            Ended::BadResponse(_) => "http_bad_response",
            Ended::Denied => "http_denied",
            Ended::Revoked => "http_revoked",
            Ended::NameDenied => "server_name_denied",
            Ended::Tls => "http_expected_tls",
            Ended::ServerFirst => "http_expected_server_first",
            Ended::Unknown => "http_expected",
            Ended::Http2 => "http_broken_http2",
            Ended::RapidReset => "http_rapid_reset",
            Ended::Idle => "http_idle",
        }
    }

    /// Whether the client is owed an orderly end: everything that it was sent must reach it.
    pub fn is_orderly_downstream(self) -> bool {
        matches!(
            self,
            Ended::Clean
                | Ended::Bad(_)
                | Ended::Denied
                | Ended::Idle
                | Ended::Http2
                | Ended::RapidReset
                | Ended::BadResponse(_)
        )
    }

    /// Whether the server has only whole requests, so that its connection may end in order.
    pub fn is_orderly_upstream(self) -> bool {
        matches!(self, Ended::Clean | Ended::Idle)
    }
}
