//! The port set of one subject, direction and far end: which protocol and port meets which rules, and what they say together.
//!
//! Decides as the languages say: in each of them a matching deny wins, then an allow without conditions, then allows with conditions
//! (requests, server names, proofs), then its default; then all languages have to agree. Ranges of ports become prefixes, so that the
//! kernel finds the verdict by one longest match, however many rules there are.

use std::collections::BTreeMap;

use tulle_model::{Language, NamedPort, PortMatch, Ports, Protocol, RuleAction, Transport};

use super::{KernelVerdict, PortEntry, RuleId, rules::CompiledRule};

/// The languages that decide in tables; Istio's decides where the proof is seen.
pub(super) const LANGUAGES: [Language; 2] = [Language::Cilium, Language::Kubernetes];

/// A port set: sorted by protocol, length of the prefix and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PortSet {
    pub(super) entries: Vec<Entry>,
}

/// What holds for the ports of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// 0 = any that has no entry for the port.
    pub(super) protocol: u8,
    pub(super) prefix_len: u8,
    pub(super) port: u16,
    pub(super) cell: Cell,
}

/// What all rules together say about one protocol and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Cell {
    pub(super) outcome: CellOutcome,
    /// What audited policies would change; at most one for each language.
    pub(super) audits: Vec<CellAudit>,
}

/// What the enforced rules say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum CellOutcome {
    /// It may pass, by this rule or since nothing speaks of it.
    Allow(RuleId),
    /// This rule denies it.
    Deny(RuleId),
    /// No rule of the language allows it.
    DefaultDeny(Language),
    /// One rule of each list has to agree with what is asked.
    Conditional(Vec<Vec<RuleId>>),
}

/// What an audited policy would do with what passes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum CellAudit {
    /// Deny it, for one of these reasons.
    Deny(Vec<RuleId>),
    /// Deny it if none of these agrees with what is asked.
    Conditional(Vec<RuleId>),
}

impl PortSet {
    /// What holds for a port: the longest prefix, entries of the protocol before those of any.
    pub(super) fn find(&self, protocol: u8, port: u16) -> Option<&Cell> {
        let of_protocol = (0..=16u8).rev().find_map(|len| {
            let key = (protocol, len, cut(port, len));
            let place = self.entries.binary_search_by_key(&key, Entry::key).ok()?;
            self.entries.get(place)
        });
        let found = match of_protocol {
            Some(entry) => Some(entry),
            None => self.entries.iter().find(|entry| entry.protocol == 0),
        };
        found.map(|entry| &entry.cell)
    }

    pub(super) fn kernel_entries(&self) -> Vec<PortEntry> {
        self.entries.iter().map(Entry::for_kernel).collect()
    }

    /// The language whose default denies everything, if that is all that it says.
    pub(super) fn denies_all(&self) -> Option<Language> {
        match self.entries.as_slice() {
            [entry] if entry.cell.audits.is_empty() => match entry.cell.outcome {
                CellOutcome::DefaultDeny(language) => Some(language),
                CellOutcome::Allow(_) | CellOutcome::Deny(_) | CellOutcome::Conditional(_) => None,
            },
            _ => None,
        }
    }

    /// Nothing speaks of any port.
    pub(super) fn allows_all(&self) -> bool {
        match self.entries.as_slice() {
            [entry] => {
                entry.cell.audits.is_empty()
                    && entry.cell.outcome == CellOutcome::Allow(RuleId::NONE)
            }
            _ => false,
        }
    }
}

impl Entry {
    fn key(&self) -> (u8, u8, u16) {
        (self.protocol, self.prefix_len, self.port)
    }

    fn for_kernel(&self) -> PortEntry {
        let asks_audit = |audit: &CellAudit| matches!(audit, CellAudit::Conditional(_));
        let (verdict, rule) = match &self.cell.outcome {
            // Only a proxy can audit requests, and TCP passes it without any difference to the application.
            CellOutcome::Allow(rule)
                if self.protocol == TCP && self.cell.audits.iter().any(asks_audit) =>
            {
                (KernelVerdict::L7, *rule)
            }
            CellOutcome::Allow(rule) => (KernelVerdict::Allow, *rule),
            CellOutcome::Deny(rule) => (KernelVerdict::Deny, *rule),
            CellOutcome::DefaultDeny(_) => (KernelVerdict::Deny, RuleId::NONE),
            CellOutcome::Conditional(lists) => {
                let first = lists.first().and_then(|list| list.first());
                (KernelVerdict::L7, first.copied().unwrap_or_default())
            }
        };
        let audit = self.cell.audits.iter().find_map(|audit| match audit {
            CellAudit::Deny(rules) => rules.first().copied(),
            CellAudit::Conditional(_) => None,
        });
        PortEntry {
            protocol: self.protocol,
            port: self.port,
            prefix_len: self.prefix_len,
            verdict,
            rule,
            audit: audit.unwrap_or_default(),
        }
    }
}

/// What holds where no rule matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    /// For each of `LANGUAGES`: an enforced policy denies by default.
    pub(super) denies: [bool; 2],
    /// For each of `LANGUAGES`: the sections of audited policies that would deny by default.
    pub(super) audits: [Vec<RuleId>; 2],
}

/// Makes the port set of rules that all mean the far end.
pub(super) fn compile(
    rules: &[&CompiledRule],
    defaults: &Defaults,
    named: impl Fn(&str) -> Option<NamedPort>,
) -> PortSet {
    let mut spans: BTreeMap<u8, Vec<Span>> = BTreeMap::new();
    let mut everywhere = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if rule.rule.ports.is_empty() {
            everywhere.push(index);
        }
        for wanted in &rule.rule.ports {
            for (protocol, first, last) in spans_of(wanted, &named) {
                let span = Span { first, last, index };
                spans.entry(protocol).or_default().push(span);
            }
        }
    }
    let judge = |active: &mut dyn Iterator<Item = usize>| {
        let matching: Vec<&CompiledRule> = active.filter_map(|i| rules.get(i).copied()).collect();
        judge(&matching, defaults)
    };
    let base = judge(&mut everywhere.iter().copied());
    let mut entries = vec![Entry {
        protocol: 0,
        prefix_len: 0,
        port: 0,
        cell: base.clone(),
    }];
    for (protocol, spans) in spans {
        let segments = segments_of(&spans, &everywhere, &judge);
        add_protocol(&mut entries, protocol, &base, segments);
    }
    entries.sort_unstable_by_key(Entry::key);
    PortSet { entries }
}

/// Ports that a rule names.
struct Span {
    first: u16,
    last: u16,
    index: usize,
}

/// The protocols with their ports that a rule means.
fn spans_of(
    wanted: &PortMatch,
    named: impl Fn(&str) -> Option<NamedPort>,
) -> impl Iterator<Item = (u8, u16, u16)> {
    let protocols: &[u8] = match wanted.transport {
        Transport::AnyWithPorts => &[TCP, UDP, SCTP],
        Transport::Tcp => &[TCP],
        Transport::Udp => &[UDP],
        Transport::Sctp => &[SCTP],
        Transport::IcmpV4 => &[ICMP_V4],
        Transport::IcmpV6 => &[ICMP_V6],
    };
    let (ports, only) = match &wanted.ports {
        Ports::All => (Some((0, u16::MAX)), None),
        Ports::Range(first, last) => ((first <= last).then_some((*first, *last)), None),
        Ports::Named(name) => match named(name) {
            Some(NamedPort { port, protocol }) => (Some((port, port)), Some(number_of(protocol))),
            None => (None, None),
        },
    };
    let protocols = protocols.iter().copied();
    protocols
        .filter(move |protocol| only.is_none_or(|only| only == *protocol))
        .filter_map(move |protocol| ports.map(|(first, last)| (protocol, first, last)))
}

fn number_of(protocol: Protocol) -> u8 {
    protocol.number()
}

/// The whole range of ports in pieces in which the same rules match, with what they say.
fn segments_of(
    spans: &[Span],
    everywhere: &[usize],
    judge: &impl Fn(&mut dyn Iterator<Item = usize>) -> Cell,
) -> Vec<(u16, u16, Cell)> {
    // Port 65536 ends what port 65535 is in.
    let mut events: BTreeMap<u32, Vec<(bool, usize)>> = BTreeMap::from([(0, Vec::new())]);
    for span in spans {
        let start = events.entry(u32::from(span.first)).or_default();
        start.push((true, span.index));
        let end = events.entry(u32::from(span.last) + 1).or_default();
        end.push((false, span.index));
    }
    // A rule may name a port several times.
    let mut active: BTreeMap<usize, usize> = everywhere.iter().map(|i| (*i, 1)).collect();
    let mut segments: Vec<(u16, u16, Cell)> = Vec::new();
    let starts: Vec<u32> = events.keys().copied().collect();
    let ends = starts.iter().skip(1).copied().chain([PORTS_LEN]);
    for (start, end) in starts.iter().zip(ends) {
        for (begins, index) in events.get(start).into_iter().flatten() {
            let count = active.entry(*index).or_default();
            if *begins {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    active.remove(index);
                }
            }
        }
        let (Ok(first), Some(Ok(last))) =
            (u16::try_from(*start), end.checked_sub(1).map(u16::try_from))
        else {
            continue;
        };
        let cell = judge(&mut active.keys().copied());
        match segments.last_mut() {
            Some((_, before, held)) if *held == cell => *before = last,
            Some(_) | None => segments.push((first, last, cell)),
        }
    }
    segments
}

/// Adds what a protocol's ports say that `any` does not say already.
fn add_protocol(
    entries: &mut Vec<Entry>,
    protocol: u8,
    any: &Cell,
    segments: Vec<(u16, u16, Cell)>,
) {
    let pieces: Vec<(Vec<(u16, u8)>, Cell)> = segments
        .into_iter()
        .map(|(first, last, cell)| (prefixes(first, last), cell))
        .collect();
    // What would take the most entries becomes the protocol's default.
    let mut costs: Vec<(&Cell, usize)> = Vec::new();
    for (prefixes, cell) in &pieces {
        match costs
            .iter_mut()
            .take(COMPARED_MAX)
            .find(|(held, _)| *held == cell)
        {
            Some((_, cost)) => *cost += prefixes.len(),
            None => costs.push((cell, prefixes.len())),
        }
    }
    let base = costs.iter().max_by_key(|(_, cost)| *cost);
    let Some(base) = base.map(|(cell, _)| (*cell).clone()) else {
        return;
    };
    let entry = |port, prefix_len, cell: &Cell| Entry {
        protocol,
        prefix_len,
        port,
        cell: cell.clone(),
    };
    if base != *any {
        entries.push(entry(0, 0, &base));
    }
    for (prefixes, cell) in &pieces {
        if *cell != base {
            entries.extend(prefixes.iter().map(|(port, len)| entry(*port, *len, cell)));
        }
    }
}

/// A range of ports as the fewest prefixes.
fn prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    let mut prefixes = Vec::new();
    let mut at = u32::from(first);
    let end = u32::from(last) + 1;
    while at < end {
        // As many low bits as are zero in `at` and as still fit.
        let aligned = at.trailing_zeros().min(16);
        let fitting = (end - at).ilog2();
        let bits = aligned.min(fitting);
        let (Ok(port), Ok(bits_len)) = (u16::try_from(at), u8::try_from(bits)) else {
            break;
        };
        prefixes.push((port, 16 - bits_len));
        at += 1 << bits;
    }
    prefixes
}

/// The port with all but its leading bits cleared.
fn cut(port: u16, len: u8) -> u16 {
    let mask = u16::MAX.checked_shl(16 - u32::from(len)).unwrap_or(0);
    port & mask
}

/// What one language says.
enum Said {
    Silent,
    Allow(RuleId),
    Deny(RuleId),
    DefaultDeny,
    Conditional(Vec<RuleId>),
}

fn said_by(rules: &[&CompiledRule], language: Language, audit: bool, denies: bool) -> Said {
    let counted = rules
        .iter()
        .filter(|rule| rule.language == language && (audit || !rule.audit));
    let mut allow = None;
    let mut conditional = Vec::new();
    for rule in counted {
        match rule.rule.action {
            RuleAction::Deny => return Said::Deny(rule.id),
            RuleAction::Allow if rule.is_conditional() => conditional.push(rule.id),
            RuleAction::Allow => {
                allow.get_or_insert(rule.id);
            }
        }
    }
    match allow {
        Some(rule) => Said::Allow(rule),
        None if !conditional.is_empty() => Said::Conditional(conditional),
        None if denies => Said::DefaultDeny,
        None => Said::Silent,
    }
}

/// What all languages say together about what these rules match.
fn judge(rules: &[&CompiledRule], defaults: &Defaults) -> Cell {
    let mut denied = None;
    let mut by_default = None;
    let mut allowed = None;
    let mut lists = Vec::new();
    let mut audits = Vec::new();
    let languages = LANGUAGES.into_iter().zip(&defaults.denies);
    for ((language, denies), audited) in languages.zip(&defaults.audits) {
        match said_by(rules, language, false, *denies) {
            Said::Deny(rule) => {
                denied.get_or_insert(rule);
            }
            Said::DefaultDeny => {
                by_default.get_or_insert(language);
            }
            Said::Allow(rule) => {
                allowed.get_or_insert(rule);
            }
            Said::Conditional(list) => lists.push(list),
            Said::Silent => {}
        }
        audits.extend(audit_of(rules, language, *denies, audited));
    }
    let outcome = match (denied, by_default) {
        (Some(rule), _) => CellOutcome::Deny(rule),
        (None, Some(language)) => CellOutcome::DefaultDeny(language),
        (None, None) if !lists.is_empty() => CellOutcome::Conditional(lists),
        (None, None) => CellOutcome::Allow(allowed.unwrap_or_default()),
    };
    if matches!(outcome, CellOutcome::Deny(_) | CellOutcome::DefaultDeny(_)) {
        audits.clear();
    }
    Cell { outcome, audits }
}

/// What a language would say differently if its audited policies were enforced, as far as that denies more.
fn audit_of(
    rules: &[&CompiledRule],
    language: Language,
    denies: bool,
    audited: &[RuleId],
) -> Option<CellAudit> {
    let is_audited = |rule: &&&CompiledRule| rule.audit && rule.language == language;
    if audited.is_empty() && !rules.iter().any(|rule| is_audited(&rule)) {
        return None;
    }
    match said_by(rules, language, true, denies || !audited.is_empty()) {
        Said::Deny(rule) => Some(CellAudit::Deny(vec![rule])),
        Said::DefaultDeny if !denies => Some(CellAudit::Deny(audited.to_vec())),
        // What enforced rules ask for already is not asked for twice.
        Said::Conditional(list) => {
            let enforced = said_by(rules, language, false, denies);
            matches!(enforced, Said::Silent).then_some(CellAudit::Conditional(list))
        }
        Said::DefaultDeny | Said::Allow(_) | Said::Silent => None,
    }
}

/// Protocol numbers (IANA).
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
/// How many ports a protocol has.
const PORTS_LEN: u32 = 1 << 16;
/// Among how many different verdicts of one protocol the most frequent is looked for.
const COMPARED_MAX: usize = 64;
