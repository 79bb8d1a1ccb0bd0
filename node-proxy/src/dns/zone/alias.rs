//! Services that are another name (`type: ExternalName`).

use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::CNAME};
use tulle_model::Service;

use super::{Lookup, TTL_SECS, Zone, absolute};

impl Zone<'_> {
    /// Looks a name up, and what it is another name for, until that is not an alias.
    ///
    /// Stub resolvers do not follow aliases themselves, so the answer has to hold the addresses as well. A chain that is too
    /// long, or leads back to itself, ends where it was cut: an answer without an address, as from any resolver.
    pub(super) fn follow(&self, name: &Name, kind: RecordType) -> Lookup {
        let mut aliases = Vec::new();
        let mut name = name.clone();
        loop {
            let found = self.look_up_one(&name, kind);
            let target = match &found {
                Lookup::Records { answers, .. } if kind != RecordType::CNAME => target_of(answers),
                _ => None,
            };
            match (found, target) {
                (Lookup::Records { answers, .. }, Some(target)) => {
                    aliases.extend(answers);
                    if aliases.len() >= ALIASES_MAX {
                        return only(aliases);
                    }
                    name = target;
                }
                (found, None) if aliases.is_empty() => return found,
                (found, _) => return behind(aliases, found, name),
            }
        }
    }

    pub(super) fn alias_record(&self, service: &Service, owner: &Name) -> Option<Record> {
        let target = absolute(service.external_name.as_deref()?)?;
        let data = RData::CNAME(CNAME(target));
        Some(Record::from_rdata(owner.clone(), TTL_SECS, data))
    }
}

/// What the aliases lead to.
fn behind(mut aliases: Vec<Record>, found: Lookup, target: Name) -> Lookup {
    match found {
        Lookup::Records {
            answers,
            additionals,
        } => {
            aliases.extend(answers);
            Lookup::Records {
                answers: aliases,
                additionals,
            }
        }
        // The alias itself exists.
        Lookup::NoData | Lookup::NoSuchName => only(aliases),
        Lookup::NotOurs | Lookup::Elsewhere { .. } => Lookup::Elsewhere { aliases, target },
    }
}

fn only(answers: Vec<Record>) -> Lookup {
    Lookup::Records {
        answers,
        additionals: Vec::new(),
    }
}

fn target_of(answers: &[Record]) -> Option<Name> {
    let [only] = answers else { return None };
    match &only.data {
        RData::CNAME(CNAME(target)) => Some(target.clone()),
        _ => None,
    }
}

/// As BIND and CoreDNS, about.
const ALIASES_MAX: usize = 8;
