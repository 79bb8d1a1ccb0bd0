//! Every limit and mode of the data plane, with its default and its reason.

use std::{net::IpAddr, time::Duration};

use tulle_identity::Offer;

use crate::{http::HttpSettings, netns::SocketPurpose, tunnel::Congestion};

/// The ports of the data plane inside a pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Captured outbound connections.
    pub outbound: u16,
    /// Inbound plaintext.
    pub inbound: u16,
    /// Tunnels.
    pub hbone: u16,
    /// DNS; named here only so that nobody is let in to it from outside.
    pub dns: u16,
}

impl Ports {
    /// Whether a connection to this port of a pod would reach the proxy itself.
    pub fn is_ours(&self, port: u16) -> bool {
        [self.outbound, self.inbound, self.hbone, self.dns].contains(&port)
    }
}

impl Default for Ports {
    fn default() -> Self {
        Ports {
            outbound: 15001,
            inbound: 15006,
            hbone: 15008,
            dns: 15053,
        }
    }
}

/// What happens to plaintext that reaches a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InboundMode {
    /// Policy decides about it, as about a peer that proved nothing.
    #[default]
    Permissive,
    /// Refused, except from the node itself.
    Strict,
}

/// How a connection that policy denies looks to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeniedLook {
    /// Like packets that are dropped: the client waits.
    #[default]
    Drop,
    /// Like a port that is closed: a reset at once.
    Reject,
}

/// Limits and modes of the data plane.
#[derive(Debug, Clone)]
pub struct PlaneSettings {
    /// Where the proxy listens inside a pod; 0 = any free port (tests on one loopback).
    pub ports: Ports,
    /// Where peers' tunnels listen.
    pub peer_hbone_port: u16,
    /// What happens to plaintext.
    pub inbound_mode: InboundMode,
    /// The node's own addresses: its health probes pass in every mode.
    pub host_addresses: Vec<IpAddr>,
    /// Connections that may wait to be accepted; a burst of a full second must fit.
    pub listen_backlog: i32,
    /// Captured connections and inbound plaintext connections that one pod may hold, each.
    pub connections_per_pod_max: usize,
    /// Tunnels that peers may hold to one pod.
    pub tunnels_per_pod_max: usize,
    /// Handshakes that one pod may have under way; a flood of half-open peers must not starve the others of memory.
    pub handshakes_per_pod_max: usize,
    /// From the TCP connection to the first HTTP/2 frame, on either side.
    pub handshake_timeout: Duration,
    /// Until a peer's node answers the first packet: two retransmissions.
    pub connect_timeout: Duration,
    /// Until the peer answers CONNECT; longer than its own wait for its application.
    pub response_timeout: Duration,
    /// Until the pod's own application accepts.
    pub application_connect_timeout: Duration,
    /// Endpoints of a service that one connection may try.
    pub connect_attempts_max: usize,
    /// How long a silent endpoint is waited for while another is there; the last one gets all its time.
    pub failover_patience: Duration,
    /// How long sent bytes of a tunnel may stay unacknowledged.
    pub network_user_timeout: Duration,
    /// Bytes that may wait unsent in the kernel for one tunnel: what a small message may have to wait for.
    pub unsent_len_max: u32,
    /// What to do about pacing between nodes; `None`: what the system does.
    pub congestion: Option<Congestion>,
    /// Lanes to one destination; connections beyond share HBONE tunnels. 0: HBONE only, also for peers that offer lanes.
    pub lanes_per_destination_max: usize,
    /// Lanes to one destination that may be opened at once: what a burst may cost in handshakes.
    pub lanes_opening_max: usize,
    /// How long a peer may leave a lane to this node without a session.
    pub lane_idle_max: Duration,
    /// Streams that share a tunnel, as istiod's peers do it.
    pub streams_per_tunnel_max: usize,
    /// Streams on each tunnel beyond which another is opened, so that more than one core can work.
    pub streams_before_spread: usize,
    /// Tunnels to one destination that are opened for the sake of spreading.
    pub spread_tunnels_max: usize,
    /// Tunnels to one destination that are opened because the others are busy with bulk.
    pub bulk_tunnels_max: usize,
    /// Tunnels to one destination at all.
    pub tunnels_per_destination_max: usize,
    /// A tunnel without a stream is closed after this time.
    pub tunnel_idle_timeout: Duration,
    /// Bytes that a stream must move within [`PlaneSettings::bulk_period`] to count as bulk.
    pub bulk_len: u64,
    /// See [`PlaneSettings::bulk_len`]; also how long a tunnel is avoided after its last bulk.
    pub bulk_period: Duration,
    /// How often a tunnel is probed.
    pub ping_interval: Duration,
    /// How long the answer to a probe may take.
    pub ping_timeout: Duration,
    /// How long the last bytes before a reset may take to leave.
    pub reset_flush_timeout: Duration,
    /// How a connection that policy denies looks to the application.
    pub denied_look: DeniedLook,
    /// How long a denied connection is kept in silence: as long as a kernel tries to connect (`tcp_syn_retries` = 6).
    pub denied_patience: Duration,
    /// Denied connections that one pod may have kept in silence; those beyond are reset.
    pub denied_per_pod_max: usize,
    /// Limits of connections whose requests are judged.
    pub http: HttpSettings,
}

impl PlaneSettings {
    /// What is spoken with other proxies.
    pub(crate) fn offer(&self) -> Offer {
        match self.lanes_per_destination_max {
            0 => Offer::Hbone,
            _ => Offer::Any,
        }
    }

    /// How the sockets of tunnels are set up.
    pub(crate) fn tunnel_sockets(&self) -> SocketPurpose {
        SocketPurpose::Tunnel {
            user_timeout: self.network_user_timeout,
            unsent_len_max: self.unsent_len_max,
            congestion: self.congestion,
        }
    }
}

impl Default for PlaneSettings {
    fn default() -> Self {
        PlaneSettings {
            ports: Ports::default(),
            peer_hbone_port: 15008,
            inbound_mode: InboundMode::default(),
            host_addresses: Vec::new(),
            listen_backlog: 4096,
            connections_per_pod_max: 50_000,
            tunnels_per_pod_max: 10_000,
            handshakes_per_pod_max: 256,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(4),
            response_timeout: Duration::from_secs(15),
            application_connect_timeout: Duration::from_secs(10),
            connect_attempts_max: 3,
            failover_patience: Duration::from_secs(2),
            network_user_timeout: Duration::from_secs(20),
            unsent_len_max: 128 * 1024,
            congestion: None,
            lanes_per_destination_max: 256,
            lanes_opening_max: 8,
            lane_idle_max: Duration::from_mins(10),
            streams_per_tunnel_max: 100,
            streams_before_spread: 32,
            spread_tunnels_max: 4,
            bulk_tunnels_max: 32,
            tunnels_per_destination_max: 512,
            tunnel_idle_timeout: Duration::from_secs(60),
            bulk_len: 512 * 1024,
            bulk_period: Duration::from_secs(1),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            reset_flush_timeout: Duration::from_secs(5),
            denied_look: DeniedLook::default(),
            denied_patience: Duration::from_secs(130),
            denied_per_pod_max: 1024,
            http: HttpSettings::default(),
        }
    }
}
