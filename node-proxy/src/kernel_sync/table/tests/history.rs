//! A table that is kept over a history is the table of its end.

use proptest::prelude::*;

use super::*;
use crate::kernel_sync::tests::changed;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    PutService {
        number: u8,
        headless: bool,
        affinity: u8,
    },
    PutPod {
        number: u8,
        services: u8,
        sick: bool,
        demoted: bool,
        cluster: u8,
        selected: bool,
    },
    DropService(u8),
    DropPod(u8),
    PutPolicy {
        everywhere: bool,
    },
    DropPolicy,
    Capture(u8),
    Eject(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, any::<bool>(), 0..4_u8).prop_map(|(number, headless, affinity)| {
            Step::PutService {
                number,
                headless,
                affinity,
            }
        }),
        (
            0..6_u8,
            0..16_u8,
            any::<bool>(),
            any::<bool>(),
            0..2_u8,
            any::<bool>()
        )
            .prop_map(|(number, services, sick, demoted, cluster, selected)| {
                Step::PutPod {
                    number,
                    services,
                    sick,
                    demoted,
                    cluster,
                    selected,
                }
            }),
        (0..4_u8).prop_map(Step::DropService),
        (0..6_u8).prop_map(Step::DropPod),
        any::<bool>().prop_map(|everywhere| Step::PutPolicy { everywhere }),
        Just(Step::DropPolicy),
        any::<u8>().prop_map(Step::Capture),
        (0..8_u8).prop_map(Step::Eject),
    ];
    prop::collection::vec(step, 1..40)
}

fn test_service(number: u8) -> tulle_model::Service {
    service(
        "default",
        &format!("s{number}"),
        &[&format!("172.20.1.{number}")],
    )
}

fn change_of(step: &Step) -> Option<Change> {
    Some(match *step {
        Step::PutService {
            number,
            headless,
            affinity,
        } => {
            let mut service = test_service(number);
            if headless {
                service.addresses.clear();
            }
            let affinities = [
                Affinity::None,
                Affinity::Local,
                Affinity::Remote,
                Affinity::LocalNode,
            ];
            service.sharing.affinity = affinities[usize::from(affinity)];
            Change::Service(Arc::new(service))
        }
        Step::PutPod {
            number,
            services,
            sick,
            demoted,
            cluster,
            selected,
        } => {
            let cluster = ["koornacht", "tion"][usize::from(cluster)];
            // Two pods share each address, as when a pod is replaced.
            let mut workload = pod(
                cluster,
                "default",
                &format!("p{number}"),
                &[&format!("10.1.1.{}", number / 2)],
            );
            for service in (0..4).filter(|bit| services & (1 << bit) != 0) {
                workload = serving(workload, &test_service(service).key());
            }
            workload.health = if sick {
                Health::Unhealthy
            } else {
                Health::Healthy
            };
            workload.demoted = demoted;
            if selected {
                workload.authorization_policies.push("default/x".to_owned());
            }
            Change::Workload(Arc::new(workload))
        }
        Step::DropService(number) => Change::ServiceGone(test_service(number).key()),
        Step::DropPod(number) => {
            let cluster = "koornacht".parse().unwrap();
            Change::WorkloadGone(WorkloadUid::of_pod(
                &cluster,
                "default",
                &format!("p{number}"),
            ))
        }
        Step::PutPolicy { everywhere: true } => policy(AuthorizationScope::Global, "default"),
        Step::PutPolicy { everywhere: false } => policy(AuthorizationScope::Namespace, "default"),
        Step::DropPolicy => Change::PolicyGone("default/p".parse().unwrap()),
        Step::Capture(_) | Step::Eject(_) => return None,
    })
}

/// Endpoints that are out; bits name them.
fn ejected_of(mask: u8) -> Ejected {
    let numbers = (0..3).filter(|bit| mask & (1 << bit) != 0);
    Ejected::new(
        numbers.map(|n| format!("10.1.1.{n}:8080").parse().unwrap()),
        80,
    )
}

#[test]
fn a_release_reaches_every_pod_that_claims_the_address() {
    let pod = |number, services| Step::PutPod {
        number,
        services,
        sick: false,
        demoted: false,
        cluster: 0,
        selected: false,
    };
    // Pods 4 and 5 have one address; the one that is not found by it serves the service.
    check_steps(&[
        pod(4, 8),
        pod(5, 4),
        Step::Capture(28),
        Step::PutService {
            number: 2,
            headless: false,
            affinity: 0,
        },
        Step::Capture(32),
    ])
    .unwrap();
}

proptest! {
    #[test]
    fn a_kept_table_equals_a_new_one(steps in steps()) {
        check_steps(&steps)?;
    }
}

fn check_steps(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut directory = Directory::default();
    let mut local = BTreeSet::new();
    let mut ejected = Ejected::none();
    let mut kept = TableCache::default();
    let mut told = KernelTable::default();
    let node = node();
    let everything = Touched {
        everything: true,
        ..Touched::default()
    };
    for step in [None].into_iter().chain(steps.iter().map(Some)) {
        let mut touched = Touched::default();
        match step.map(|step| (step, change_of(step))) {
            None => touched = everything.clone(),
            Some((_, Some(change))) => {
                touched.note(&directory, &change);
                directory.apply(change);
            }
            Some((Step::Capture(mask), _)) => {
                local = (0..3)
                    .filter(|bit| mask & (1 << bit) != 0)
                    .map(|n| format!("10.1.1.{n}").parse().unwrap())
                    .collect();
            }
            Some((Step::Eject(mask), _)) => {
                ejected = ejected_of(*mask);
                let all = (0..3).map(|n| format!("10.1.1.{n}").parse().unwrap());
                touched.note_addresses(&directory, all);
            }
            Some((step, None)) => unreachable!("{step:?}"),
        }
        let sources = Sources {
            directory: &directory,
            node: &node,
            captured: &local,
            ejected: &ejected,
        };
        let update = kept.update(&sources, &touched);
        let mut new = TableCache::default();
        let _all = new.update(&sources, &everything);
        prop_assert_eq!(&kept, &new, "after {:?}", step);
        changed(&mut told, &update.changes);
        prop_assert_eq!(&told, &new.table(), "told after {:?}", step);
        let [frontends, backends, routes, _] = kept.sizes();
        prop_assert_eq!(frontends, told.frontends.len());
        prop_assert_eq!(routes, told.workloads.len());
        prop_assert!(backends >= told.frontends.iter().map(|f| f.backends.len()).sum());
    }
    Ok(())
}
