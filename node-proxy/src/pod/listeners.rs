//! The sockets on which a pod's proxy listens, inside the pod's namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::TcpListener;

use super::{PodAddresses, StartPodError};
use crate::{
    netns::{NamespaceHandle, OpenNamespaceError, SocketPurpose, listen_tcp},
    plane::PlaneSettings,
};

pub(super) struct Listeners {
    pub(super) outbound: Vec<TcpListener>,
    pub(super) inbound: Vec<TcpListener>,
    pub(super) hbone: Vec<TcpListener>,
}

impl Listeners {
    /// Opens all of them, or none. IPv6 may be absent from a pod that has no IPv6 address.
    pub(super) fn open(
        settings: &PlaneSettings,
        namespace: &NamespaceHandle,
        addresses: &[IpAddr],
    ) -> Result<Self, StartPodError> {
        let needs_v6 = addresses.iter().any(IpAddr::is_ipv6);
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let any = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let open = |ips: [IpAddr; 2], port: u16, purpose: SocketPurpose| {
            let mut listeners = Vec::new();
            for ip in ips {
                let address = SocketAddr::new(ip, port);
                match listen_tcp(address, settings.listen_backlog, purpose) {
                    Ok(listener) => listeners.push(listener),
                    Err(_) if ip.is_ipv6() && !needs_v6 => {}
                    Err(source) => return Err(StartPodError::Listen { address, source }),
                }
            }
            Ok(listeners)
        };
        let ports = settings.ports;
        let (outbound, inbound, hbone) = namespace
            .run_in(|| -> Result<_, StartPodError> {
                Ok((
                    open(loopback, ports.outbound, SocketPurpose::Application)?,
                    open(any, ports.inbound, SocketPurpose::Plaintext)?,
                    open(any, ports.hbone, settings.tunnel_sockets())?,
                ))
            })
            .map_err(OpenNamespaceError::from)??;
        Ok(Listeners {
            outbound: register(outbound)?,
            inbound: register(inbound)?,
            hbone: register(hbone)?,
        })
    }

    pub(super) fn addresses(&self) -> Result<PodAddresses, StartPodError> {
        let of = |listeners: &[TcpListener]| -> io::Result<Vec<SocketAddr>> {
            listeners.iter().map(TcpListener::local_addr).collect()
        };
        let all = || -> io::Result<PodAddresses> {
            Ok(PodAddresses {
                outbound: of(&self.outbound)?,
                inbound: of(&self.inbound)?,
                hbone: of(&self.hbone)?,
            })
        };
        all().map_err(unregistered)
    }
}

fn register(listeners: Vec<std::net::TcpListener>) -> Result<Vec<TcpListener>, StartPodError> {
    listeners
        .into_iter()
        .map(|l| TcpListener::from_std(l).map_err(unregistered))
        .collect()
}

/// A socket that exists but cannot be asked or watched.
fn unregistered(source: io::Error) -> StartPodError {
    StartPodError::Listen {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        source,
    }
}
