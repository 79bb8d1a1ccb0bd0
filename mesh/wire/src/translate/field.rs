//! Checks of single fields, each of which names the field it refuses.

use std::net::IpAddr;

use tulle_model::{NamespacedName, Protocol};

use super::DecodeResourceError;
use crate::workload::{Extension, GatewayAddress, GatewayDestination, NetworkAddress};

/// 4 or 16 bytes in network order.
pub(super) fn read_ip(
    field: impl FnOnce() -> String,
    bytes: &[u8],
) -> Result<IpAddr, DecodeResourceError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(IpAddr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::from(v6))
    } else {
        let found = format!("{} bytes", bytes.len());
        Err(DecodeResourceError::field(
            field(),
            found,
            "an address of 4 or 16 bytes",
        ))
    }
}

pub(super) fn write_ip(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The length of a prefix, at most that of the address.
pub(super) fn read_prefix_len(
    field: impl FnOnce() -> String,
    ip: IpAddr,
    length: u32,
) -> Result<u8, DecodeResourceError> {
    match u8::try_from(length) {
        Ok(len) if len <= address_bits(ip) => Ok(len),
        Ok(_) | Err(_) => Err(DecodeResourceError::field(
            field(),
            length,
            "a prefix no longer than the address",
        )),
    }
}

pub(super) fn address_bits(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

pub(super) fn read_port(
    field: impl FnOnce() -> String,
    port: u32,
) -> Result<u16, DecodeResourceError> {
    u16::try_from(port).map_err(|_| DecodeResourceError::field(field(), port, "a port of 0–65535"))
}

/// `TCP`, `UDP`, or nothing for TCP.
pub(super) fn read_protocol(
    field: impl FnOnce() -> String,
    text: &str,
) -> Result<Protocol, DecodeResourceError> {
    match text {
        "" | "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        other => Err(DecodeResourceError::field(
            field(),
            format!("{other:?}"),
            "TCP or UDP",
        )),
    }
}

/// A value of an enum that this build knows.
pub(super) fn read_enum<E: TryFrom<i32>>(
    field: impl FnOnce() -> String,
    value: i32,
) -> Result<E, DecodeResourceError> {
    E::try_from(value).map_err(|_| {
        DecodeResourceError::field(
            field(),
            format!("enumeration value {value}"),
            "a value known to this build",
        )
    })
}

/// The two halves of a resource's name, neither empty nor with a `/` in it.
pub(super) fn check_key(
    of: &str,
    namespace: &str,
    name_field: &str,
    name: &str,
) -> Result<(), DecodeResourceError> {
    for (field, text) in [("namespace", namespace), (name_field, name)] {
        if text.is_empty() || text.contains('/') {
            let path = format!("{of}.{field}");
            return Err(DecodeResourceError::field(
                path,
                format!("{text:?}"),
                "a name without '/', not empty",
            ));
        }
    }
    Ok(())
}

pub(super) fn read_service_key(
    field: impl FnOnce() -> String,
    text: &str,
) -> Result<NamespacedName, DecodeResourceError> {
    text.parse()
        .map_err(|_| DecodeResourceError::field(field(), format!("{text:?}"), "namespace/hostname"))
}

/// An address with an optional prefix length; `None` for the length means one address.
pub(super) fn read_network_address(
    field: &str,
    address: &NetworkAddress,
) -> Result<(IpAddr, Option<u8>), DecodeResourceError> {
    let ip = read_ip(|| format!("{field}.address"), &address.address)?;
    let len = match address.length {
        Some(len) => Some(read_prefix_len(|| format!("{field}.length"), ip, len)?),
        None => None,
    };
    Ok((ip, len))
}

/// Gateways are not used yet, but a bad one makes the resource bad, as in ztunnel.
pub(super) fn check_gateway(
    field: &str,
    gateway: Option<&GatewayAddress>,
) -> Result<(), DecodeResourceError> {
    let Some(gateway) = gateway else {
        return Ok(());
    };
    read_port(
        || format!("{field}.hbone_mtls_port"),
        gateway.hbone_mtls_port,
    )?;
    match &gateway.destination {
        Some(GatewayDestination::Hostname(_)) => Ok(()),
        Some(GatewayDestination::Address(address)) => {
            read_network_address(&format!("{field}.address"), address).map(|_| ())
        }
        None => {
            let field = format!("{field}.destination");
            Err(DecodeResourceError::field(
                field,
                "nothing",
                "a hostname or an address",
            ))
        }
    }
}

/// The content of our extension called `name`, or its default when there is none.
pub(super) fn read_extras<M: prost::Message + Default>(
    of: &str,
    extensions: &[Extension],
    name: &str,
    type_url: &'static str,
) -> Result<M, DecodeResourceError> {
    let Some(extension) = extensions.iter().find(|e| e.name == name) else {
        return Ok(M::default());
    };
    let config = extension
        .config
        .as_ref()
        .filter(|any| any.type_url == type_url)
        .ok_or_else(|| {
            let found = extension
                .config
                .as_ref()
                .map_or("nothing".to_owned(), |any| format!("{:?}", any.type_url));
            DecodeResourceError::field(format!("{of}.extensions[{name}].config"), found, type_url)
        })?;
    Ok(M::decode(config.value.as_slice())?)
}
