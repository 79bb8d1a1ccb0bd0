//! The compiled form against the interpreter, and histories against compilations from nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

use tulle_model::{Directory, SpiffeId, Workload, WorkloadUid};

use super::{
    Answer, Mesh, Said,
    world::{Dice, NAMES, PORTS, PROTOCOLS, World, address, cluster, identities, requests},
};
use crate::compiled::{
    CompiledPolicy, Compiler, CompilerSettings, Direction, Flow, FlowPeer, HttpFacts, IdentityId,
    KernelVerdict, Limits, Outcome, PeerKey, PolicyTouched, PolicyUpdate, PortEntry, PortSetId,
    RequestFacts, ServerName, SubjectEntry,
};

/// The kernel's tables: what updates leave behind, and lookups as the programs do them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Kernel {
    identities: BTreeMap<IpAddr, IdentityId>,
    blocks: Vec<(tulle_model::AddressRange, IdentityId)>,
    subjects: BTreeMap<WorkloadUid, SubjectEntry>,
    peers: HashMap<PeerKey, PortSetId>,
    port_sets: HashMap<PortSetId, Vec<PortEntry>>,
}

impl Kernel {
    fn apply(&mut self, update: PolicyUpdate) {
        assert!(update.limits_reached.is_empty(), "{update:?}");
        self.port_sets.extend(update.port_sets);
        self.peers.extend(update.peers);
        for subject in update.subjects {
            self.subjects.insert(subject.uid.clone(), subject);
        }
        self.identities.extend(update.identities);
        for (block, id) in update.blocks {
            self.blocks.retain(|(held, _)| *held != block);
            self.blocks.push((block, id));
        }
        for address in update.identities_gone {
            self.identities.remove(&address).unwrap();
        }
        self.blocks
            .retain(|(block, _)| !update.blocks_gone.contains(block));
        for uid in update.subjects_gone {
            self.subjects.remove(&uid).unwrap();
        }
        for key in update.peers_gone {
            self.peers.remove(&key).unwrap();
        }
        for id in update.port_sets_gone {
            self.port_sets.remove(&id).unwrap();
        }
        assert_eq!(self.peers.len(), update.usage.peers);
        assert_eq!(self.port_sets.len(), update.usage.port_sets);
        for set in self.peers.values().filter(|set| **set >= PortSetId::FIRST) {
            assert!(self.port_sets.contains_key(set), "{set:?} hangs in the air");
        }
    }

    fn identity_of(&self, address: IpAddr) -> IdentityId {
        let own = self.identities.get(&address).copied();
        let holding = self
            .blocks
            .iter()
            .filter(|(block, _)| block.contains(address));
        let longest = holding.max_by_key(|(block, _)| block.prefix_len);
        own.unwrap_or_else(|| longest.unwrap().1)
    }

    fn decide(
        &self,
        subject: &WorkloadUid,
        direction: Direction,
        peer: IdentityId,
        protocol: u8,
        port: u16,
    ) -> KernelVerdict {
        let subject = &self.subjects[subject];
        let is_enforced = match direction {
            Direction::Ingress => subject.ingress_enforced,
            Direction::Egress => subject.egress_enforced,
        };
        if !is_enforced {
            return KernelVerdict::Allow;
        }
        let subject = subject.identity;
        let key = |peer| PeerKey {
            subject,
            direction,
            peer,
        };
        let exact = self.peers.get(&key(peer));
        let set = exact.unwrap_or_else(|| &self.peers[&key(IdentityId::ANY)]);
        match *set {
            PortSetId::ALLOW_ALL => return KernelVerdict::Allow,
            PortSetId::DENY_ALL => return KernelVerdict::Deny,
            _ => {}
        }
        let fits = |entry: &&PortEntry| {
            let bits = 16 - u32::from(entry.prefix_len);
            u32::from(entry.port) >> bits == u32::from(port) >> bits
        };
        let longest = |protocol| {
            let of = self.port_sets[set]
                .iter()
                .filter(move |e| e.protocol == protocol);
            of.filter(fits).max_by_key(|entry| entry.prefix_len)
        };
        longest(protocol).or_else(|| longest(0)).unwrap().verdict
    }
}

/// A world with everything that is made of it.
struct Bench {
    world: World,
    compiler: Compiler,
    kernel: Kernel,
    requests: Vec<HttpFacts<'static>>,
}

fn settings() -> CompilerSettings {
    CompilerSettings {
        cluster: cluster("a"),
        node: "n1".to_owned(),
        limits: Limits::default(),
    }
}

impl Bench {
    fn new(world: World) -> Self {
        let mut bench = Bench {
            world,
            compiler: Compiler::new(settings()),
            kernel: Kernel::default(),
            requests: requests(),
        };
        bench.update(&PolicyTouched::default());
        bench
    }

    fn update(&mut self, touched: &PolicyTouched) {
        let World {
            directory,
            learned,
            subjects,
            ..
        } = &self.world;
        let update = self.compiler.update(directory, subjects, learned, touched);
        self.kernel.apply(update);
    }

    /// Everything that a flow could meet, without numbers: for each subject and address the entries with their rules' places.
    fn canonical(&self) -> Vec<String> {
        let policy = self.compiler.policy();
        let mut lines = Vec::new();
        let addresses: BTreeSet<IpAddr> = self
            .kernel
            .identities
            .keys()
            .copied()
            .chain(probes())
            .collect();
        for subject in self.kernel.subjects.values() {
            for direction in Direction::BOTH {
                for address in &addresses {
                    let line = self.canonical_entry(&policy, subject, direction, *address);
                    lines.push(format!("{} {direction:?} {address}: {line}", subject.uid));
                }
            }
            lines.push(format!(
                "{} enforced: {} {}, proxy: {}",
                subject.uid, subject.ingress_enforced, subject.egress_enforced, subject.needs_proxy
            ));
        }
        lines
    }

    fn canonical_entry(
        &self,
        policy: &CompiledPolicy,
        subject: &SubjectEntry,
        direction: Direction,
        address: IpAddr,
    ) -> String {
        let key = |peer| PeerKey {
            subject: subject.identity,
            direction,
            peer,
        };
        let peer = self.kernel.identity_of(address);
        let any = self.kernel.peers.get(&key(IdentityId::ANY));
        match self.kernel.peers.get(&key(peer)).or(any) {
            None => "nothing".to_owned(),
            Some(set) if *set < PortSetId::FIRST => format!("{set:?}"),
            Some(set) => {
                let entries = self.kernel.port_sets[set].iter().map(|e| {
                    let (rule, audit) = (policy.rule(e.rule), policy.rule(e.audit));
                    format!(
                        "{}:{}/{} {:?} {rule:?} {audit:?}",
                        e.protocol, e.port, e.prefix_len, e.verdict
                    )
                });
                entries.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

/// At least one address of each block, and a few that nobody has.
fn probes() -> impl Iterator<Item = IpAddr> {
    let v4 = (0..8).flat_map(|n| {
        [
            format!("198.51.100.{n}"),
            format!("10.1.0.{n}"),
            format!("172.16.0.{n}"),
        ]
    });
    let v6 = (0..8).flat_map(|n| [format!("fd00::{n}"), format!("2001:db8::{n}")]);
    let others = ["10.9.9.9", "10.1.9.9", "192.0.2.1"].map(str::to_owned);
    v4.chain(v6).chain(others).map(|text| text.parse().unwrap())
}

/// A random flow with a random request, held against the interpreter; whether it was one that can be.
fn check_flow(bench: &Bench, dice: &mut Dice) -> bool {
    let World {
        directory,
        learned,
        istio,
        subjects,
    } = &bench.world;
    let known = subjects.iter().filter_map(|uid| directory.workload(uid));
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        return false;
    }
    let subject = dice.pick(&known).clone();
    let Some((far, peer)) = random_far_end(directory, &subject, dice) else {
        return false;
    };
    let identity: SpiffeId = dice.pick(&identities());
    let direction = dice.pick(&Direction::BOTH);
    let (source, to) = match direction {
        Direction::Ingress => (far, subject.addresses[0]),
        Direction::Egress => (subject.addresses[0], far),
    };
    let flow = Flow {
        direction,
        subject: &subject.uid,
        peer,
        proven: dice.one_in(2).then_some(&identity),
        source,
        destination: (to, dice.pick(&PORTS)).into(),
        protocol: dice.pick(&PROTOCOLS),
        server_name: dice.pick(&[
            ServerName::NotSeen,
            ServerName::Absent,
            ServerName::Name("a.example.com"),
            ServerName::Name("c.org"),
        ]),
    };
    let mesh = Mesh {
        directory,
        istio,
        learned,
        cluster: cluster("a"),
        own_node: WorkloadUid::of_node(&cluster("a"), "n1"),
        requests: &bench.requests,
    };
    let request = random_request(&bench.requests, dice);
    let answer = check_verdict(bench, &flow, request.as_ref(), &mesh);
    check_kernel(bench, &flow, &mesh, answer);
    true
}

/// Somebody whom a flow can have at its far end. What stays in the pod is none, and nobody can be a workload behind an address that
/// another holds, or a pod in the network of a node that is not there.
fn random_far_end<'a>(
    directory: &'a Directory,
    subject: &Workload,
    dice: &mut Dice,
) -> Option<(IpAddr, FlowPeer<'a>)> {
    let mut workloads: Vec<_> = directory.workloads().collect();
    workloads.sort_by_key(|workload| &workload.uid);
    let (address, peer) = match dice.below(8) {
        0 => (address(dice), FlowPeer::Nobody),
        1..=3 => (address(dice), FlowPeer::Address),
        _ => {
            let far = workloads[dice.below(workloads.len())];
            (dice.pick(&far.addresses), FlowPeer::Workload(far))
        }
    };
    let can_be = match peer {
        FlowPeer::Workload(far) if far.uid == subject.uid => false,
        FlowPeer::Workload(far) if far.host_network => {
            let mut nodes = workloads.iter().filter(|w| w.uid.is_node());
            directory.workload_at(address).is_none()
                && nodes.any(|node| node.addresses.contains(&address))
        }
        FlowPeer::Address => !subject.addresses.contains(&address),
        FlowPeer::Workload(_) | FlowPeer::Nobody => true,
    };
    can_be.then_some((address, peer))
}

fn random_request<'a>(all: &[HttpFacts<'a>], dice: &mut Dice) -> Option<RequestFacts<'a>> {
    match dice.below(4) {
        0 => None,
        1 => Some(RequestFacts::NotHttp),
        2 => Some(RequestFacts::Dns(dice.pick(&NAMES))),
        _ => Some(RequestFacts::Http(dice.pick(all))),
    }
}

fn check_verdict(
    bench: &Bench,
    flow: &Flow<'_>,
    request: Option<&RequestFacts<'_>>,
    mesh: &Mesh<'_>,
) -> Answer {
    let answer = mesh.answer(flow, request);
    let verdict = bench.compiler.policy().evaluate(flow, request);
    let said = match verdict.outcome {
        Outcome::Allow => Said::Allow,
        Outcome::Deny => Said::Deny,
        Outcome::NeedsL7(_) => Said::Open,
    };
    // Whether two conditions on requests can both hold is not asked before there is a request.
    let is_careful =
        said == Said::Open && answer.by_network != Said::Deny && answer.istio_asks_requests;
    assert!(
        said == answer.said || is_careful,
        "{flow:?} {request:?}: {verdict:?}, but {answer:?}\nrules: {:#?}\n{:#?}",
        mesh.directory.rules().collect::<Vec<_>>(),
        mesh.istio
    );
    if said == Said::Allow {
        let is_audited = !verdict.audited.is_empty();
        let is_careful = answer.istio_asks_requests && !is_audited;
        assert!(
            is_audited == answer.is_audited || is_careful,
            "{flow:?} {request:?}: {verdict:?}, but {answer:?}\n{:#?}",
            mesh.istio
        );
        assert_eq!(verdict.audits_requests, answer.audits_requests, "{flow:?}");
    }
    answer
}

/// The kernel's tables say the same of what the kernel can see.
fn check_kernel(bench: &Bench, flow: &Flow<'_>, mesh: &Mesh<'_>, answer: Answer) {
    let (far, is_exact) = match (flow.direction, flow.peer) {
        (_, FlowPeer::Nobody) => return,
        // What comes from the own node in plain text is known by its way, not by the tables.
        (Direction::Ingress, FlowPeer::Address) if mesh.is_from_host(flow) => return,
        (Direction::Egress, FlowPeer::Address) => (flow.destination.ip(), true),
        (Direction::Ingress, FlowPeer::Address) => (flow.source, false),
        (Direction::Ingress, FlowPeer::Workload(_)) => (flow.source, true),
        (Direction::Egress, FlowPeer::Workload(_)) => (flow.destination.ip(), true),
    };
    // While two claim an address, the kernel knows only the one that counts.
    if let FlowPeer::Workload(workload) = flow.peer
        && !workload.host_network
        && mesh
            .directory
            .workload_at(far)
            .is_none_or(|held| held.uid != workload.uid)
    {
        return;
    }
    let policy = bench.compiler.policy();
    let peer = policy.identity_of(far, is_exact).unwrap();
    if is_exact {
        assert_eq!(peer, bench.kernel.identity_of(far));
    }
    let verdict = bench.kernel.decide(
        flow.subject,
        flow.direction,
        peer,
        flow.protocol,
        flow.destination.port(),
    );
    let said = answer.by_network;
    // A proxy also sees what is only audited, of what passes and by TCP.
    let may_be_audited = said == Said::Allow && flow.protocol == 6;
    match verdict {
        KernelVerdict::Allow => assert!(
            said == Said::Allow && !answer.is_conditional,
            "{flow:?} {answer:?}"
        ),
        KernelVerdict::Deny => assert!(said == Said::Deny, "{flow:?} {answer:?}"),
        KernelVerdict::L7 => assert!(
            answer.is_conditional || may_be_audited,
            "{flow:?} {answer:?}"
        ),
    }
    // What conditions decide, the kernel must not.
    if answer.is_conditional && said != Said::Deny {
        assert_eq!(verdict, KernelVerdict::L7, "{flow:?} {answer:?}");
    }
    // What Istio's policies might refuse, only a proxy may let in.
    let subject = &bench.kernel.subjects[flow.subject];
    assert!(
        subject.needs_proxy || answer.by_istio == Said::Allow,
        "{flow:?} {answer:?}"
    );
}

#[test]
fn compiled_tables_and_kernel_say_what_the_interpreter_says() {
    let seed = std::env::var("TULLE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one("seed"));
    println!("TULLE_SEED={seed}");
    let mut cases = 0;
    let mut world = 0u64;
    while cases < 120_000 {
        let dice = &mut Dice(seed.wrapping_add(world));
        world += 1;
        let mut bench = Bench::new(World::random(dice));
        for step in 0..12 {
            for _ in 0..20 {
                cases += usize::from(check_flow(&bench, dice));
            }
            let mut touched = PolicyTouched::default();
            for _ in 0..=dice.below(2) {
                let more = bench.world.change(dice);
                touched.workloads.extend(more.workloads);
                touched.services.extend(more.services);
                touched.rules.extend(more.rules);
                touched.authorizations |= more.authorizations;
            }
            bench.update(&touched);
            if step % 4 == 3 {
                let anew = Bench::new(bench.world.clone());
                let (held, wanted) = (bench.canonical(), anew.canonical());
                let mut pairs = held.iter().zip(&wanted);
                if let Some((held, wanted)) = pairs.find(|(held, wanted)| held != wanted) {
                    panic!(
                        "seed {seed}, world {world}: {held}\nbut from nothing: {wanted}\n{:#?}",
                        bench.world
                    );
                }
                assert_eq!(held.len(), wanted.len(), "seed {seed}, world {world}");
            }
        }
    }
    println!("{cases} cases in {world} worlds");
}
