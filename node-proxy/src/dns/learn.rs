//! Which addresses the names have that policies speak of: learned from the answers that pods get, kept for as long as they may be used.
//!
//! A rule for a name means the addresses that a pod was told, at the moment when it was told. So an answer is held back until the
//! addresses stand in the kernel's tables; an application cannot connect faster than its policy knows. Addresses are kept beyond their
//! TTL for a while, since an application resolves once and stays connected: Cilium follows each connection for that, and loses track when it
//! restarts; here the time is a setting, and what was learned survives a restart in a file.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData},
};
use tulle_policy::compiled::LearnedNames;

/// An address for a name, as an answer has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) address: IpAddr,
    pub(crate) ttl: Duration,
}

/// The addresses that an answer gives for the name that was asked, also behind aliases.
///
/// Records about other names are left out: whoever runs the resolver of one name must not say what another name means.
pub(crate) fn addresses_in(answer: &[u8], asked: &Name) -> Vec<Answered> {
    let Ok(message) = Message::from_vec(answer) else {
        return Vec::new();
    };
    if message.metadata.response_code != ResponseCode::NoError {
        return Vec::new();
    }
    let mut owner = asked.clone();
    // An address lives as long as the shortest link of the chain that leads to it.
    let mut ttl_max = u32::MAX;
    for _link in 0..ALIASES_MAX {
        let alias = message
            .answers
            .iter()
            .find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == owner => {
                    Some((target.0.clone(), record.ttl))
                }
                _ => None,
            });
        let Some((target, ttl)) = alias else { break };
        ttl_max = ttl_max.min(ttl);
        owner = target;
    }
    let of_owner = message.answers.iter().filter(|record| record.name == owner);
    of_owner
        .filter_map(|record| {
            let address = match &record.data {
                RData::A(address) => IpAddr::V4(address.0),
                RData::AAAA(address) => IpAddr::V6(address.0),
                _ => return None,
            };
            Some(Answered {
                address: address.to_canonical(),
                ttl: Duration::from_secs(u64::from(record.ttl.min(ttl_max))),
            })
        })
        .collect()
}

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameLimits {
    /// An address is kept for at least this long, whatever its TTL says (Cilium's `tofqdns-min-ttl`).
    pub ttl_min: Duration,
    /// Addresses of one name (Cilium's `tofqdns-endpoint-max-ip-per-hostname`); beyond it, the one that ends first gives way.
    pub addresses_per_name_max: usize,
    /// Names. Beyond it, new ones are not learned: their addresses stay what they were without the name.
    pub names_max: usize,
}

impl Default for NameLimits {
    fn default() -> Self {
        NameLimits {
            // Applications that resolve once and connect again and again do so for minutes, not for days.
            ttl_min: Duration::from_secs(3600),
            addresses_per_name_max: 1000,
            names_max: 10_000,
        }
    }
}

/// The names with their addresses, and until when each counts. The times are those of the wall clock, since they outlive the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameTable {
    limits: NameLimits,
    names: BTreeMap<Arc<str>, BTreeMap<IpAddr, SystemTime>>,
}

/// What learning an answer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Addresses came that the name did not have, or left.
    Changed,
    /// Only times moved.
    Refreshed,
    /// There are too many names.
    Full,
}

impl NameTable {
    pub(crate) fn new(limits: NameLimits) -> Self {
        NameTable {
            limits,
            names: BTreeMap::new(),
        }
    }

    /// Takes what a name was answered with.
    pub(crate) fn take(&mut self, name: &str, answered: &[Answered], now: SystemTime) -> Taken {
        if !self.names.contains_key(name) && self.names.len() >= self.limits.names_max {
            self.expire(now);
            if self.names.len() >= self.limits.names_max {
                return Taken::Full;
            }
        }
        let addresses = self.names.entry(name.into()).or_default();
        let mut taken = Taken::Refreshed;
        for Answered { address, ttl } in answered {
            let kept = (*ttl).clamp(self.limits.ttl_min, TTL_MAX.max(self.limits.ttl_min));
            let until = now + kept;
            match addresses.get_mut(address) {
                Some(held) => *held = until.max(*held),
                None => {
                    addresses.insert(*address, until);
                    taken = Taken::Changed;
                }
            }
        }
        while addresses.len() > self.limits.addresses_per_name_max {
            let first = addresses.iter().min_by_key(|(_, until)| **until);
            let Some(address) = first.map(|(address, _)| *address) else {
                break;
            };
            addresses.remove(&address);
            taken = Taken::Changed;
        }
        if addresses.is_empty() {
            self.names.remove(name);
        }
        taken
    }

    /// Forgets what has ended; says whether anything had.
    pub(crate) fn expire(&mut self, now: SystemTime) -> bool {
        let mut changed = false;
        self.names.retain(|_, addresses| {
            let len = addresses.len();
            addresses.retain(|_, until| *until > now);
            changed |= addresses.len() != len;
            !addresses.is_empty()
        });
        changed
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// In the form that rules are compiled from.
    pub(crate) fn learned(&self) -> LearnedNames {
        let names = self.names.iter().map(|(name, addresses)| {
            let addresses: Arc<[IpAddr]> = addresses.keys().copied().collect();
            (Arc::clone(name), addresses)
        });
        LearnedNames {
            names: names.collect(),
        }
    }

    /// As text: a line `name address seconds` for each address, where the seconds are those of the Unix clock at its end.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (name, addresses) in &self.names {
            for (address, until) in addresses {
                let seconds = until
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs();
                text += &format!("{name} {address} {seconds}\n");
            }
        }
        text
    }

    /// Reads what `to_text` wrote, without what has ended; `None` = it is something else.
    ///
    /// A line that is broken makes the whole file worthless: to lose names costs a resolution, to believe a wrong one would open a way.
    pub(crate) fn from_text(text: &str, limits: NameLimits, now: SystemTime) -> Option<Self> {
        let mut table = NameTable::new(limits);
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) || !text.ends_with('\n') {
            return None;
        }
        for line in lines {
            let mut fields = line.split(' ');
            let (Some(name), Some(address), Some(seconds), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return None;
            };
            let address: IpAddr = address.parse().ok()?;
            let seconds: u64 = seconds.parse().ok()?;
            if name.is_empty() || !name.ends_with('.') || name.len() > NAME_LEN_MAX {
                return None;
            }
            let until = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
            // A clock that was set back must not keep addresses for ever.
            let until = until.min(now + TTL_MAX.max(limits.ttl_min));
            let has_place = table.names.contains_key(name) || table.names.len() < limits.names_max;
            if until > now && has_place {
                let addresses = table.names.entry(name.into()).or_default();
                if addresses.len() < limits.addresses_per_name_max {
                    addresses.insert(address, until);
                }
            }
        }
        Some(table)
    }
}

/// The first line of the file, with the number of its form.
const HEADER: &str = "tulle learned names 1";
/// RFC 8767, 4: resolvers do not believe more than a week either.
const TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longer chains are loops, or made to be followed.
const ALIASES_MAX: usize = 16;
/// As a text, with escapes.
const NAME_LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests;
