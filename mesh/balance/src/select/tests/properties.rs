//! What holds for every service and every mix of endpoints.

use proptest::{collection::vec, option, prelude::*, sample::select};
use tulle_model::{
    Affinity, Failover, FailoverTarget, Service, Sharing, TrafficDistribution, TrafficPolicy,
};

use super::{
    super::{Reason, SpillState, Verdict},
    rules::Scene,
};

/// A word of [`Scene`]: places that often meet, and every mark.
fn word() -> impl Strategy<Value = String> {
    "[abc][12](@(eu|us)/[12])?(-|t)?~?x?0?"
}

fn words() -> impl Strategy<Value = Vec<String>> {
    vec(word(), 0..10)
}

fn target() -> impl Strategy<Value = FailoverTarget> {
    prop_oneof![
        select(vec!["a", "b", "d"]).prop_map(|name| FailoverTarget::Cluster(name.parse().unwrap())),
        select(vec!["eu", "us"]).prop_map(|name| FailoverTarget::Region(name.to_owned())),
    ]
}

prop_compose! {
    fn any_service()(
        affinity in select(super::AFFINITIES.to_vec()),
        internal_traffic_policy in select(vec![TrafficPolicy::Cluster, TrafficPolicy::Cluster, TrafficPolicy::Local]),
        traffic_distribution in select(vec![
            TrafficDistribution::Any, TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode,
        ]),
        failover in option::of((vec(target(), 0..4), 0..=100u8)), headless in any::<bool>(),
        publish_not_ready in prop::bool::weighted(0.2),
    ) -> Service {
        let vip = "172.20.1.5".parse().unwrap();
        Service {
            addresses: if headless { Vec::new() } else { vec![vip] },
            sharing: Sharing { global: true, shared: true, affinity },
            failover: failover.map(|(order, spill_at)| Failover { order, spill_at }),
            internal_traffic_policy, traffic_distribution, publish_not_ready,
            ..Service::default()
        }
    }
}

/// Whether an endpoint may serve at all, read off its word.
fn is_usable(service: &Service, word: &str) -> bool {
    let ready = service.publish_not_ready || !word.contains('-');
    let bound = service.internal_traffic_policy == TrafficPolicy::Local && !service.is_headless();
    ready && (!bound || word.starts_with("a1"))
}

fn serving(scene: &Scene, service: &Service) -> Vec<usize> {
    let verdicts = scene.verdicts(service).into_iter().enumerate();
    let serves = |(n, v): (usize, Verdict)| matches!(v, Verdict::Serves { .. }).then_some(n);
    verdicts.filter_map(serves).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// cilium/cilium#46623: nobody served although somebody could.
    #[test]
    fn somebody_serves_if_and_only_if_somebody_can(service in any_service(), words in words(), panic in 0..=100u8) {
        let scene = Scene::new(&words.join(" "), panic);
        let found = serving(&scene, &service);
        prop_assert_eq!(found.is_empty(), !words.iter().any(|word| is_usable(&service, word)));
        prop_assert!(found.iter().all(|n| is_usable(&service, &words[*n])), "{:?}", found);
    }

    /// The reasons come from the same decision as the choice, and no weight is 0.
    #[test]
    fn the_explanation_is_the_choice(service in any_service(), words in words(), panic in 0..=100u8) {
        let scene = Scene::new(&words.join(" "), panic);
        let chosen = scene.serving(&service, &mut SpillState::default());
        let explained = scene.verdicts(&service).into_iter().zip(&words).filter_map(|(verdict, word)| match verdict {
            Verdict::Serves { weight: 0 } => panic!("{word} serves nothing"),
            Verdict::Serves { weight: 1 } => Some(word.clone()),
            Verdict::Serves { weight } => Some(format!("{word}*{weight}")),
            Verdict::Out(_) => None,
        });
        prop_assert_eq!(chosen, explained.collect::<Vec<_>>().join(" "));
    }

    /// In whatever order endpoints come, each has the same verdict: all nodes with one view decide alike.
    #[test]
    fn the_order_of_endpoints_does_not_matter(service in any_service(), words in words(), turn in 0..10usize) {
        let mut turned = words.clone();
        if !turned.is_empty() {
            let by = turn % turned.len();
            turned.rotate_left(by);
        }
        let verdicts = |words: &[String]| {
            let found = Scene::new(&words.join(" "), 60).verdicts(&service);
            let mut found: Vec<String> = words.iter().zip(found).map(|(w, v)| format!("{w} {v:?}")).collect();
            found.sort();
            found
        };
        prop_assert_eq!(verdicts(&words), verdicts(&turned));
    }

    /// An ejected endpoint serves only in panic: when too many of those that serve are ejected, or all who could serve.
    #[test]
    fn with_full_belief_ejected_endpoints_serve_only_among_themselves(service in any_service(), words in words()) {
        let scene = Scene::new(&words.join(" "), 100);
        let found = serving(&scene, &service);
        let out = |n: &&usize| words[**n].contains('x');
        if found.iter().any(|n| out(&n)) {
            let usable = words.iter().filter(|word| is_usable(&service, word));
            prop_assert!(usable.clone().all(|word| word.contains('x')), "{:?}", found);
        }
    }

    /// Whoever is worse in the first question that differs does not serve before the other; and the reason names a question.
    #[test]
    fn a_sure_endpoint_is_never_beaten_by_hearsay(service in any_service(), words in words()) {
        let plain: Vec<String> = words.iter().map(|word| word.replace('x', "")).collect();
        let scene = Scene::new(&plain.join(" "), 100);
        let verdicts = scene.verdicts(&service);
        let is_sure = |word: &str| !word.contains(['~', '0']) && (service.publish_not_ready || !word.contains('t'));
        let anybody = plain.iter().any(|word| is_usable(&service, word) && is_sure(word));
        for (word, verdict) in plain.iter().zip(verdicts) {
            if anybody && !is_sure(word) && is_usable(&service, word) {
                let reasons = [Reason::Demoted, Reason::Terminating, Reason::Drained].map(Verdict::Out);
                prop_assert!(reasons.contains(&verdict), "{} {:?}", word, verdict);
            }
        }
    }

    /// The more of the first place is healthy, the more of the connections stay there.
    #[test]
    fn shares_grow_with_health(spill_at in 1..=100u8, healthy in 0..10usize) {
        let service = Service {
            addresses: vec!["172.20.1.5".parse().unwrap()],
            sharing: Sharing { global: true, shared: true, affinity: Affinity::Local },
            failover: Some(Failover { order: Vec::new(), spill_at }),
            ..Service::default()
        };
        let stays = |healthy: usize| {
            let words = format!("{}{}{}", "a1 ".repeat(healthy), "a1- ".repeat(10 - healthy), "b1 ".repeat(10));
            let verdicts = Scene::new(&words, 100).verdicts(&service);
            let weight = |verdict: &Verdict| match verdict {
                Verdict::Serves { weight } => f64::from(*weight),
                Verdict::Out(_) => 0.0,
            };
            let here: f64 = verdicts.iter().take(10).map(weight).sum();
            here / verdicts.iter().map(weight).sum::<f64>()
        };
        prop_assert!(stays(healthy) <= stays(healthy + 1) + 1e-3);
        let percent = healthy * 10;
        prop_assert_eq!(stays(healthy) == 1.0, percent >= usize::from(spill_at));
    }
}
