//! Every cell: three places, each endpoint in each state, under every affinity, against the rule in its plainest form.

use tulle_model::Affinity;

use super::{
    super::SpillState,
    rules::{Scene, with_affinity},
};

/// The places of an affinity, best first, as a person would write them down.
fn places(affinity: Affinity) -> &'static [&'static [&'static str]] {
    match affinity {
        Affinity::None => &[&["a1", "a2", "b1", "c1"]],
        Affinity::Local => &[&["a1", "a2"], &["b1", "c1"]],
        Affinity::Remote => &[&["b1", "c1"], &["a1", "a2"]],
        Affinity::LocalNode => &[&["a1"], &["a2"], &["b1", "c1"]],
    }
}

/// The rule, with the marks of states in the order in which they are asked: for each, all endpoints in that state of the
/// first place that has one. Ejections are left out of it as long as no more than half of a place is ejected; the table
/// below asks with a threshold of 100 %, so they always are.
fn expected(affinity: Affinity, given: &[String; 4]) -> String {
    let in_state = |place: &&[&str], mark: &str| -> Vec<String> {
        let wanted = |e: &&String| place.contains(&&e[..2]) && e[2..] == *mark;
        given.iter().filter(wanted).cloned().collect()
    };
    let first = |mark: &str| {
        let places = places(affinity).iter();
        places
            .map(|place| in_state(place, mark))
            .find(|found| !found.is_empty())
    };
    let by_state = ["", "t", "~", "~t", "x"].into_iter().find_map(first);
    by_state.unwrap_or_default().join(" ")
}

#[test]
fn every_cell_of_affinity_and_health() {
    let states = ["", "-", "t", "~", "~t", "x"];
    let mut cells = 0;
    for affinity in super::AFFINITIES {
        let service = with_affinity(affinity);
        for n in 0..states.len().pow(4) {
            let state = |place: u32| states[n / states.len().pow(place) % states.len()];
            let given = ["a1", "a2", "b1", "c1"];
            let given = std::array::from_fn(|i| {
                format!("{}{}", given[i], state(u32::try_from(i).unwrap()))
            });
            let words = given.join(" ");
            let found = Scene::new(&words, 100).serving(&service, &mut SpillState::default());
            assert_eq!(found, expected(affinity, &given), "{affinity:?} of {words}");
            cells += 1;
        }
    }
    assert_eq!(cells, 4 * 6 * 6 * 6 * 6);
}
