//! What the maps hold: reconciled by difference, adopted after a restart.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tulle_datapath::{
    Datapath, Frontend, KernelTable, Path, ReconcileError, ReconcileReport, TableChanges,
    WorkloadRoute,
};
use tulle_model::{Algorithm, Protocol};

use crate::{
    outbound::{at, connect_announcing, frontend},
    support::{Rig, chain, count, listen},
};

fn backend(number: u8, path: Path) -> (SocketAddr, Path) {
    (at(Ipv4Addr::new(10, 9, 0, number), 80), path)
}

fn table(services: &[&[(SocketAddr, Path)]], workloads: &[(u8, Path)]) -> KernelTable {
    KernelTable {
        frontends: (1..)
            .zip(services)
            .map(|(number, backends): (u8, _)| {
                frontend(&format!("172.20.1.{number}:80"), Protocol::Tcp, backends)
            })
            .collect(),
        workloads: workloads
            .iter()
            .map(|(number, path)| WorkloadRoute {
                address: Ipv4Addr::new(10, 9, 0, *number).into(),
                path: *path,
            })
            .collect(),
    }
}

fn check(datapath: &Datapath, table: &KernelTable, added: usize, changed: usize, removed: usize) {
    let report = ReconcileReport {
        added,
        changed,
        removed,
        without_table: 0,
    };
    assert_eq!(datapath.reconcile(table).unwrap(), report);
    assert_eq!(
        datapath.reconcile(table).unwrap(),
        ReconcileReport::default(),
        "a second time nothing is to be done"
    );
}

#[test]
fn only_differences_are_written_also_by_the_next_process() {
    let rig = Rig::new("reconcile");
    let one = [backend(1, Path::Proxy)];
    let two = [backend(1, Path::Proxy), backend(2, Path::Direct)];
    let moved = [backend(1, Path::Direct), backend(2, Path::Direct)];
    let datapath = rig.open();
    check(&datapath, &table(&[], &[]), 0, 0, 0);
    check(
        &datapath,
        &table(&[&one, &two], &[(1, Path::Proxy)]),
        6,
        0,
        0,
    );
    drop(datapath);

    let datapath = rig.open();
    check(
        &datapath,
        &table(&[&one, &two], &[(1, Path::Proxy)]),
        0,
        0,
        0,
    );
    check(
        &datapath,
        &table(&[&one, &moved], &[(1, Path::Direct)]),
        0,
        2,
        0,
    );
    check(
        &datapath,
        &table(&[&two, &one], &[(1, Path::Direct)]),
        1,
        1,
        1,
    );
    check(&datapath, &table(&[&two], &[]), 0, 0, 2);
    drop(datapath);

    let datapath = rig.open();
    check(&datapath, &table(&[], &[]), 0, 0, 1);
}

#[test]
fn a_table_that_is_too_large_is_refused_whole() {
    let rig = Rig::new("too_large");
    let datapath = rig.open();
    let mut large = table(&[&[]], &[]);
    let address = |index: u32| SocketAddr::from((Ipv4Addr::from(0x0b00_0000 + index), 80));
    large.frontends = (0..65_537)
        .map(|index| frontend(&address(index).to_string(), Protocol::Tcp, &[]))
        .collect();
    match datapath.reconcile(&large) {
        Err(ReconcileError::TooLarge { map, wanted, limit }) => {
            assert_eq!((map, wanted, limit), ("SERVICES", 65_537, 65_536));
        }
        other => panic!("{other:?}"),
    }
    check(&datapath, &table(&[], &[]), 0, 0, 0);
}

/// A small generator: histories must be the same in every run.
fn numbers() -> impl FnMut(u64) -> usize {
    let mut seed = 7u64;
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below).unwrap()
    }
}

#[test]
fn changes_alone_lead_to_what_a_whole_table_leads_to() {
    let rig = Rig::new("changes");
    let datapath = rig.open();
    let mut next = numbers();
    let mut held = table(&[], &[]);
    datapath.reconcile(&held).unwrap();
    for round in 0..400 {
        let protocol = [Protocol::Tcp, Protocol::Udp][next(2)];
        let address = format!("172.20.1.{}:80", next(6));
        let backends: Vec<_> = (0..next(12))
            .map(|number| {
                let path = [Path::Proxy, Path::Direct][next(2)];
                backend(u8::try_from(number + next(3)).unwrap(), path)
            })
            .collect();
        let mut new: Frontend = frontend(&address, protocol, &backends);
        for backend in &mut new.backends {
            backend.weight = [1, 1, 1, 7][next(4)];
        }
        new.session_affinity = [0, 0, 60][next(3)];
        new.algorithm = [Algorithm::Random, Algorithm::Random, Algorithm::Maglev][next(3)];
        let mut changes = TableChanges::default();
        held.frontends.retain(|f| f.address != new.address);
        if next(4) == 0 {
            changes.frontends_gone.push(new.address);
        } else {
            held.frontends.push(new.clone());
            changes.frontends.push(new);
        }
        let route = WorkloadRoute {
            address: Ipv4Addr::new(10, 9, 0, u8::try_from(next(9)).unwrap()).into(),
            path: [Path::Proxy, Path::Direct][next(2)],
        };
        held.workloads.retain(|w| w.address != route.address);
        if next(3) == 0 {
            changes.workloads_gone.push(route.address);
        } else {
            held.workloads.push(route);
            changes.workloads.push(route);
        }
        datapath.apply(&changes).unwrap();
        if round % 16 == 0 {
            // What the maps hold, read anew by another process, is the table.
            let other = rig.open();
            let report = other.reconcile(&held).unwrap();
            assert_eq!(report, ReconcileReport::default(), "round {round}");
        }
        let report = datapath.reconcile(&held).unwrap();
        assert_eq!(report, ReconcileReport::default(), "round {round}");
    }
    let too_many = TableChanges {
        frontends: (0..65_537u32)
            .map(|index| {
                let address = SocketAddr::from((Ipv4Addr::from(0x0b00_0000 + index), 80));
                frontend(&address.to_string(), Protocol::Tcp, &[])
            })
            .collect(),
        ..TableChanges::default()
    };
    assert!(matches!(
        datapath.apply(&too_many),
        Err(ReconcileError::TooLarge { .. })
    ));
    assert_eq!(
        datapath.apply(&TableChanges::default()).unwrap(),
        ReconcileReport::default()
    );
}

#[test]
fn connections_never_miss_while_backends_change() {
    let rig = Rig::new("churn");
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &client);
    let ports: Vec<u16> = (9001..9009).collect();
    let sinks: Vec<_> = ports
        .iter()
        .map(|port| server.run(|| listen("0.0.0.0", *port)))
        .collect();
    let subset = |round: usize| -> Vec<(SocketAddr, Path)> {
        let serving = ports
            .iter()
            .enumerate()
            .filter(|(index, _)| !(round + index).is_multiple_of(3));
        serving
            .map(|(_, port)| (at(server.v4, *port), Path::Plain))
            .collect()
    };
    datapath.reconcile(&table(&[&subset(0)], &[])).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let dialer = {
        let is_done = Arc::clone(&is_done);
        client.spawn(move || {
            let mut connections = 0;
            while !is_done.load(Ordering::Relaxed) {
                TcpStream::connect("172.20.1.1:80").unwrap();
                connections += 1;
            }
            connections
        })
    };
    for sink in &sinks {
        sink.set_nonblocking(true).unwrap();
    }
    for round in 0..600 {
        datapath.reconcile(&table(&[&subset(round)], &[])).unwrap();
        for sink in &sinks {
            while sink.accept().is_ok() {}
        }
    }
    is_done.store(true, Ordering::Relaxed);
    assert!(dialer.join().unwrap() > 100);
    assert_eq!(count(&datapath, "connect4", "missing_slot"), 0);
}

#[test]
fn a_restart_opens_no_gap() {
    let rig = Rig::new("restart");
    let mut datapath = rig.open();
    let client = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    let far = backend(1, Path::Proxy);
    datapath
        .reconcile(&table(&[&[far]], &[(1, Path::Proxy)]))
        .unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let dialer = {
        let is_done = Arc::clone(&is_done);
        client.spawn(move || {
            let mut connections = 0u32;
            while !is_done.load(Ordering::Relaxed) {
                // Were a hook missing for a moment, this would run into an address that nobody has.
                TcpStream::connect("172.20.1.1:80").unwrap();
                connections += 1;
            }
            connections
        })
    };
    listeners.outbound_v4.set_nonblocking(true).unwrap();
    let mut accepted = 0u32;
    for _ in 0..8 {
        drop(datapath);
        datapath = rig.open();
        client.register(&datapath, &listeners);
        while let Ok((_stream, downstream)) = listeners.outbound_v4.accept() {
            let original = datapath
                .original_destination(client.cookie, downstream)
                .unwrap();
            assert_eq!(original.backend, far.0);
            accepted += 1;
        }
    }
    is_done.store(true, Ordering::Relaxed);
    let connections = dialer.join().unwrap();
    while listeners.outbound_v4.accept().is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, connections);
    assert!(connections > 8, "{connections}");
}

#[test]
fn without_a_proxy_captured_connections_are_refused_and_others_go_on() {
    let rig = Rig::new("proxy_gone");
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let listeners = rig.capture(&datapath, &client);
    let direct = (at(server.v4, 8080), Path::Direct);
    let plain = (at(server.v4, 8081), Path::Plain);
    datapath
        .reconcile(&table(
            &[&[backend(1, Path::Proxy)], &[direct], &[plain]],
            &[],
        ))
        .unwrap();
    let _servers = server.run(|| {
        [
            listen("0.0.0.0", 8080),
            listen("0.0.0.0", 8081),
            listen("0.0.0.0", 8082),
        ]
    });
    drop((datapath, listeners));
    let connect = |address: &str| client.run(|| TcpStream::connect(address));
    let err = connect("172.20.1.1:80").unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::ConnectionRefused);
    connect("172.20.1.2:80").unwrap();
    connect("172.20.1.3:80").unwrap();
    connect(&at(server.v4, 8082).to_string()).unwrap();
}

#[test]
fn a_map_of_another_layout_is_replaced() {
    let rig = Rig::new("layout");
    drop(rig.open());
    let maps = rig.settings.pin_dir.join("maps");
    fs::rename(maps.join("SERVICES_2"), maps.join("SERVICES_0")).unwrap();
    // A pin whose sizes are another map's.
    fs::rename(maps.join("WORKLOADS_1"), maps.join("unused")).unwrap();
    fs::rename(maps.join("BACKENDS_2"), maps.join("WORKLOADS_1")).unwrap();
    let datapath = rig.open();
    check(
        &datapath,
        &table(&[&[backend(1, Path::Proxy)]], &[(1, Path::Proxy)]),
        3,
        0,
        0,
    );
    let mut names: Vec<_> = fs::read_dir(&maps)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert!(names.contains(&"SERVICES_2".into()), "{names:?}");
    assert!(
        !names.contains(&"SERVICES_0".into()) && !names.contains(&"unused".into()),
        "{names:?}"
    );
}

#[test]
fn the_old_programs_keep_the_old_maps_until_the_first_table_is_in_the_new_ones() {
    let rig = Rig::new("layout_gap");
    let datapath = rig.open();
    let client = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    let wanted = table(&[&[backend(1, Path::Proxy)]], &[]);
    datapath.reconcile(&wanted).unwrap();
    drop(datapath);
    let maps = rig.settings.pin_dir.join("maps");
    fs::rename(maps.join("SERVICES_2"), maps.join("SERVICES_0")).unwrap();
    let connect = || {
        let _stream = client.run(|| TcpStream::connect("172.20.1.1:80").unwrap());
        listeners.outbound_v4.accept().unwrap();
    };
    let datapath = rig.open();
    connect();
    client.register(&datapath, &listeners);
    connect();
    datapath.reconcile(&wanted).unwrap();
    connect();
}

#[test]
fn hooks_follow_a_cgroup_that_was_made_anew() {
    let rig = Rig::new("cgroup_anew");
    drop(rig.open());
    let cgroup = &rig.settings.capture_cgroup;
    fs::remove_dir(cgroup).unwrap();
    fs::create_dir(cgroup).unwrap();
    fs::write(cgroup.join("cgroup.type"), "threaded").unwrap();
    let datapath = rig.open();
    let client = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    datapath
        .reconcile(&table(&[&[backend(1, Path::Proxy)]], &[]))
        .unwrap();
    let _stream = client.run(|| TcpStream::connect("172.20.1.1:80").unwrap());
    listeners.outbound_v4.accept().unwrap();
}

#[test]
fn a_proxy_inside_the_captured_cgroup_is_not_captured() {
    let mut rig = Rig::new("proxy_inside");
    rig.settings.capture_cgroup = rig.settings.capture_cgroup.parent().unwrap().to_owned();
    let datapath = rig.open();
    let mut client = rig.pod();
    client.live_in("pods");
    let other = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    let service = (at(other.v4, 8080), Path::Proxy);
    let workload = WorkloadRoute {
        address: other.v4.into(),
        path: Path::Proxy,
    };
    let mut wanted = table(&[&[service]], &[]);
    wanted.workloads.push(workload);
    datapath.reconcile(&wanted).unwrap();
    let far = other.as_proxy(|| listen("0.0.0.0", 8080));
    let _stream = client.run(|| TcpStream::connect("172.20.1.1:80").unwrap());
    let (_accepted, downstream) = listeners.outbound_v4.accept().unwrap();
    assert!(
        datapath
            .original_destination(client.cookie, downstream)
            .is_some()
    );
    let _stream = client.as_proxy(|| TcpStream::connect((other.v4, 8080)).unwrap());
    far.accept().unwrap();
    // Its announcements work too, with one hook for both.
    let application = client.run(|| listen("0.0.0.0", 9090));
    let shown: SocketAddr = "10.2.1.5:41000".parse().unwrap();
    let _stream = connect_announcing(&datapath, &client, at(client.v4, 9090), shown);
    assert_eq!(application.accept().unwrap().1, shown);
}

#[test]
fn a_wrong_path_is_named_in_one_sentence() {
    let mut rig = Rig::new("wrong_path");
    let good = rig.settings.clone();
    for (change, expected) in [
        ("cgroup", "/proc is not a cgroup v2 directory"),
        (
            "absent",
            "cannot open the cgroup /absent: No such file or directory (os error 2)",
        ),
    ] {
        let path = if change == "cgroup" {
            "/proc"
        } else {
            "/absent"
        };
        rig.settings.capture_cgroup = path.into();
        let err = Datapath::open(&rig.settings).unwrap_err();
        assert_eq!(chain(&err), expected);
        rig.settings = good.clone();
    }
    let elsewhere = std::env::temp_dir().join(format!("tldp-{}", std::process::id()));
    rig.settings.pin_dir = elsewhere.clone();
    let err = Datapath::open(&rig.settings).unwrap_err();
    assert!(
        err.to_string()
            .contains("is not on a bpf file system: mount one with"),
        "{err}"
    );
    assert!(!elsewhere.exists());
    Datapath::remove(&elsewhere).unwrap();
    rig.settings = good;
}

#[test]
fn a_released_pod_is_as_if_it_had_never_been_captured() {
    let rig = Rig::new("release");
    let datapath = rig.open();
    let (outside, pod) = (rig.pod(), rig.pod());
    let listeners = rig.capture(&datapath, &pod);
    datapath.reconcile(&table(&[&[]], &[])).unwrap();
    assert_eq!(datapath.captured_pods(), std::slice::from_ref(&pod.uid));
    drop(datapath);

    let datapath = rig.open();
    datapath.release_pod(&pod.uid).unwrap();
    datapath.release_pod(&pod.uid).unwrap();
    assert!(datapath.captured_pods().is_empty());
    let application = pod.run(|| listen("0.0.0.0", 8080));
    let _stream = outside.run(|| TcpStream::connect((pod.v4, 8080)).unwrap());
    application.accept().unwrap();
    let passed = count(&datapath, "connect4", "passed");
    let other = outside.run(|| listen("0.0.0.0", 8080));
    let _stream = pod.run(|| TcpStream::connect((outside.v4, 8080)).unwrap());
    other.accept().unwrap();
    assert_eq!(count(&datapath, "connect4", "passed"), passed + 1);
    drop(listeners);
    for uid in ["", "a/b", "..", &"x".repeat(129)] {
        datapath.release_pod(uid).unwrap_err();
    }
}
