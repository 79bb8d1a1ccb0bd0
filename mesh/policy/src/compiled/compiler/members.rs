//! Which far ends are in which sets, and what the tables say of them.

use std::collections::BTreeMap;

use super::{Compiler, Round, Table, peer_key};
use crate::compiled::{
    Direction, IdentityId, LimitKind, LimitReached, PortSetId,
    peers::{PeerKind, PeerSetId, TableKey},
    tables::{Named, TableRules, TableView, groups, is_always_allowed},
};

/// Far ends with their port sets, each of which counts as one use.
type Entries = BTreeMap<IdentityId, PortSetId>;

impl Compiler {
    /// Takes in who was born and who died.
    pub(super) fn settle_members(&mut self, round: &mut Round) {
        let local = &self.settings.cluster;
        for (id, identity) in self.identities.take_dead() {
            let users = self.sets.note_dead(id, &identity, local);
            round.pairs.extend(users.into_iter().map(|user| (user, id)));
        }
        for id in std::mem::take(&mut self.identities.born) {
            if let Some(identity) = self.identities.get(id) {
                let users = self.sets.note_born(id, identity, local);
                round.pairs.extend(users.into_iter().map(|user| (user, id)));
            }
        }
        self.sets.fill_fresh(&self.identities, local);
    }

    /// Makes the tables and entries on the list anew.
    pub(super) fn fill_tables(&mut self, round: &mut Round) {
        for key in &round.rebuilt.clone() {
            if let Some(table) = self.tables.remove(key) {
                self.fill_table(*key, table, round);
            }
        }
        for (key, peer) in std::mem::take(&mut round.pairs) {
            if round.rebuilt.contains(&key) || self.closed.contains(&key) {
                continue;
            }
            if let Some(mut table) = self.tables.remove(&key) {
                self.work.pairs_compiled += 1;
                round.published.insert(key);
                if let Err(reached) = self.fill_pair(key, &mut table, peer, round) {
                    self.close(key, &mut table, Some(reached), round);
                }
                self.tables.insert(key, table);
            }
        }
    }

    fn fill_table(&mut self, key: TableKey, mut table: Table, round: &mut Round) {
        round.published.insert(key);
        if !table.rules.is_needed() {
            self.replace_view(key, &mut table, None, round);
            self.release_sets(key, table.rules.by_set.keys());
            return;
        }
        self.work.tables_compiled += 1;
        if round.closing.contains(&key) {
            self.close(key, &mut table, None, round);
        } else {
            match self.whole_table(key, &table) {
                Ok(entries) => self.replace_view(key, &mut table, Some((entries, false)), round),
                Err(reached) => self.close(key, &mut table, Some(reached), round),
            }
        }
        self.tables.insert(key, table);
    }

    /// Every entry of a table.
    fn whole_table(&mut self, key: TableKey, table: &Table) -> Result<Entries, LimitReached> {
        let named = |id| self.named(key, &table.rules, id);
        let sets = table.rules.by_set.keys();
        let sets = sets.filter_map(|id| Some((*id, self.sets.get(*id)?)));
        let members = sets.flat_map(|(id, set)| set.members.iter().map(move |m| (id, m)));
        let groups = groups(&table.rules, members, named);
        let own = named(IdentityId::ANY);
        let any = self.acquire_group(&table.rules, &[], &own)?;
        let mut entries = Entries::from([
            (IdentityId::ANY, any),
            (IdentityId::OVERFLOW, PortSetId::DENY_ALL),
        ]);
        for ((sets, named), members) in groups {
            let set = match self.acquire_group(&table.rules, &sets, &named) {
                Ok(set) => set,
                Err(reached) => {
                    self.release_entries(&entries);
                    return Err(reached);
                }
            };
            for member in members {
                let set = self.set_for(key, member, set);
                if set != any {
                    self.port_sets.share(set);
                    entries.insert(member, set);
                }
            }
            self.port_sets.release(set);
        }
        let held = table.view.as_ref().map_or(0, TableView::len);
        let needed = self.peers_len.saturating_sub(held) + entries.len();
        let max = self.settings.limits.peers_max;
        if needed > max {
            self.release_entries(&entries);
            let kind = LimitKind::Peers;
            return Err(LimitReached { kind, needed, max });
        }
        Ok(entries)
    }

    /// One entry of a table.
    fn fill_pair(
        &mut self,
        key: TableKey,
        table: &mut Table,
        peer: IdentityId,
        round: &mut Round,
    ) -> Result<(), LimitReached> {
        let in_table = |set: &&PeerSetId| table.rules.by_set.contains_key(set);
        let mut sets: Vec<PeerSetId> = self
            .sets
            .of(peer)
            .iter()
            .filter(in_table)
            .copied()
            .collect();
        sets.sort_unstable();
        let named = self.named(key, &table.rules, peer);
        let wanted = if sets.is_empty() {
            None
        } else {
            let set = self.acquire_group(&table.rules, &sets, &named)?;
            let meant = self.set_for(key, peer, set);
            if meant != set {
                self.port_sets.release(set);
            }
            Some(meant)
        };
        let Some(view) = &mut table.view else {
            return Ok(());
        };
        let wanted = wanted.filter(|set| {
            if *set == view.any {
                self.port_sets.release(*set);
            }
            *set != view.any
        });
        let before = match wanted {
            Some(set) => view.peers.insert(peer, set),
            None => view.peers.remove(&peer),
        };
        if let Some(before) = before {
            self.port_sets.release(before);
        }
        match (before, wanted) {
            (before, Some(set)) if before != Some(set) => {
                round.update.peers.push((peer_key(key, peer), set));
            }
            (Some(_), None) => round.update.peers_gone.push(peer_key(key, peer)),
            (_, Some(_)) | (None, None) => {}
        }
        self.peers_len += usize::from(before.is_none() && wanted.is_some());
        self.peers_len -= usize::from(before.is_some() && wanted.is_none());
        let (needed, max) = (self.peers_len, self.settings.limits.peers_max);
        if needed > max {
            let kind = LimitKind::Peers;
            return Err(LimitReached { kind, needed, max });
        }
        Ok(())
    }

    /// Makes a table refuse everyone, since it does not fit; but the own node, which is always allowed.
    fn close(
        &mut self,
        key: TableKey,
        table: &mut Table,
        reached: Option<LimitReached>,
        round: &mut Round,
    ) {
        round.update.limits_reached.extend(reached);
        self.closed.insert(key);
        let mut entries = Entries::from([(IdentityId::ANY, PortSetId::DENY_ALL)]);
        let sets = table.rules.by_set.keys();
        for set in sets.filter_map(|id| self.sets.get(*id)) {
            if set.kind == PeerKind::Entity(tulle_model::Entity::Host) {
                for member in &set.members {
                    let set = self.set_for(key, *member, PortSetId::DENY_ALL);
                    entries.insert(*member, set);
                }
            }
        }
        entries.retain(|peer, set| *peer == IdentityId::ANY || *set != PortSetId::DENY_ALL);
        self.replace_view(key, table, Some((entries, true)), round);
    }

    /// Puts new entries in the place of the old ones, and writes down the difference. `None` = there is no table any more.
    fn replace_view(
        &mut self,
        key: TableKey,
        table: &mut Table,
        new: Option<(Entries, bool)>,
        round: &mut Round,
    ) {
        let old = table.view.take();
        table.view = new.as_ref().map(|(entries, is_closed)| TableView {
            any: entries
                .get(&IdentityId::ANY)
                .copied()
                .unwrap_or(PortSetId::DENY_ALL),
            peers: entries
                .iter()
                .filter(|(peer, _)| **peer != IdentityId::ANY)
                .map(|(peer, set)| (*peer, *set))
                .collect(),
            deniers: table.rules.deniers.clone(),
            is_closed: *is_closed,
        });
        let entries = new.map(|(entries, _)| entries).unwrap_or_default();
        let before = |peer| old.as_ref().and_then(|old| old.entry(peer));
        for (peer, set) in &entries {
            if before(*peer) != Some(*set) {
                round.update.peers.push((peer_key(key, *peer), *set));
            }
        }
        self.peers_len += entries.len();
        for (peer, set) in old.iter().flat_map(TableView::entries) {
            self.peers_len -= 1;
            self.port_sets.release(set);
            if !entries.contains_key(&peer) {
                round.update.peers_gone.push(peer_key(key, peer));
            }
        }
    }

    /// What the names of ports mean that rules of the table name: the subject explains those at which it is asked, the far end others.
    fn named(&self, (subject, direction): TableKey, rules: &TableRules, peer: IdentityId) -> Named {
        let explaining = match direction {
            Direction::Ingress => subject,
            Direction::Egress => peer,
        };
        let identity = self.identities.get(explaining);
        rules.named(identity.map(|identity| &identity.owner))
    }

    /// The port set of whoever is in these sets of the table, one more use of it.
    fn acquire_group(
        &mut self,
        rules: &TableRules,
        sets: &[PeerSetId],
        named: &Named,
    ) -> Result<PortSetId, LimitReached> {
        self.work.port_sets_compiled += 1;
        let set = rules.compile(sets, named);
        if let Some(fixed) = rules.fixed(&set) {
            return Ok(fixed);
        }
        let limits = &self.settings.limits;
        self.port_sets
            .acquire(set, limits.port_sets_max, limits.port_entries_max)
    }

    /// The port set, but for those whom a subject cannot refuse.
    fn set_for(&self, (_, direction): TableKey, peer: IdentityId, set: PortSetId) -> PortSetId {
        let identity = self.identities.get(peer);
        if identity.is_some_and(|identity| is_always_allowed(direction, identity)) {
            PortSetId::ALLOW_ALL
        } else {
            set
        }
    }

    fn release_entries(&mut self, entries: &Entries) {
        for set in entries.values() {
            self.port_sets.release(*set);
        }
    }
}
