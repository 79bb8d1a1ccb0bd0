//! Rules about names: who may ask for which, and what the answers mean for rules that allow connections by name.
//!
//! Must not do: decide what a rule means (whoever compiles the rules does), or keep a connection waiting for longer than the compiled
//! rules may take. An answer that gives nothing new to rules waits for nobody.

use std::{
    fs, io,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use hickory_proto::rr::Name;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_model::{Directory, NamePattern, Peer, Peers, Rules};
use tulle_policy::{compiled::LearnedNames, names::matches_name};

use super::learn::{NameLimits, NameTable, Taken, addresses_in};
use crate::metrics::DnsMetrics;

/// Who compiles the rules and decides by them.
pub trait NameRules: Send + Sync + 'static {
    /// Whether a pod may ask for a name.
    fn judge(&self, question: &NameQuestion<'_>) -> NameVerdict;

    /// Ends when the pod's rules are known, or after a bounded time.
    fn settled(&self, pod: IpAddr) -> BoxFuture<'_, ()>;

    /// Makes `names` all that rules know of names; ends when the kernel decides by them, or after a bounded time with `false`.
    fn install(&self, names: LearnedNames) -> BoxFuture<'_, bool>;
}

/// A pod asks a resolver for a name.
#[derive(Debug, Clone, Copy)]
pub struct NameQuestion<'a> {
    /// The pod's address.
    pub pod: IpAddr,
    /// Where the resolver itself listens, behind any service.
    pub resolver: SocketAddr,
    /// The number of UDP or TCP in an IP header.
    pub protocol: u8,
    /// The name, lower case, with its final dot.
    pub name: &'a str,
}

/// Whether a question may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameVerdict {
    /// It may.
    Allowed,
    /// The pod may ask the resolver, but not for this name; the sentence says why.
    Forbidden(String),
    /// The pod may not reach the resolver at all.
    Unreachable(String),
    /// The pod is new, and its rules are not known yet.
    NotYet,
}

/// The names that rules speak of, with the addresses that pods were told.
pub struct NameKeeper {
    rules: Arc<dyn NameRules>,
    directory: crate::published::Published<Directory>,
    metrics: Arc<DnsMetrics>,
    /// Where the names are kept over a restart.
    file: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    table: NameTable,
    /// Counts the changes of the table.
    version: u64,
    /// The last change that the kernel is known to decide by.
    installed: u64,
    /// The file lacks something.
    unsaved: bool,
    /// The patterns of the rules of that directory.
    wanted: (Directory, Arc<[NamePattern]>),
}

impl NameKeeper {
    /// Begins with what `file` holds, if it can be read.
    pub fn new(
        rules: Arc<dyn NameRules>,
        directory: crate::published::Published<Directory>,
        metrics: Arc<DnsMetrics>,
        file: Option<PathBuf>,
        limits: NameLimits,
    ) -> Self {
        let saved = file.as_deref().and_then(|file| load(file, limits));
        let table = saved.unwrap_or_else(|| NameTable::new(limits));
        // What was saved has to be installed like anything that is new.
        let version = u64::from(table.len() > 0);
        NameKeeper {
            rules,
            directory,
            metrics,
            file,
            state: Mutex::new(State {
                table,
                version,
                installed: 0,
                unsaved: false,
                wanted: (Directory::default(), Arc::from([])),
            }),
        }
    }

    /// Whether the pod may ask one of `resolvers` for `name`. A pod without resolvers asks nobody but this proxy.
    pub(crate) fn judge(
        &self,
        pod: Option<IpAddr>,
        resolvers: &[SocketAddr],
        protocol: u8,
        name: &Name,
    ) -> NameVerdict {
        let (Some(pod), false) = (pod, resolvers.is_empty()) else {
            return NameVerdict::Allowed;
        };
        let name = text_of(name);
        let mut refused: Option<NameVerdict> = None;
        for resolver in resolvers {
            let verdict = self.rules.judge(&NameQuestion {
                pod,
                resolver: *resolver,
                protocol,
                name: &name,
            });
            match (verdict, &refused) {
                (verdict @ (NameVerdict::Allowed | NameVerdict::NotYet), _) => return verdict,
                (verdict @ NameVerdict::Forbidden(_), _) => refused = Some(verdict),
                (verdict @ NameVerdict::Unreachable(_), None) => refused = Some(verdict),
                (NameVerdict::Unreachable(_), Some(_)) => {}
            }
        }
        refused.unwrap_or(NameVerdict::Allowed)
    }

    /// Ends when the pod's rules are known, or after a bounded time.
    pub(crate) async fn settled(&self, pod: Option<IpAddr>) {
        if let Some(pod) = pod {
            self.rules.settled(pod).await;
        }
    }

    /// Learns what `answer` says about `asked`; returns when the rules know it, so that the answer may go.
    ///
    /// # Cancel safety
    /// What was learned stays; the next answer has it installed.
    pub(crate) async fn learn(&self, asked: &Name, answer: &[u8]) {
        let name = text_of(asked);
        if !self.is_wanted(&name) {
            return;
        }
        let answered = addresses_in(answer, asked);
        if answered.is_empty() {
            return;
        }
        {
            let mut state = self.state();
            match state.table.take(&name, &answered, SystemTime::now()) {
                Taken::Changed => {
                    state.version += 1;
                    state.unsaved = true;
                }
                Taken::Refreshed => state.unsaved = true,
                Taken::Full => {
                    self.metrics.names_full.inc();
                    return;
                }
            }
        }
        if !self.install().await {
            self.metrics.names_late.inc();
            tracing::warn!(
                name,
                "an answer goes out before the kernel knows its addresses"
            );
        }
    }

    /// Has the rules know the table, if they do not yet; says whether they do now.
    async fn install(&self) -> bool {
        let (names, version) = {
            let state = self.state();
            if state.installed >= state.version {
                return true;
            }
            (state.table.learned(), state.version)
        };
        self.metrics
            .names
            .set(i64::try_from(names.names.len()).unwrap_or(i64::MAX));
        let known = self.rules.install(names).await;
        if known {
            let mut state = self.state();
            state.installed = state.installed.max(version);
        }
        known
    }

    /// Installs what was saved, lets names end when their time is over, and saves them; works until it is cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            if self.state().table.expire(SystemTime::now()) {
                let mut state = self.state();
                state.version += 1;
                state.unsaved = true;
            }
            let _known: bool = self.install().await;
            self.save().await;
            if cancel.run_until_cancelled(sleep(SWEEP)).await.is_none() {
                self.save().await;
                return;
            }
        }
    }

    async fn save(&self) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let text = {
            let mut state = self.state();
            if !std::mem::take(&mut state.unsaved) {
                return;
            }
            state.table.to_text()
        };
        let written = tokio::task::spawn_blocking(move || write(&file, &text)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panicked) => panicked.to_string(),
        };
        tracing::warn!(error, "the names that pods resolved cannot be saved");
        self.state().unsaved = true;
    }

    fn is_wanted(&self, name: &str) -> bool {
        let patterns = {
            let directory = self.directory.snapshot();
            let mut state = self.state();
            if !state.wanted.0.shares_rules(&directory) {
                state.wanted = (Directory::clone(&directory), patterns_of(&directory));
            }
            Arc::clone(&state.wanted.1)
        };
        patterns.iter().any(|pattern| matches_name(pattern, name))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The patterns of all rules that allow connections by name.
fn patterns_of(directory: &Directory) -> Arc<[NamePattern]> {
    let network = directory.rules().filter_map(|rules| match rules.as_ref() {
        Rules::Network(rules) => Some(rules),
        Rules::Authorization(_) => None,
    });
    let sections = network
        .flat_map(|rules| &rules.specs)
        .filter_map(|spec| spec.egress.as_ref());
    let peers = sections
        .flat_map(|section| &section.rules)
        .filter_map(|rule| match &rule.peers {
            Peers::Any => None,
            Peers::OneOf(peers) => Some(peers),
        });
    let mut patterns: Vec<NamePattern> = peers
        .flatten()
        .filter_map(|peer| match peer {
            Peer::Name(pattern) => Some(pattern.clone()),
            Peer::Endpoints(_) | Peer::Entity(_) | Peer::Block { .. } | Peer::Services { .. } => {
                None
            }
        })
        .collect();
    patterns.sort();
    patterns.dedup();
    patterns.into()
}

/// Lower case, with the final dot.
fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

fn load(file: &Path, limits: NameLimits) -> Option<NameTable> {
    let refuse = |error: &dyn std::fmt::Display| {
        tracing::warn!(file = %file.display(), %error, "the names that pods resolved are lost");
    };
    let len = match fs::metadata(file) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            refuse(&error);
            return None;
        }
    };
    if len > FILE_LEN_MAX {
        refuse(&"the file is too long");
        return None;
    }
    let text = fs::read_to_string(file)
        .inspect_err(|error| refuse(error))
        .ok()?;
    let table = NameTable::from_text(&text, limits, SystemTime::now());
    if table.is_none() {
        refuse(&"the file holds something else");
    }
    table
}

/// Beside the file first, so that a reader sees the old names or the new ones.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".tmp");
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&draft, file)
}

/// How late an address may end, and how much a crash may lose.
const SWEEP: Duration = Duration::from_secs(5);
/// Ten thousand names with a dozen addresses each take a tenth of it.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests;
