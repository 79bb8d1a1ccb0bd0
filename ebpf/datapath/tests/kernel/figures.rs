//! Small measurements, printed; the assertions are wide, since machines differ.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use rustix::event::{PollFd, PollFlags, poll};
use tulle_datapath::{
    Datapath, Enforcement, KernelTable, LocalConnection, Path, SockmapMode, TableChanges,
    WorkloadRoute,
};
use tulle_model::Protocol;

use crate::{
    outbound::{at, frontend},
    support::{Pod, ProxyListeners, Rig, count, listen},
    traffic::{Stream, Style},
};

/// Time and number of all runs of the programs of that name.
pub(crate) fn runs(name: &str) -> Vec<(u32, Duration, u64)> {
    loaded_programs()
        .flatten()
        .filter(|program| program.name_as_str() == Some(name))
        .map(|program| (program.id(), program.run_time(), program.run_count()))
        .collect()
}

fn services(count: u32, backend: SocketAddr) -> KernelTable {
    KernelTable {
        frontends: (0..count)
            .map(|index| {
                let vip = SocketAddr::from((Ipv4Addr::from(0xac14_0000 + index), 80));
                frontend(&vip.to_string(), Protocol::Tcp, &[(backend, Path::Proxy)])
            })
            .collect(),
        workloads: Vec::new(),
    }
}

#[test]
fn the_decision_at_connect_is_quick_however_many_services_there_are() {
    let rig = Rig::new("connect_cost");
    let datapath = rig.open();
    let client = rig.pod();
    let _listeners = rig.capture(&datapath, &client);
    let _stats = enable_stats(Stats::RunTime).unwrap();
    let listener = client.run(|| listen("0.0.0.0", 9000));
    listener.set_nonblocking(true).unwrap();
    for services_len in [1, 10_000] {
        datapath
            .reconcile(&services(services_len, at(client.v4, 9000)))
            .unwrap();
        // A program that is interrupted counts the interruption too, so the quickest of many batches is the program's own cost.
        let mut costs: Vec<u128> = client.run(|| {
            let batches = (0..60).map(|batch| {
                let before = runs("connect4");
                for index in 0..100 {
                    let vip =
                        Ipv4Addr::from(0xac14_0000 + (batch * 100 + index) * 7 % services_len);
                    let _stream = TcpStream::connect((vip, 80)).unwrap();
                    listener.accept().unwrap();
                }
                cost("connect4", &before)
            });
            batches.collect()
        });
        costs.sort_unstable();
        println!(
            "{services_len} services: connect4 takes {} ns at best, {} ns in the middle",
            costs[0], costs[30]
        );
        assert!(costs[0] < 20_000);
    }
}

/// 10,000 services with ten backends each: what one backend's change costs, with system calls and all.
#[test]
fn one_change_of_a_large_table_costs_what_it_changes() {
    let rig = Rig::new("change_cost");
    let datapath = rig.open();
    let backends = |service: u32, count: u32| -> Vec<(SocketAddr, Path)> {
        (0..count)
            .map(|index| {
                let ip = Ipv4Addr::from(0x0a00_0000 + service * 10 + index);
                (at(ip, 80), Path::Proxy)
            })
            .collect()
    };
    let service = |number: u32, count: u32| {
        let vip = SocketAddr::from((Ipv4Addr::from(0xac14_0000 + number), 80));
        frontend(&vip.to_string(), Protocol::Tcp, &backends(number, count))
    };
    let table = KernelTable {
        frontends: (0..10_000).map(|number| service(number, 10)).collect(),
        workloads: (0..100_000)
            .map(|index| WorkloadRoute {
                address: Ipv4Addr::from(0x0a00_0000 + index).into(),
                path: Path::Proxy,
            })
            .collect(),
    };
    let start = Instant::now();
    datapath.reconcile(&table).unwrap();
    let whole = start.elapsed();
    let start = Instant::now();
    datapath.reconcile(&table).unwrap();
    let again = start.elapsed();
    let mut costs: Vec<Duration> = (0..400_u32)
        .map(|round| {
            let changes = TableChanges {
                frontends: vec![service(round * 23, 9)],
                workloads_gone: vec![Ipv4Addr::from(0x0a00_0000 + round * 230 + 9).into()],
                ..TableChanges::default()
            };
            let start = Instant::now();
            datapath.apply(&changes).unwrap();
            start.elapsed()
        })
        .collect();
    costs.sort_unstable();
    println!(
        "the whole table takes {whole:?}, once more {again:?}, one change {:?}, at worst {:?}",
        costs[200], costs[399]
    );
    assert!(costs[200] < Duration::from_millis(1));
}

#[test]
fn every_program_stays_within_its_budget_of_verified_instructions() {
    let mut rig = Rig::new("budget");
    rig.settings.sockmap = SockmapMode::Full;
    rig.settings.dns_capture = true;
    rig.enforcement = Enforcement::Drop;
    let datapath = rig.open();
    let pod = rig.pod();
    let _listeners = rig.capture(&datapath, &pod);
    // Tests run side by side, so there may be several of a name; the largest counts.
    let mut counts = BTreeMap::new();
    for program in loaded_programs().flatten() {
        if let (Some(name), Some(count)) =
            (program.name_as_str(), program.verified_instruction_count())
        {
            let largest: &mut u32 = counts.entry(name.to_owned()).or_default();
            *largest = count.max(*largest);
        }
    }
    for (name, budget) in BUDGETS {
        println!("{name}: {} instructions verified", counts[*name]);
        assert!(
            counts[*name] <= *budget,
            "{name}: {} instructions, budget {budget}",
            counts[*name]
        );
    }
}

/// What the verifier may look at, by program: twice what Linux 6.18 looked at when the program was written.
const BUDGETS: &[(&str, u32)] = &[
    ("connect4", 100_000),
    ("connect6", 200_000),
    ("sendmsg4", 20_000),
    ("sendmsg6", 56_000),
    ("recvmsg4", 1_000),
    ("recvmsg6", 1_000),
    ("getpeername4", 1_000),
    ("getpeername6", 1_000),
    ("track", 60_000),
    ("redirect", 12_000),
    ("steer", 1_000),
    ("from_pod", 46_000),
    ("to_pod", 26_000),
    ("vouch", 3_000),
];

#[test]
fn a_reader_that_fills_up_causes_no_pause() {
    for mode in [SockmapMode::Off, SockmapMode::ToProxy] {
        let stage = Stage::new("no_pause", mode);
        let mut times: Vec<Duration> = (0..40)
            .map(|_| {
                let (mut application, mut proxy) = stage.pair();
                thread::scope(|scope| {
                    scope.spawn(move || write_all(&mut application, &vec![1; 4 << 20]));
                    let start = Instant::now();
                    let mut buffer = vec![0; 131_072];
                    let mut read = 0;
                    while read < 4 << 20 {
                        thread::park_timeout(Duration::from_micros(500));
                        read +=
                            polling(&mut proxy, PollFlags::IN, |stream| stream.read(&mut buffer));
                    }
                    start.elapsed()
                })
            })
            .collect();
        times.sort_unstable();
        println!(
            "{mode:?}: 4 MiB to a slow reader in {:?}, at worst {:?}",
            times[20], times[39]
        );
        assert!(times[20] < Duration::from_secs(2));
    }
}

/// Nanoseconds of one run since `before`. Tests run side by side, so the program with the most runs is this test's.
pub(crate) fn cost(name: &str, before: &[(u32, Duration, u64)]) -> u128 {
    let deltas = runs(name).into_iter().map(|(id, time, count)| {
        let old = before.iter().find(|(old_id, _, _)| *old_id == id);
        let (old_time, old_count) =
            old.map_or((Duration::ZERO, 0), |(_, time, count)| (*time, *count));
        (count - old_count, time - old_time)
    });
    let (count, time) = deltas.max_by_key(|(count, _)| *count).unwrap();
    time.as_nanos() / u128::from(count.max(1))
}

struct Stage {
    datapath: Datapath,
    client: Pod,
    listeners: ProxyListeners,
    _rig: Rig,
}

impl Stage {
    fn new(name: &str, mode: SockmapMode) -> Self {
        let mut rig = Rig::new(name);
        rig.settings.sockmap = mode;
        let datapath = rig.open();
        let client = rig.pod();
        let listeners = rig.capture(&datapath, &client);
        let far = Ipv4Addr::new(10, 2, 1, 5);
        let table = KernelTable {
            frontends: Vec::new(),
            workloads: vec![WorkloadRoute {
                address: far.into(),
                path: Path::Proxy,
            }],
        };
        datapath.reconcile(&table).unwrap();
        Stage {
            datapath,
            client,
            listeners,
            _rig: rig,
        }
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        let application = self
            .client
            .run(|| Stream::connect(at(Ipv4Addr::new(10, 2, 1, 5), 80), Style::Polling).unwrap());
        let (proxy, _) = self.listeners.outbound_v4.accept().unwrap();
        proxy.set_nonblocking(true).unwrap();
        proxy.set_nodelay(true).unwrap();
        application.inner.set_nodelay(true).unwrap();
        let connection = LocalConnection {
            netns: self.client.cookie,
            proxy: proxy.local_addr().unwrap(),
            application: proxy.peer_addr().unwrap(),
        };
        // Its own epoll still watches it.
        self.client
            .as_proxy(|| self.datapath.join(&connection).unwrap());
        (application.inner, proxy)
    }
}

/// One operation of a stream that does not block, waiting for its turn.
fn polling<T>(
    stream: &mut TcpStream,
    events: PollFlags,
    mut operation: impl FnMut(&mut TcpStream) -> std::io::Result<T>,
) -> T {
    loop {
        match operation(stream) {
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&*stream, events)], None).unwrap();
            }
            done => return done.unwrap(),
        }
    }
}

fn read_exact(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut at = 0;
    while at < buffer.len() {
        at += polling(stream, PollFlags::IN, |stream| {
            stream.read(&mut buffer[at..])
        });
    }
}

fn write_all(stream: &mut TcpStream, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        at += polling(stream, PollFlags::OUT, |stream| stream.write(&bytes[at..]));
    }
}

#[test]
fn round_trips_and_streams_between_application_and_proxy() {
    for round in 0..2 {
        for mode in [SockmapMode::Off, SockmapMode::ToProxy, SockmapMode::Full] {
            let stage = Stage::new("speed", mode);
            let p50 = round_trip(&stage, 64);
            let p50_large = round_trip(&stage, 16_384);
            let before = processor_time();
            let rate = stream_rate(&stage, None);
            let cpu = (processor_time() - before).as_secs_f64() / 1.0737;
            let slow = stream_rate(&stage, Some(Duration::from_micros(300)));
            println!(
                "round {round} {mode:?}: 64 B {:.1} µs, 16 KiB {:.1} µs, stream {rate:.2} GB/s ({cpu:.2} s of processor a GB), to a slow reader {slow:.3} GB/s, {} redirected, {} full, {} draining",
                p50.as_nanos() as f64 / 1e3,
                p50_large.as_nanos() as f64 / 1e3,
                count(&stage.datapath, "sk_msg", "redirected"),
                count(&stage.datapath, "sk_msg", "reader_full"),
                count(&stage.datapath, "sk_msg", "draining"),
            );
        }
    }
}

/// What this process has used of the processors.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn round_trip(stage: &Stage, len: usize) -> Duration {
    let (mut application, mut proxy) = stage.pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; len];
            for _ in 0..ROUND_TRIPS {
                read_exact(&mut proxy, &mut buffer);
                write_all(&mut proxy, &buffer);
            }
        });
        let mut buffer = vec![0; len];
        let mut times: Vec<Duration> = (0..ROUND_TRIPS)
            .map(|_| {
                let start = Instant::now();
                write_all(&mut application, &buffer);
                read_exact(&mut application, &mut buffer);
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[ROUND_TRIPS / 2]
    })
}

/// Bytes a second from the application to the proxy, in GB, with a reader that pauses after each read if told so.
fn stream_rate(stage: &Stage, pause: Option<Duration>) -> f64 {
    let (mut application, mut proxy) = stage.pair();
    let total: usize = if pause.is_some() { 100 << 20 } else { 1 << 30 };
    thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![1; 65_536];
            for _ in 0..total / block.len() {
                write_all(&mut application, &block);
            }
        });
        let start = Instant::now();
        let mut buffer = vec![0; 131_072];
        let mut read = 0;
        while read < total {
            read += polling(&mut proxy, PollFlags::IN, |stream| stream.read(&mut buffer));
            if let Some(pause) = pause {
                let begin = Instant::now();
                while begin.elapsed() < pause {
                    std::hint::spin_loop();
                }
            }
        }
        total as f64 / start.elapsed().as_secs_f64() / 1e9
    })
}

const ROUND_TRIPS: usize = 10_000;
