use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use proptest::prelude::*;

use super::{Lookup, Question, Refusal, Transport, answers_question, refuse, set_id};

fn query(name: &str, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn parse(message: &Message) -> Question {
    Question::parse(&message.to_vec().unwrap()).unwrap()
}

fn records(count: u8) -> Lookup {
    let record = |n| {
        let name = Name::from_ascii("db.data.svc.cluster.local.").unwrap();
        Record::from_rdata(name, 5, RData::from(Ipv4Addr::new(10, 1, 1, n)))
    };
    Lookup::Records {
        answers: (0..count).map(record).collect(),
        additionals: Vec::new(),
    }
}

fn answer(payload: Option<u16>, count: u8, transport: Transport) -> Message {
    let question = parse(&query("db.data.svc.cluster.local.", payload));
    let bytes = question.answer(records(count), transport).unwrap();
    assert!(bytes.len() <= question.answer_len_max(transport));
    Message::from_vec(&bytes).unwrap()
}

#[test]
fn an_answer_repeats_the_question_and_the_id() {
    let found = answer(None, 1, Transport::Udp);
    assert_eq!(found.metadata.id, 0x1234);
    assert_eq!(found.queries.len(), 1);
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    assert!(found.metadata.recursion_desired);
    assert_eq!(found.metadata.response_code, ResponseCode::NoError);
    assert!(found.edns.is_none());
}

#[test]
fn negative_answers_bear_the_authority() {
    let question = parse(&query("nobody.default.svc.cluster.local.", None));
    for (lookup, code) in [
        (Lookup::NoData, ResponseCode::NoError),
        (Lookup::NoSuchName, ResponseCode::NXDomain),
    ] {
        let found = Message::from_vec(&question.answer(lookup, Transport::Udp).unwrap()).unwrap();
        assert_eq!(found.metadata.response_code, code);
        assert_eq!(found.authorities.len(), 1);
        assert_eq!(found.authorities[0].record_type(), RecordType::SOA);
    }
    assert_eq!(question.answer(Lookup::NotOurs, Transport::Udp), None);
}

#[test]
fn what_does_not_fit_is_cut_and_said_to_be() {
    let plain = answer(None, 200, Transport::Udp);
    assert!(plain.metadata.truncation);
    assert!(
        (20..40).contains(&plain.answers.len()),
        "{}",
        plain.answers.len()
    );
    let large = answer(Some(1232), 200, Transport::Udp);
    assert!(large.metadata.truncation && large.answers.len() > plain.answers.len());
    assert!(large.edns.is_some());
    let whole = answer(Some(4096), 100, Transport::Udp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 100);
    let tcp = answer(None, 200, Transport::Tcp);
    assert!(!tcp.metadata.truncation);
    assert_eq!(tcp.answers.len(), 200);
}

#[test]
fn an_answer_of_long_names_still_fits_into_a_tcp_message() {
    let labels: Vec<String> = (0..3).map(|n| n.to_string().repeat(60)).collect();
    let name = Name::from_ascii(format!("{}.svc.cluster.local.", labels.join("."))).unwrap();
    let record = |n: u16| {
        let [high, low] = n.to_be_bytes();
        Record::from_rdata(
            name.clone(),
            5,
            RData::from(Ipv4Addr::new(10, 1, high, low)),
        )
    };
    let answers: Vec<Record> = (0..1500).map(record).collect();
    let question = parse(&query(&name.to_string(), None));
    let lookup = Lookup::Records {
        answers: answers.clone(),
        additionals: answers,
    };
    let bytes = question.answer(lookup, Transport::Tcp).unwrap();
    let found = Message::from_vec(&bytes).unwrap();
    assert!(found.metadata.truncation);
    assert!(found.answers.len() > 200, "{}", found.answers.len());
}

#[test]
fn a_client_cannot_ask_for_less_than_512_or_more_than_4096_bytes() {
    let limit = |payload| parse(&query("a.", Some(payload))).answer_len_max(Transport::Udp);
    assert_eq!(limit(0), 512);
    assert_eq!(limit(65535), 4096);
    assert_eq!(limit(1400), 1400);
}

#[test]
fn additional_records_go_first_and_without_a_word() {
    let question = parse(&query("db.data.svc.cluster.local.", None));
    let Lookup::Records { answers, .. } = records(20) else {
        unreachable!()
    };
    let lookup = Lookup::Records {
        answers: answers.clone(),
        additionals: answers,
    };
    let found = Message::from_vec(&question.answer(lookup, Transport::Udp).unwrap()).unwrap();
    assert!(!found.metadata.truncation);
    assert_eq!((found.answers.len(), found.additionals.len()), (20, 0));
}

#[test]
fn bytes_that_are_no_question_are_refused() {
    let check = |bytes: &[u8], expected: Refusal| {
        assert_eq!(Question::parse(bytes).err(), Some(expected));
    };
    let good = query("a.", None);
    let bytes = good.to_vec().unwrap();
    check(&[], Refusal::Drop);
    check(&bytes[..11], Refusal::Drop);
    let mut response = bytes.clone();
    response[2] |= 0x80;
    check(&response, Refusal::Drop);
    check(
        &bytes[..bytes.len() - 1],
        Refusal::Reply(ResponseCode::FormErr),
    );
    let mut many = bytes.clone();
    many[4] = 0xff;
    check(&many, Refusal::Reply(ResponseCode::FormErr));
    let mut none = bytes.clone();
    none[5] = 0;
    check(&none, Refusal::Reply(ResponseCode::FormErr));
    let mut update = bytes;
    update[2] |= 5 << 3;
    check(&update, Refusal::Reply(ResponseCode::NotImp));
    let mut chaos = good;
    chaos.queries[0].set_query_class(DNSClass::CH);
    check(
        &chaos.to_vec().unwrap(),
        Refusal::Reply(ResponseCode::Refused),
    );
    let mut future = query("a.", Some(1232));
    future.edns.as_mut().unwrap().set_version(1);
    check(
        &future.to_vec().unwrap(),
        Refusal::Reply(ResponseCode::BADVERS),
    );
    check(&vec![0; 5000], Refusal::Reply(ResponseCode::FormErr));
}

#[test]
fn a_refusal_bears_the_id() {
    let bytes = query("a.", None).to_vec().unwrap();
    for code in [
        ResponseCode::FormErr,
        ResponseCode::NotImp,
        ResponseCode::BADVERS,
    ] {
        let reply = refuse(&bytes, Refusal::Reply(code)).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.id, 0x1234);
        // By number: 16 has two names.
        assert_eq!(u16::from(reply.metadata.response_code), u16::from(code));
        assert_eq!(reply.metadata.op_code, OpCode::Query);
    }
    assert_eq!(refuse(&bytes, Refusal::Drop), None);
}

#[test]
fn only_an_answer_to_this_question_is_taken() {
    let question = parse(&query("example.com.", None));
    let reply = |name: &str, id: u16, code: ResponseCode| {
        let mut message = Message::response(id, OpCode::Query);
        message.metadata.response_code = code;
        if !name.is_empty() {
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        }
        message.to_vec().unwrap()
    };
    let takes = |bytes: &[u8]| answers_question(&question, 7, bytes);
    assert!(takes(&reply("example.com.", 7, ResponseCode::NoError)));
    assert!(takes(&reply("EXAMPLE.com.", 7, ResponseCode::NXDomain)));
    assert!(takes(&reply("", 7, ResponseCode::ServFail)));
    assert!(!takes(&reply("", 7, ResponseCode::NoError)));
    assert!(!takes(&reply("example.com.", 8, ResponseCode::NoError)));
    assert!(!takes(&reply("example.org.", 7, ResponseCode::NoError)));
    assert!(!takes(&query("example.com.", None).to_vec().unwrap()));
    assert!(!takes(&[0, 7]));
}

#[test]
fn ids_are_replaced() {
    let mut bytes = query("a.", None).to_vec().unwrap();
    set_id(&mut bytes, 0xabcd);
    assert_eq!(bytes[..2], [0xab, 0xcd]);
    set_id(&mut [0], 1);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        match Question::parse(&bytes) {
            Ok(question) => {
                let _answer = question.answer(Lookup::NoSuchName, Transport::Udp);
                let _own = answers_question(&question, 1, &bytes);
            }
            Err(refusal) => {
                let _reply = refuse(&bytes, refusal);
            }
        }
    }

    /// Nearly right: one byte of a good question is changed, or its end is cut off.
    #[test]
    fn no_damage_makes_it_panic(place in 0_usize..60, value in any::<u8>(), cut in 0_usize..60) {
        let mut bytes = query("db-0.db.data.svc.cluster.local.", Some(1232)).to_vec().unwrap();
        let len = bytes.len();
        bytes[place % len] = value;
        bytes.truncate(len - cut % len);
        let refused = Question::parse(&bytes).err().and_then(|refusal| refuse(&bytes, refusal));
        if let Some(reply) = refused {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
        }
    }
}
