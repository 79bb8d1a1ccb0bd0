//! The HTTP layer between real sockets: a client, the layer, and a server that writes down what it saw.

// Every module is marked as test code, so that the lints for tests hold for its helpers too.
#[cfg(test)]
#[path = "http/changes.rs"]
mod changes;
#[cfg(test)]
#[path = "http/costs.rs"]
mod costs;
#[cfg(test)]
#[path = "http/hostile.rs"]
mod hostile;
#[cfg(test)]
#[path = "http/hostile_http2.rs"]
mod hostile_http2;
#[cfg(test)]
#[path = "http/lines.rs"]
mod lines;
#[cfg(test)]
#[path = "http/origin.rs"]
mod origin;
#[cfg(test)]
#[path = "http/streams.rs"]
mod streams;
#[cfg(test)]
#[path = "http/support.rs"]
mod support;
