//! Truth tables: global × shared × affinity × health, for two and three clusters, each cell by itself.
//!
//! From sharing to choice it is the code that runs: the merge makes the view, balance chooses from it. The expectation is
//! written down as a person would say it, and shares no line with either.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tulle_balance::{Ejected, Endpoint, SpillState, Viewpoint, select};

use super::*;

/// How an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Absent,
    Healthy,
    Unready,
    Terminating,
    Ejected,
    /// Healthy when its cluster was last heard.
    Silent,
}

/// What a cluster says of the service: nothing, or global and shared.
type Says = Option<(bool, bool)>;

/// One endpoint with its place: cluster and node.
type Place = (&'static str, u8);

const SAYS: [Says; 5] = [
    None,
    Some((false, false)),
    Some((false, true)),
    Some((true, false)),
    Some((true, true)),
];
const OWN_STATES: [Is; 5] = [
    Is::Absent,
    Is::Healthy,
    Is::Unready,
    Is::Terminating,
    Is::Ejected,
];
const REMOTE_STATES: [Is; 6] = [
    Is::Absent,
    Is::Healthy,
    Is::Unready,
    Is::Terminating,
    Is::Ejected,
    Is::Silent,
];
const AFFINITIES: [Affinity; 4] = [
    Affinity::None,
    Affinity::Local,
    Affinity::Remote,
    Affinity::LocalNode,
];

/// A table's clusters with what they say, and its endpoints with how they are. The client is on node 1 of the first cluster.
#[derive(Debug)]
struct Cell<'a> {
    says: &'a [(&'static str, Says)],
    endpoints: &'a [(Place, Is)],
}

/// In words: who may be used at all, then the affinity's places in their order, each asked for its healthy endpoints; if none
/// has one, for those that terminate; then for those of silent clusters; and only when nobody else is there, for ejected ones.
fn expected(cell: &Cell<'_>, affinity: Affinity) -> Vec<Place> {
    let says = |name: &str| cell.says.iter().find(|(n, _)| *n == name).unwrap().1;
    let visible = |cluster: &str| match (says(OWN), says(cluster)) {
        (None, _) => false,
        (Some(_), _) if cluster == OWN => true,
        (Some((global_here, _)), Some((global_there, shared_there))) => {
            global_here && global_there && shared_there
        }
        (Some(_), None) => false,
    };
    let own_node = |(cluster, node): Place| cluster == OWN && node == 1;
    let own_rest = |(cluster, node): Place| cluster == OWN && node != 1;
    let own = |(cluster, _): Place| cluster == OWN;
    let other = |(cluster, _): Place| cluster != OWN;
    let all = |_: Place| true;
    let order: Vec<&dyn Fn(Place) -> bool> = match affinity {
        Affinity::None => vec![&all],
        Affinity::Local => vec![&own, &other],
        Affinity::Remote => vec![&other, &own],
        Affinity::LocalNode => vec![&own_node, &own_rest, &other],
    };
    for state in [Is::Healthy, Is::Terminating, Is::Silent, Is::Ejected] {
        for place in &order {
            let found = cell
                .endpoints
                .iter()
                .filter(|(p, is)| visible(p.0) && place(*p) && *is == state);
            let found: Vec<Place> = found.map(|(p, _)| *p).collect();
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}

fn address_of(place: Place, cell: &Cell<'_>) -> IpAddr {
    let cluster = cell
        .says
        .iter()
        .position(|(name, _)| *name == place.0)
        .unwrap();
    IpAddr::V4(Ipv4Addr::new(
        10,
        u8::try_from(cluster).unwrap(),
        place.1,
        5,
    ))
}

/// The mesh of a cell, fed to the merge as it would come.
fn meshed(cell: &Cell<'_>) -> Merge {
    let mut merge = Merge::new(cluster(OWN));
    for (name, says) in cell.says {
        let is = |state: Is| {
            cell.endpoints
                .iter()
                .any(|(p, is)| p.0 == *name && *is == state)
        };
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(says.map(|(global, shared)| put_service(service("web", global, shared))));
        let there = cell
            .endpoints
            .iter()
            .filter(|(p, is)| p.0 == *name && *is != Is::Absent);
        changes.extend(there.map(|(place, is)| {
            put(Workload {
                node: place.1.to_string().into(),
                addresses: vec![address_of(*place, cell)],
                health: match is {
                    Is::Unready => Health::Unhealthy,
                    Is::Terminating => Health::Terminating,
                    Is::Absent | Is::Healthy | Is::Ejected | Is::Silent => Health::Healthy,
                },
                ..workload(name, &format!("p{}", place.1), &[("web", 80, 8080)])
            })
        }));
        if *name == OWN {
            changes
                .into_iter()
                .for_each(|change| drop(merge.handle_local(change)));
            continue;
        }
        merge.add_remote(cluster(name), domain(name));
        if !is(Is::Silent) {
            merge.handle_heartbeat(&cluster(name), 1, Duration::ZERO);
        }
        for change in changes {
            merge.handle_remote(&cluster(name), change).unwrap();
        }
    }
    merge
}

fn found(merge: &Merge, cell: &Cell<'_>, affinity: Affinity) -> Vec<Place> {
    let Some(service) = merge.view().service(&key("web")) else {
        return Vec::new();
    };
    let sharing = Sharing {
        affinity,
        ..service.sharing
    };
    let service = Service {
        sharing,
        ..(**service).clone()
    };
    let ejected = cell.endpoints.iter().filter(|(_, is)| *is == Is::Ejected);
    let ejected = ejected.map(|(place, _)| SocketAddr::new(address_of(*place, cell), 8080));
    let own = cluster(OWN);
    let from = Viewpoint {
        cluster: &own,
        node: "1",
        locality: &Locality::default(),
    };
    let port = &service.ports[0];
    let endpoints = merge.view().endpoints(&key("web")).flat_map(|workload| {
        let addresses = workload.serving_addresses(&key("web"), port);
        addresses.map(move |address| Endpoint { workload, address })
    });
    let chosen = select(
        from,
        &service,
        endpoints,
        &Ejected::new(ejected, 100),
        &SpillState::default(),
    );
    let place = |address: IpAddr| {
        cell.endpoints
            .iter()
            .find(|(p, _)| address_of(*p, cell) == address)
            .unwrap()
            .0
    };
    let mut places: Vec<Place> = chosen
        .serving
        .iter()
        .map(|s| place(s.address.ip()))
        .collect();
    places.sort_unstable();
    places
}

/// All combinations of one of each list.
fn product<T: Copy>(lists: &[&[T]]) -> Vec<Vec<T>> {
    lists.iter().fold(vec![Vec::new()], |all, list| {
        let with = |head: &Vec<T>| {
            list.iter()
                .map(|x| [head.as_slice(), &[*x]].concat())
                .collect::<Vec<_>>()
        };
        all.iter().flat_map(with).collect()
    })
}

fn check_table(clusters: &[&'static str], places: &[Place]) -> usize {
    let says = product(&vec![&SAYS[..]; clusters.len()]);
    let states: Vec<&[Is]> = places
        .iter()
        .map(|p| {
            if p.0 == OWN {
                &OWN_STATES[..]
            } else {
                &REMOTE_STATES[..]
            }
        })
        .collect();
    let states = product(&states);
    let mut cells = 0;
    for says in &says {
        let says: Vec<(&'static str, Says)> =
            clusters.iter().copied().zip(says.iter().copied()).collect();
        for states in &states {
            let endpoints: Vec<(Place, Is)> =
                places.iter().copied().zip(states.iter().copied()).collect();
            let cell = Cell {
                says: &says,
                endpoints: &endpoints,
            };
            let merge = meshed(&cell);
            for affinity in AFFINITIES {
                let mut expected = expected(&cell, affinity);
                expected.sort_unstable();
                assert_eq!(
                    found(&merge, &cell, affinity),
                    expected,
                    "{affinity:?} in {cell:#?}"
                );
                cells += 1;
            }
        }
    }
    cells
}

#[test]
fn every_cell_of_two_clusters() {
    let cells = check_table(&[OWN, "tion"], &[(OWN, 1), (OWN, 2), ("tion", 1)]);
    assert_eq!(cells, 5 * 5 * 4 * (5 * 5 * 6));
}

#[test]
fn every_cell_of_three_clusters() {
    let cells = check_table(
        &[OWN, "tion", "yavin"],
        &[(OWN, 1), ("tion", 1), ("yavin", 2)],
    );
    assert_eq!(cells, 5 * 5 * 5 * 4 * (5 * 6 * 6));
}
