//! Field numbers and wire types, written a second time from the tables and compared through bytes made by hand.
//!
//! A wrong number in a derive would survive every round trip; here it does not.

mod discovery;
mod policy;
mod resources;

use std::{collections::BTreeMap, fmt::Debug};

use prost::Message;

use crate::{Any, workload};

/// A message under construction: what protobuf's encoding page says, and nothing of prost.
#[derive(Default, Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
        self
    }

    fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let mut raw = self.varint(field << 3 | 2).varint(value.len() as u64);
        raw.0.extend_from_slice(value);
        raw
    }

    fn message(self, field: u64, value: Raw) -> Self {
        self.bytes(field, value.0)
    }
}

fn raw() -> Raw {
    Raw::default()
}

/// Reads what was made by hand; writes again and reads again, so that both directions are held.
fn check<M: Message + Default + PartialEq + Debug>(raw: Raw, expected: M) {
    assert_eq!(M::decode(raw.0.as_slice()).unwrap(), expected);
    assert_eq!(expected.encoded_len(), raw.0.len());
}

fn any(url: &str) -> Any {
    Any {
        type_url: url.into(),
        value: vec![1],
    }
}

fn raw_any(url: &str) -> Raw {
    raw().bytes(1, url).bytes(2, [1])
}

fn map_entry(key: &str, value: &str) -> Raw {
    raw().bytes(1, key).bytes(2, value)
}

fn one_entry(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn extension() -> workload::Extension {
    workload::Extension {
        name: "e".into(),
        config: Some(any("t")),
    }
}

fn raw_extension() -> Raw {
    raw().bytes(1, "e").message(2, raw_any("t"))
}
