//! The rules of all policy objects, taken apart and numbered.
//!
//! Decides what of an object is new: a rule that says the same at the same place keeps its number and what was compiled of it, so that
//! a new version of an object disturbs only the subjects of the sections that differ.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use tulle_model::{
    L7Rules, Language, NamePattern, NetworkRule, NetworkRules, RuleAction, RuleSection, RuleSpec,
    Rules, RulesKey, Workload,
};

use super::{
    Direction, RuleId, RuleRef,
    identity::tokens::{Token, Tokens},
    labels::label_of,
};
use crate::l7::HttpMatcher;

/// A number for one spec of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SpecId(u32);

/// A spec of an object.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) key: Arc<RulesKey>,
    /// Which of the object's.
    pub(super) index: usize,
    pub(super) audit: bool,
    spec: RuleSpec,
    sections: [Option<Arc<Section>>; 2],
}

/// What a spec says about a direction.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) key: Arc<RulesKey>,
    pub(super) audit: bool,
    /// A number for the section itself: its default.
    pub(super) id: RuleId,
    pub(super) default_deny: bool,
    pub(super) rules: Vec<Arc<CompiledRule>>,
}

impl Spec {
    pub(super) fn section(&self, direction: Direction) -> Option<&Arc<Section>> {
        self.sections
            .get(direction_index(direction))
            .and_then(Option::as_ref)
    }

    fn sections(&self) -> impl Iterator<Item = &Arc<Section>> {
        self.sections.iter().flatten()
    }
}

/// One rule.
#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) id: RuleId,
    pub(super) reference: RuleRef,
    pub(super) language: Language,
    pub(super) audit: bool,
    pub(super) rule: NetworkRule,
    http: OnceLock<HttpMatcher>,
}

impl CompiledRule {
    /// It allows, but not everything.
    pub(super) fn is_conditional(&self) -> bool {
        self.rule.action == RuleAction::Allow
            && (self.rule.l7.is_some()
                || self.rule.authenticated
                || !self.rule.server_names.is_empty())
    }

    /// Its list of HTTP requests, compiled at the first use.
    pub(super) fn http(&self) -> Option<&HttpMatcher> {
        match &self.rule.l7 {
            Some(L7Rules::Http(rules)) => Some(self.http.get_or_init(|| HttpMatcher::new(rules))),
            Some(L7Rules::Dns(_)) | None => None,
        }
    }

    /// Its list of DNS names.
    pub(super) fn dns(&self) -> Option<&[NamePattern]> {
        match &self.rule.l7 {
            Some(L7Rules::Dns(names)) => Some(names),
            Some(L7Rules::Http(_)) | None => None,
        }
    }
}

/// What a number stands for.
#[derive(Debug, Clone)]
pub(super) enum Numbered {
    /// A rule.
    Rule(Arc<CompiledRule>),
    /// The default of a section.
    Section(RuleRef),
}

impl Numbered {
    pub(super) fn reference(&self) -> &RuleRef {
        match self {
            Numbered::Rule(rule) => &rule.reference,
            Numbered::Section(reference) => reference,
        }
    }
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct RuleStore {
    objects: HashMap<RulesKey, Vec<SpecId>>,
    specs: HashMap<SpecId, Arc<Spec>>,
    by_token: HashMap<Token, Vec<SpecId>>,
    /// By number. A clone shares everything.
    pub(super) numbered: imbl::HashMap<RuleId, Numbered>,
    /// How many specs have a rule or section: an object's old and new version share what is the same.
    uses: HashMap<RuleId, usize>,
    last_spec: u32,
    last_rule: u32,
    /// How many comparisons of a spec's selector with a subject were made.
    pub(super) compared: u64,
}

/// What a new version of an object changes.
#[derive(Debug, Default)]
pub(super) struct SpecChanges {
    pub(super) gone: Vec<(SpecId, Arc<Spec>)>,
    pub(super) new: Vec<SpecId>,
}

impl RuleStore {
    pub(super) fn keys(&self) -> impl Iterator<Item = &RulesKey> {
        self.objects.keys()
    }

    pub(super) fn spec(&self, id: SpecId) -> Option<&Arc<Spec>> {
        self.specs.get(&id)
    }

    /// Takes in what an object says now; `None` = it is gone.
    pub(super) fn replace(
        &mut self,
        key: &RulesKey,
        rules: Option<&Rules>,
        tokens: &Tokens,
    ) -> SpecChanges {
        let old = self.objects.remove(key).unwrap_or_default();
        let network = rules.and_then(|rules| match rules {
            Rules::Network(rules) => Some(rules),
            // Judged where the proof is seen, by `authorize`.
            Rules::Authorization(_) => None,
        });
        let mut changes = SpecChanges::default();
        let mut kept = Vec::new();
        let shared = Arc::new(key.clone());
        let specs_len = network.map_or(0, |rules| rules.specs.len());
        for index in 0..specs_len.max(old.len()) {
            let before = old.get(index).copied();
            let new = network.and_then(|rules| Some((rules, rules.specs.get(index)?)));
            match (before, new) {
                (Some(id), Some((rules, spec))) if self.is_same(id, rules, spec) => kept.push(id),
                (before, new) => {
                    let old_spec = before.and_then(|id| self.specs.get(&id).cloned());
                    if let Some((rules, spec)) = new {
                        let place = (&shared, index);
                        let id = self.add(place, rules, spec, old_spec.as_deref(), tokens);
                        kept.push(id);
                        changes.new.push(id);
                    }
                    changes.gone.extend(before.zip(old_spec));
                }
            }
        }
        if !kept.is_empty() {
            self.objects.insert(key.clone(), kept);
        }
        // At once: a subject that comes with the same update must not find them.
        for (id, spec) in &changes.gone {
            self.specs.remove(id);
            for token in tokens.wanted_by(&spec.spec.subject) {
                if let Some(ids) = self.by_token.get_mut(&token) {
                    ids.retain(|held| held != id);
                    if ids.is_empty() {
                        self.by_token.remove(&token);
                    }
                }
            }
        }
        changes
    }

    /// Gives back the numbers of specs that are gone, after nobody uses them any more.
    pub(super) fn forget(&mut self, gone: &[Arc<Spec>]) {
        for section in gone.iter().flat_map(|spec| spec.sections()) {
            self.release(section.id);
            for rule in &section.rules {
                self.release(rule.id);
            }
        }
    }

    /// The specs that speak of a workload, in the order of their objects.
    pub(super) fn specs_of(&mut self, workload: &Workload, tokens: &Tokens) -> Vec<SpecId> {
        let mut facts = Vec::new();
        tokens.of_workload(workload, &mut facts);
        let candidates = facts.iter().filter_map(|token| self.by_token.get(token));
        let candidates: BTreeSet<SpecId> = candidates.flatten().copied().collect();
        let mut found = Vec::new();
        for id in candidates {
            if self.speaks_of(id, workload) {
                found.push(id);
            }
        }
        self.sort(&mut found);
        found
    }

    /// Whether a spec speaks of a workload.
    pub(super) fn speaks_of(&mut self, id: SpecId, workload: &Workload) -> bool {
        self.compared += 1;
        let spec = self.specs.get(&id);
        spec.is_some_and(|spec| spec.spec.subject.matches(|key| label_of(workload, key)))
    }

    /// By object, then by place in it, whatever came first.
    pub(super) fn sort(&self, specs: &mut [SpecId]) {
        specs.sort_by_cached_key(|id| {
            self.specs
                .get(id)
                .map(|spec| (RulesKey::clone(&spec.key), spec.index))
        });
    }

    /// A newer version of the spec may have taken it over.
    fn release(&mut self, id: RuleId) {
        let uses = self.uses.entry(id).or_default();
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.uses.remove(&id);
            self.numbered.remove(&id);
        }
    }

    fn is_same(&self, id: SpecId, rules: &NetworkRules, spec: &RuleSpec) -> bool {
        self.specs
            .get(&id)
            .is_some_and(|held| held.audit == rules.audit && held.spec == *spec)
    }

    fn add(
        &mut self,
        (key, index): (&Arc<RulesKey>, usize),
        rules: &NetworkRules,
        spec: &RuleSpec,
        old: Option<&Spec>,
        tokens: &Tokens,
    ) -> SpecId {
        let section = |store: &mut Self, direction, section: &Option<RuleSection>| {
            let old = old.filter(|old| old.audit == rules.audit);
            let old = old.and_then(|old| old.section(direction));
            let section = section.as_ref()?;
            Some(store.add_section(key, rules.audit, direction, section, old))
        };
        let sections = [
            section(self, Direction::Ingress, &spec.ingress),
            section(self, Direction::Egress, &spec.egress),
        ];
        self.last_spec = self.last_spec.wrapping_add(1);
        let id = SpecId(self.last_spec);
        for token in tokens.wanted_by(&spec.subject) {
            self.by_token.entry(token).or_default().push(id);
        }
        let spec = Spec {
            key: Arc::clone(key),
            index,
            audit: rules.audit,
            spec: spec.clone(),
            sections,
        };
        self.specs.insert(id, Arc::new(spec));
        id
    }

    fn add_section(
        &mut self,
        key: &Arc<RulesKey>,
        audit: bool,
        direction: Direction,
        section: &RuleSection,
        old: Option<&Arc<Section>>,
    ) -> Arc<Section> {
        let mut rules = Vec::with_capacity(section.rules.len());
        for (index, rule) in section.rules.iter().enumerate() {
            let held = old.and_then(|old| old.rules.get(index));
            if let Some(held) = held.filter(|held| held.rule == *rule) {
                *self.uses.entry(held.id).or_default() += 1;
                rules.push(Arc::clone(held));
                continue;
            }
            let id = self.next_rule_id();
            self.uses.insert(id, 1);
            let compiled = Arc::new(CompiledRule {
                id,
                reference: RuleRef {
                    key: RulesKey::clone(key),
                    path: rule.path.as_str().into(),
                },
                language: key.language,
                audit,
                rule: rule.clone(),
                http: OnceLock::new(),
            });
            self.numbered
                .insert(id, Numbered::Rule(Arc::clone(&compiled)));
            rules.push(compiled);
        }
        let is_same = |old: &&Arc<Section>| {
            let pairs = old.rules.iter().zip(&rules);
            old.default_deny == section.default_deny
                && old.rules.len() == rules.len()
                && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some(old) = old.filter(is_same) {
            *self.uses.entry(old.id).or_default() += 1;
            return Arc::clone(old);
        }
        let id = self.next_rule_id();
        let reference = RuleRef {
            key: RulesKey::clone(key),
            path: section_path(direction, section).into(),
        };
        self.uses.insert(id, 1);
        self.numbered.insert(id, Numbered::Section(reference));
        Arc::new(Section {
            key: Arc::clone(key),
            audit,
            id,
            default_deny: section.default_deny,
            rules,
        })
    }

    fn next_rule_id(&mut self) -> RuleId {
        loop {
            self.last_rule = self.last_rule.wrapping_add(1).max(1);
            let id = RuleId(self.last_rule);
            if !self.numbered.contains_key(&id) {
                return id;
            }
        }
    }
}

fn direction_index(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

/// Where the section stands, as far as its rules' paths tell.
fn section_path(direction: Direction, section: &RuleSection) -> String {
    let name = direction.name();
    let of_rule = section.rules.first().and_then(|rule| {
        let start = rule.path.find(name)?;
        rule.path.get(..start + name.len())
    });
    of_rule.map_or_else(|| format!("spec.{name}"), str::to_owned)
}
