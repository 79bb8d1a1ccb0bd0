//! Pods: registered in the maps, steered in their namespaces.

mod subjects;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
};

use aya::maps::MapError;
use rustix::net::getsockname;
use tulle_abi::{
    Address, FAMILY_V4, FAMILY_V6, ListenerKey, POD_WITHOUT_SOCKMAP, PodAddressKey, PodSettings,
    PodValue,
};

use crate::{
    CapturePodError, PodCapture, ReleasePodError,
    attach::attach_netns,
    gate::{self, GateSide, find_place},
    load::load_pod,
    pins::{Pins, remove_file},
    raw::{Listeners, Raw, Table},
    reconcile::is_absent,
};

/// The maps of pods.
pub(crate) struct Pods {
    pub(crate) pods: Table<u64, PodValue>,
    pub(crate) addresses: Table<PodAddressKey, u32>,
    pub(crate) listeners: Listeners,
    /// The namespaces of the pods that this process captured, by uid.
    pub(crate) namespaces: HashMap<String, OwnedFd>,
    pub(crate) owners: Table<Address, u64>,
    /// Whether each pod has a gate.
    pub(crate) with_gates: bool,
    /// As the policy tables know the pods, captured or not; `None` until somebody says so.
    pub(crate) subjects: Option<HashMap<String, Subject>>,
}

/// A pod's identity and its flags, in the form of the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Subject {
    pub(crate) identity: u32,
    pub(crate) flags: u32,
}

impl Pods {
    /// Captures a pod, or brings an earlier capture of it up to date.
    ///
    /// The order lets no connection go astray: listeners first, then the steering that leads to them, and only then the registration
    /// by which the pod's own connections are captured.
    pub(crate) fn capture(
        &mut self,
        pins: &Pins,
        tunnel_port: u16,
        pod: &PodCapture<'_>,
    ) -> Result<Option<GateSide>, CapturePodError> {
        let uid = pod.uid;
        let pin = pins.pod(uid).ok_or_else(|| CapturePodError::Uid {
            uid: uid.to_owned(),
        })?;
        let netns = pod.netns_cookie.0;
        for listener in pod.inbound {
            self.set_listener(uid, netns, *listener)?;
        }
        self.set_addresses(netns, pod)
            .map_err(|source| register(uid, "POD_ADDRESSES", source))?;
        let unguarded = |source| CapturePodError::Gate {
            uid: uid.to_owned(),
            source,
        };
        let place = match self.with_gates {
            true => Some(find_place(pod.netns).map_err(unguarded)?),
            false => None,
        };
        let side = place.as_ref().map(|place| place.side);
        let settings = PodSettings {
            netns,
            tunnel_port,
            is_gate_inside: u16::from(side == Some(GateSide::Pod)),
            reserved: [0; 2],
        };
        let programs =
            load_pod(pins, &settings, self.with_gates).map_err(|err| steering(uid, err))?;
        attach_netns(&pin, &programs.steer, pod.netns).map_err(|err| steering(uid, err))?;
        let gate_pin = |way: &str, interface| pins.gate(uid, way, interface);
        match (&place, &programs.gate) {
            (Some(place), Some(gate)) => {
                gate::attach(place, gate, pod.netns, gate_pin).map_err(unguarded)?;
            }
            _ => remove_gate(pins, uid).map_err(unguarded)?,
        }
        let kept = pod
            .netns
            .try_clone_to_owned()
            .map_err(|err| steering(uid, err))?;
        self.namespaces.insert(uid.to_owned(), kept);
        let value = pod_value(pod, self.subject(uid, netns));
        self.pods
            .insert(Raw(netns), Raw(value), 0)
            .map_err(|source| register(uid, "PODS", source))?;
        Ok(side)
    }

    /// Releases a pod. One that was never captured counts as released.
    pub(crate) fn release(&mut self, pins: &Pins, uid: &str) -> Result<(), ReleasePodError> {
        let pin = pins.pod(uid).ok_or_else(|| ReleasePodError::Uid {
            uid: uid.to_owned(),
        })?;
        self.namespaces.remove(uid);
        let fail = |map| {
            move |source: MapError| ReleasePodError::Unregister {
                uid: uid.to_owned(),
                map,
                source: Box::new(source),
            }
        };
        for netns in self.namespaces_of(uid).map_err(fail("PODS"))? {
            absent_is_fine(self.pods.remove(&Raw(netns))).map_err(fail("PODS"))?;
            for family in [FAMILY_V4, FAMILY_V6] {
                let removed = self.listeners.remove(&Raw(listener_key(netns, family)));
                absent_is_fine(removed).map_err(fail("LISTENERS"))?;
            }
            for key in self.addresses_of(netns).map_err(fail("POD_ADDRESSES"))? {
                self.remove_address(key).map_err(fail("POD_ADDRESSES"))?;
            }
        }
        remove_gate(pins, uid).map_err(|source| ReleasePodError::Pin {
            path: pins.gate(uid, "from", 0),
            source,
        })?;
        remove_file(&pin).map_err(|source| ReleasePodError::Pin { path: pin, source })
    }

    fn set_listener(
        &mut self,
        uid: &str,
        netns: u64,
        listener: BorrowedFd<'_>,
    ) -> Result<(), CapturePodError> {
        let unusable = |source| CapturePodError::Listener {
            uid: uid.to_owned(),
            source,
        };
        let name = getsockname(listener).map_err(|err| unusable(err.into()))?;
        let family = match SocketAddr::try_from(name) {
            Ok(SocketAddr::V4(_)) => FAMILY_V4,
            Ok(SocketAddr::V6(_)) => FAMILY_V6,
            Err(err) => return Err(unusable(io::Error::from(err))),
        };
        self.listeners
            .insert(Raw(listener_key(netns, family)), listener, 0)
            .map_err(|source| register(uid, "LISTENERS", source))
    }

    /// Writes the pod's addresses, and takes away those that it no longer has.
    fn set_addresses(&mut self, netns: u64, pod: &PodCapture<'_>) -> Result<(), MapError> {
        let wanted: Vec<PodAddressKey> = pod
            .addresses
            .iter()
            .map(|ip| PodAddressKey {
                netns,
                address: (*ip).into(),
            })
            .collect();
        for key in &wanted {
            self.addresses.insert(Raw(*key), Raw(1), 0)?;
            self.owners.insert(Raw(key.address), Raw(netns), 0)?;
        }
        for key in self.addresses_of(netns)? {
            if !wanted.contains(&key) {
                self.remove_address(key)?;
            }
        }
        Ok(())
    }

    /// The next pod with the address may have been registered already.
    fn remove_address(&mut self, key: PodAddressKey) -> Result<(), MapError> {
        let owner = self.owners.get(&Raw(key.address), 0);
        if owner.is_ok_and(|owner| owner.0 == key.netns) {
            absent_is_fine(self.owners.remove(&Raw(key.address)))?;
        }
        absent_is_fine(self.addresses.remove(&Raw(key)))
    }

    fn addresses_of(&self, netns: u64) -> Result<Vec<PodAddressKey>, MapError> {
        let keys = self.addresses.keys().map(|key| key.map(|key| key.0));
        keys.filter(|key| key.as_ref().map_or(true, |key| key.netns == netns))
            .collect()
    }

    fn namespaces_of(&self, uid: &str) -> Result<Vec<u64>, MapError> {
        let hash = uid_hash(uid);
        let mut found = Vec::new();
        for entry in self.pods.iter() {
            let (netns, pod) = entry?;
            if pod.0.uid_hash == hash {
                found.push(netns.0);
            }
        }
        Ok(found)
    }
}

fn remove_gate(pins: &Pins, uid: &str) -> io::Result<()> {
    let links = pins.gate_links(uid)?;
    links.iter().try_for_each(|link| remove_file(link))
}

fn listener_key(netns: u64, family: u32) -> ListenerKey {
    ListenerKey {
        netns,
        family,
        reserved: 0,
    }
}

fn pod_value(pod: &PodCapture<'_>, subject: Subject) -> PodValue {
    let mut addresses = [Address::default(); 2];
    for (place, ip) in addresses.iter_mut().zip(pod.addresses) {
        *place = (*ip).into();
    }
    PodValue {
        uid_hash: uid_hash(pod.uid),
        client_hash: client_hash(pod.addresses),
        has_more: u32::from(pod.addresses.len() > addresses.len()),
        addresses,
        identity: subject.identity,
        flags: subject.flags
            | match pod.may_join {
                true => 0,
                false => POD_WITHOUT_SOCKMAP,
            },
    }
}

/// What a pod's Maglev choices go by: its own address, IPv4 if it has one, so that both families choose alike.
///
/// Every node and every build computes the same (FNV-1a, then mixed: neighbours must not choose alike).
fn client_hash(addresses: &[IpAddr]) -> u32 {
    let own = addresses.iter().find(|ip| ip.is_ipv4());
    let octets = match own.or(addresses.first()) {
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(v6)) => v6.octets(),
        None => [0; 16],
    };
    let mut hash = octets.iter().fold(0x811c_9dc5_u32, |hash, octet| {
        (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193)
    });
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x7feb_352d);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x846c_a68b);
    hash ^ (hash >> 16)
}

/// A number for a uid that a later process of the same build finds again.
pub(crate) fn uid_hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(err) if !is_absent(&err) => Err(err),
        _ => Ok(()),
    }
}

fn register(uid: &str, map: &'static str, source: MapError) -> CapturePodError {
    CapturePodError::Register {
        uid: uid.to_owned(),
        map,
        source: Box::new(source),
    }
}

fn steering(uid: &str, source: impl std::error::Error + Send + Sync + 'static) -> CapturePodError {
    CapturePodError::Steering {
        uid: uid.to_owned(),
        source: Box::new(source),
    }
}
