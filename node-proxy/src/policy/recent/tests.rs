use std::net::{Ipv4Addr, SocketAddr};

use tulle_model::Directory;
use tulle_policy::compiled::Direction;

use super::{RECENT_MAX, RecentVerdicts, SeenAt, Told};

fn note(recent: &RecentVerdicts, port: u16, because: &str) {
    let told = Told {
        direction: Direction::Egress,
        protocol: 6,
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        destination: SocketAddr::from(([10, 0, 0, 2], port)),
        outcome: "deny",
        seen: SeenAt::Call,
        because: &because,
    };
    recent.note(&Directory::default(), &told);
}

#[test]
fn a_repeat_is_counted_and_the_oldest_goes_first() {
    let recent = RecentVerdicts::default();
    note(&recent, 1, "first");
    for port in 2..=u16::try_from(RECENT_MAX).unwrap() {
        note(&recent, port, "one");
    }
    note(&recent, 1, "again");
    let all = recent.list();
    assert_eq!(all.len(), RECENT_MAX);
    assert_eq!((all[0].destination.port(), all[0].count), (1, 2));
    // The words of a verdict that repeats at once stay.
    assert_eq!(all[0].because, "first");
    note(&recent, 9_999, "new");
    let ports: Vec<u16> = recent
        .list()
        .iter()
        .map(|kept| kept.destination.port())
        .collect();
    assert_eq!(ports.len(), RECENT_MAX);
    assert_eq!(ports[..2], [9_999, 1]);
    assert!(!ports.contains(&2), "the oldest is gone");
}
