use hickory_proto::{
    op::{MessageType, OpCode},
    rr::{
        Record,
        rdata::{A, CNAME},
    },
};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn address(owner: &str, ip: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(ip.parse().unwrap())))
}

fn alias(owner: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn message(code: ResponseCode, answers: Vec<Record>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.answers = answers;
    message.to_vec().unwrap()
}

/// `ip/ttl`, by blank.
fn check(answers: Vec<Record>, expected: &str) {
    let bytes = message(ResponseCode::NoError, answers);
    let found = addresses_in(&bytes, &name("API.x.org."));
    let shown: Vec<String> = found
        .iter()
        .map(|found| format!("{}/{}", found.address, found.ttl.as_secs()))
        .collect();
    assert_eq!(shown.join(" "), expected);
}

#[test]
fn addresses_are_those_of_the_name_that_was_asked() {
    check(vec![], "");
    check(
        vec![
            address("api.x.org.", "192.0.2.1", 30),
            address("api.x.org.", "192.0.2.2", 60),
        ],
        "192.0.2.1/30 192.0.2.2/60",
    );
    // Nobody asked for that one.
    check(vec![address("bank.org.", "192.0.2.1", 30)], "");
    // The chain, in any order, with its shortest link.
    check(
        vec![
            address("c.cdn.net.", "192.0.2.3", 300),
            alias("b.cdn.net.", "c.cdn.net.", 20),
            alias("api.x.org.", "b.cdn.net.", 60),
            address("b.cdn.net.", "192.0.2.9", 300),
        ],
        "192.0.2.3/20",
    );
    // A loop ends.
    check(
        vec![
            alias("api.x.org.", "b.org.", 1),
            alias("b.org.", "api.x.org.", 1),
        ],
        "",
    );
    let bytes = message(
        ResponseCode::NXDomain,
        vec![address("api.x.org.", "192.0.2.1", 30)],
    );
    assert!(addresses_in(&bytes, &name("api.x.org.")).is_empty());
    assert!(addresses_in(b"nonsense", &name("api.x.org.")).is_empty());
}

fn ips(table: &NameTable, name: &str) -> String {
    let learned = table.learned();
    let addresses = learned.names.get(name).map(|found| found.to_vec());
    let shown: Vec<String> = addresses
        .unwrap_or_default()
        .iter()
        .map(IpAddr::to_string)
        .collect();
    shown.join(" ")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn answered(ips: &[&str], ttl: u64) -> Vec<Answered> {
    let one = |ip: &&str| Answered {
        address: ip.parse().unwrap(),
        ttl: Duration::from_secs(ttl),
    };
    ips.iter().map(one).collect()
}

fn limits(ttl_min: u64, addresses_per_name_max: usize, names_max: usize) -> NameLimits {
    NameLimits {
        ttl_min: Duration::from_secs(ttl_min),
        addresses_per_name_max,
        names_max,
    }
}

#[test]
fn addresses_gather_until_their_time_is_over() {
    let mut table = NameTable::new(limits(60, 10, 10));
    assert_eq!(
        table.take("a.", &answered(&["192.0.2.1"], 5), at(0)),
        Taken::Changed
    );
    assert_eq!(
        table.take("a.", &answered(&["192.0.2.2"], 120), at(10)),
        Taken::Changed
    );
    assert_eq!(
        table.take("a.", &answered(&["192.0.2.2"], 0), at(11)),
        Taken::Refreshed
    );
    assert!(!table.expire(at(59)));
    assert_eq!(ips(&table, "a."), "192.0.2.1 192.0.2.2");
    assert!(table.expire(at(60)));
    assert_eq!(ips(&table, "a."), "192.0.2.2");
    // An address that moved to another name belongs to both for that long.
    table.take("b.", &answered(&["192.0.2.2"], 0), at(60));
    assert_eq!(ips(&table, "b."), "192.0.2.2");
    assert!(table.expire(at(130)));
    assert_eq!(table.len(), 0);
    assert_eq!(table.take("a.", &[], at(0)), Taken::Refreshed);
    assert_eq!(table.len(), 0);
}

#[test]
fn what_is_too_much_gives_way() {
    let mut table = NameTable::new(limits(0, 2, 2));
    table.take("a.", &answered(&["192.0.2.1"], 10), at(0));
    table.take("a.", &answered(&["192.0.2.2", "192.0.2.3"], 20), at(0));
    assert_eq!(ips(&table, "a."), "192.0.2.2 192.0.2.3");
    table.take("b.", &answered(&["192.0.2.1"], 10), at(0));
    assert_eq!(
        table.take("c.", &answered(&["192.0.2.1"], 10), at(0)),
        Taken::Full
    );
    // What has ended makes room.
    assert_eq!(
        table.take("c.", &answered(&["192.0.2.1"], 10), at(11)),
        Taken::Changed
    );
    assert_eq!(table.len(), 2);
}

#[test]
fn a_table_comes_back_from_its_file() {
    let limits = limits(0, 10, 10);
    let mut table = NameTable::new(limits);
    table.take(
        "a.org.",
        &answered(&["192.0.2.1", "2001:db8::1"], 10),
        at(0),
    );
    table.take("b.org.", &answered(&["192.0.2.1"], 20), at(0));
    let text = table.to_text();
    let read = NameTable::from_text(&text, limits, at(5)).unwrap();
    assert_eq!(read.to_text(), text);
    let later = NameTable::from_text(&text, limits, at(15)).unwrap();
    assert_eq!(later.len(), 1);
    // Far in the future, by a clock that was wrong.
    let early = NameTable::from_text(&text, limits, UNIX_EPOCH).unwrap();
    let mut expired = early.clone();
    expired.expire(UNIX_EPOCH + TTL_MAX);
    assert_eq!((early.len(), expired.len()), (2, 0));
    for broken in [
        "",
        "tulle learned names 2\n",
        "tulle learned names 1\na.org. 192.0.2.1\n",
        "tulle learned names 1\na.org. 192.0.2.1 x\n",
        "tulle learned names 1\na.org. here 1\n",
        "tulle learned names 1\na.org 192.0.2.1 1\n",
        "tulle learned names 1\na.org. 192.0.2.1 99999999999 9\n",
        "tulle learned names 1\na.org. 192.0.2.1 99999999999",
        &text[..text.len() - 3],
    ] {
        assert!(
            NameTable::from_text(broken, limits, at(0)).is_none(),
            "{broken:?}"
        );
    }
}
