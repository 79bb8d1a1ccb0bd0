//! What one stream wants of one type and what its client holds: the rules of delta xDS, pure.
//!
//! **Invariant:** after `refresh`, a client that applied every update holds of what it wants exactly what the snapshot has,
//! and what it holds of clusters not heard yet (`client_follows_the_snapshots`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use imbl::ordmap::DiffItem;
use tulle_wire::xds::DeltaDiscoveryRequest;

use crate::snapshot::{Encoded, ResourceType, Resources, Snapshot};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Subscription {
    kind: ResourceType,
    wildcard: bool,
    /// Explicit names and aliases, and the services behind aliases.
    names: BTreeSet<Arc<str>>,
    /// What the client holds through this stream.
    held: Resources,
    /// The resources that were looked at last.
    seen: Resources,
    /// What the client holds from before and of which nothing is known yet.
    withheld: BTreeSet<Arc<str>>,
}

/// What is to be sent, cut into responses by `next_part`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) puts: VecDeque<Arc<Encoded>>,
    pub(super) removed: VecDeque<Arc<str>>,
}

/// The client asks for more single names than the server keeps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stream may name at most {NAMES_MAX} resources of a type; subscribe to all of them instead"
)]
pub(super) struct TooManyNames;

impl Subscription {
    /// The first request of a type: the answer is due even when it is empty.
    pub(super) fn first(
        kind: ResourceType,
        request: &DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> Result<(Self, Update), TooManyNames> {
        let subscribe = &request.resource_names_subscribe;
        let unsubscribe = &request.resource_names_unsubscribe;
        let all = subscribe.is_empty() || subscribe.iter().any(|n| n == WILDCARD);
        let mut subscription = Subscription {
            kind,
            wildcard: false,
            names: BTreeSet::new(),
            held: Resources::new(),
            seen: snapshot.resources(kind).clone(),
            withheld: BTreeSet::new(),
        };
        let mut answer = Answer::default();
        for name in subscribe
            .iter()
            .filter(|n| *n != WILDCARD && !unsubscribe.contains(n))
        {
            subscription.subscribe(name, snapshot, &mut answer)?;
        }
        if all && !unsubscribe.iter().any(|n| n == WILDCARD) {
            subscription.start_wildcard(snapshot, &mut answer);
        }
        subscription.account_for_initial(&request.initial_resource_versions, snapshot, &mut answer);
        Ok((subscription, answer.into_update()))
    }

    /// A later request that may change the subscription; `None` when it needs no answer.
    pub(super) fn change(
        &mut self,
        request: &DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> Result<Option<Update>, TooManyNames> {
        let subscribe = &request.resource_names_subscribe;
        let unsubscribe = &request.resource_names_unsubscribe;
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return Ok(None);
        }
        let mut answer = Answer::default();
        let mut due = self.refresh_into(snapshot, &mut answer);
        for name in subscribe {
            due = true;
            if name == WILDCARD {
                self.start_wildcard(snapshot, &mut answer);
            } else {
                self.subscribe(name, snapshot, &mut answer)?;
            }
        }
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
                self.forget_unwanted();
            } else {
                self.names.remove(name.as_str());
                // The client has dropped it; the wildcard still wants it.
                if self.wildcard {
                    due = true;
                    self.answer_name(name, snapshot, &mut answer);
                } else {
                    // It drops this one only: what came along with others, it goes on to hold.
                    self.held.remove(name.as_str());
                }
            }
        }
        Ok(due.then(|| answer.into_update()))
    }

    /// What the client must be told after the mesh changed.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot) -> Option<Update> {
        let mut answer = Answer::default();
        self.refresh_into(snapshot, &mut answer)
            .then(|| answer.into_update())
    }

    /// A client that comes back says what it still holds: equal content is not sent again, what is gone is removed.
    fn account_for_initial(
        &mut self,
        initial: &BTreeMap<String, String>,
        snapshot: &Snapshot,
        answer: &mut Answer,
    ) {
        for (name, version) in initial {
            match snapshot.resources(self.kind).get(name.as_str()) {
                Some(current) => {
                    // Also what it does not name: it may have it through a service that has let it go since.
                    self.hold(current);
                    if current.version == *version {
                        answer.puts.remove(name.as_str());
                    } else {
                        answer.put(Arc::clone(current));
                    }
                }
                None if snapshot.may_still_come(self.kind, name) => {
                    self.withheld.insert(Arc::from(name.as_str()));
                    answer.removed.remove(name.as_str());
                }
                None => {
                    answer.removed.insert(Arc::from(name.as_str()));
                }
            }
        }
    }

    fn subscribe(
        &mut self,
        name: &str,
        snapshot: &Snapshot,
        answer: &mut Answer,
    ) -> Result<(), TooManyNames> {
        let followed = snapshot
            .service_behind(name)
            .filter(|_| self.kind == ResourceType::Address);
        for name in [Some(Arc::from(name)), followed].into_iter().flatten() {
            if self.names.len() >= NAMES_MAX && !self.names.contains(&name) {
                return Err(TooManyNames);
            }
            self.names.insert(name);
        }
        self.answer_name(name, snapshot, answer);
        Ok(())
    }

    /// A name that was asked for is answered, whatever the server believes that the client has.
    fn answer_name(&mut self, name: &str, snapshot: &Snapshot, answer: &mut Answer) {
        let found = snapshot.resolve(self.kind, name);
        if found.is_empty() && !self.withheld.contains(name) {
            answer.removed.insert(Arc::from(name));
        }
        for encoded in found {
            self.hold(&encoded);
            answer.put(encoded);
        }
    }

    fn start_wildcard(&mut self, snapshot: &Snapshot, answer: &mut Answer) {
        self.wildcard = true;
        let resources = snapshot.resources(self.kind);
        // As with any name that is asked for: the client may hold less than this stream believes.
        answer.put_all(resources.values());
        self.held = resources.clone();
    }

    fn refresh_into(&mut self, snapshot: &Snapshot, answer: &mut Answer) -> bool {
        let before = answer.len();
        let seen = std::mem::replace(&mut self.seen, snapshot.resources(self.kind).clone());
        let now = self.seen.clone();
        for item in seen.diff(&now) {
            match item {
                DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => {
                    self.refresh_one(new, snapshot, answer);
                }
                DiffItem::Remove(name, _) => {
                    if self.held.remove(name).is_some() {
                        answer.removed.insert(Arc::clone(name));
                    }
                }
            }
        }
        // With the wildcard both maps are equal now; sharing the map keeps a stream's memory at nothing.
        if self.wildcard {
            self.held = now;
        }
        let settled =
            |n: &Arc<str>| self.held.contains_key(n) || !snapshot.may_still_come(self.kind, n);
        let (settled, waiting): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(&mut self.withheld)
            .into_iter()
            .partition(settled);
        self.withheld = waiting;
        answer
            .removed
            .extend(settled.into_iter().filter(|n| !self.held.contains_key(n)));
        answer.len() != before
    }

    fn refresh_one(&mut self, new: &Arc<Encoded>, snapshot: &Snapshot, answer: &mut Answer) {
        if self.wildcard {
            answer.put(Arc::clone(new));
            self.withheld.remove(&new.name);
            return;
        }
        let wanted = self.wants(new);
        if wanted || self.held.contains_key(&new.name) || self.withheld.remove(&new.name) {
            self.hold(new);
            answer.put(Arc::clone(new));
        }
        // A service that appears brings its workloads along, which may not have changed themselves.
        let is_service = self.kind == ResourceType::Address && new.name.matches('/').count() == 1;
        if wanted && is_service && (self.names.len() < NAMES_MAX || self.names.contains(&new.name))
        {
            self.names.insert(Arc::clone(&new.name));
            for encoded in snapshot.resolve(self.kind, &new.name) {
                if self.held.get(&encoded.name) != Some(&encoded) {
                    self.hold(&encoded);
                    answer.put(encoded);
                }
            }
        }
    }

    fn hold(&mut self, encoded: &Arc<Encoded>) {
        // With the wildcard `held` is the shared map already.
        if self.held.get(&encoded.name) != Some(encoded) {
            self.held
                .insert(Arc::clone(&encoded.name), Arc::clone(encoded));
        }
    }

    fn wants(&self, encoded: &Encoded) -> bool {
        self.names.contains(&encoded.name) || encoded.keys.iter().any(|k| self.names.contains(k))
    }

    fn forget_unwanted(&mut self) {
        if self.wildcard {
            return;
        }
        let wanted = self.held.iter().filter(|(_, e)| self.wants(e));
        self.held = wanted
            .map(|(n, e)| (Arc::clone(n), Arc::clone(e)))
            .collect();
    }
}

impl Update {
    /// The next part that fits one response: resources first, names of what is gone in the last parts.
    pub(super) fn next_part(&mut self) -> (Vec<Arc<Encoded>>, Vec<Arc<str>>) {
        let mut room = RESPONSE_BYTES_MAX;
        let mut puts = Vec::new();
        while let Some(next) = self.puts.front() {
            if !puts.is_empty() && next.bytes.len() > room {
                return (puts, Vec::new());
            }
            room = room.saturating_sub(next.bytes.len());
            puts.extend(self.puts.pop_front());
        }
        let mut removed = Vec::new();
        while let Some(next) = self.removed.front() {
            if (!puts.is_empty() || !removed.is_empty()) && next.len() > room {
                break;
            }
            room = room.saturating_sub(next.len());
            removed.extend(self.removed.pop_front());
        }
        (puts, removed)
    }

    /// Nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removed.is_empty()
    }
}

/// An update in the making: each name once.
#[derive(Debug, Default)]
struct Answer {
    puts: BTreeMap<Arc<str>, Arc<Encoded>>,
    removed: BTreeSet<Arc<str>>,
}

impl Answer {
    fn put(&mut self, encoded: Arc<Encoded>) {
        self.removed.remove(&encoded.name);
        self.puts.insert(Arc::clone(&encoded.name), encoded);
    }

    /// In order of their names.
    fn put_all<'a>(&mut self, all: impl Iterator<Item = &'a Arc<Encoded>>) {
        if self.len() == 0 {
            // Made from what is in order, the map is made in one go.
            self.puts = all.map(|e| (Arc::clone(&e.name), Arc::clone(e))).collect();
            return;
        }
        for encoded in all {
            self.put(Arc::clone(encoded));
        }
    }

    fn len(&self) -> usize {
        self.puts.len() + self.removed.len()
    }

    fn into_update(self) -> Update {
        Update {
            puts: self.puts.into_values().collect(),
            removed: self.removed.into_iter().collect(),
        }
    }
}

const WILDCARD: &str = "*";
/// An on-demand client names what its node talks to; a node talks to far fewer things than this.
const NAMES_MAX: usize = 65_536;
/// Small enough that a first answer flows instead of arriving in one lump, and far below every client's limit. And small because each stream keeps
/// the buffer in which its largest response was written, for as long as it lives.
const RESPONSE_BYTES_MAX: usize = 128 << 10;

#[cfg(test)]
mod tests;
