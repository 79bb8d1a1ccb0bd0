//! `connect` and `disconnect`: what each cluster gets to know of the other, and in which order.
//!
//! First everything is asked and checked, then everything is ordered: a connection that cannot be is refused before any cluster
//! was changed.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;
use tulle_wire::management::{
    Access, Changed, ClusterStatus, PeerAccess, RemoteCluster, RemoteState, path,
};

use super::code;
use crate::{
    client::{CallError, Client},
    context::ContextArguments,
    output::{Format, Outcome, print, print_json},
    wait::WaitArguments,
};

#[derive(Debug, Args)]
pub(super) struct ConnectArguments {
    /// The other clusters' contexts
    #[arg(long = "destination-context", value_name = "NAME", value_delimiter = ',', required = true, num_args = 1..)]
    destinations: Vec<String>,
    /// Who gets to read whom
    #[arg(long, value_enum, default_value_t)]
    connection_mode: Mode,
    /// Where this cluster's etcd is reached by the others, if not where it says
    #[arg(long = "source-endpoint", value_name = "URL", value_delimiter = ',')]
    source_endpoints: Vec<String>,
    /// Where the other cluster's etcd is reached, if not where it says; for one destination
    #[arg(
        long = "destination-endpoint",
        value_name = "URL",
        value_delimiter = ','
    )]
    destination_endpoints: Vec<String>,
    /// Give new credentials also where a connection works
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    wait: WaitArguments,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Who gets to read whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// This cluster reads the others
    Unicast,
    /// This cluster and each of the others read each other
    #[default]
    Bidirectional,
    /// All of them read each other
    Mesh,
}

#[derive(Debug, Args)]
pub(super) struct DisconnectArguments {
    /// The other clusters' contexts; each forgets this cluster, and this one forgets them
    #[arg(long = "destination-context", value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    destinations: Vec<String>,
    /// Clusters that only this one shall forget, by name: they may be gone
    #[arg(long = "destination-cluster", value_name = "CLUSTER", value_delimiter = ',', num_args = 1.., required_unless_present = "destinations")]
    clusters: Vec<String>,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A cluster that takes part.
struct Party {
    client: Client,
    access: Access,
    status: ClusterStatus,
    /// Where its etcd is reached, if not where it says.
    endpoints: Vec<String>,
}

impl Party {
    fn ask(client: Client, endpoints: &[String]) -> Result<Party, CallError> {
        Ok(Party {
            access: client.get(path::ACCESS)?,
            status: client.get(path::STATUS)?,
            endpoints: endpoints.to_vec(),
            client,
        })
    }

    fn name(&self) -> &str {
        &self.access.cluster
    }

    /// Where its etcd is reached.
    fn endpoints(&self) -> &[String] {
        if self.endpoints.is_empty() {
            &self.access.endpoints
        } else {
            &self.endpoints
        }
    }

    /// Whether it reads `other` well, at the same place.
    fn reads(&self, other: &Party) -> bool {
        let mut remotes = self.status.remotes.iter();
        remotes.any(|remote| {
            let same = remote.endpoints.is_empty() || remote.endpoints == other.endpoints();
            let works = matches!(remote.state, RemoteState::Ready | RemoteState::Syncing);
            remote.name == other.name() && same && works
        })
    }
}

pub(super) fn connect(
    context: &ContextArguments,
    arguments: &ConnectArguments,
) -> Outcome<ExitCode> {
    let several = arguments.destinations.len() > 1;
    if several && !arguments.destination_endpoints.is_empty() {
        return Err("--destination-endpoint is for one --destination-context".into());
    }
    let tell = Teller(arguments.output);
    let mut parties = Vec::new();
    let source = Client::new(context.target()?)?;
    parties.push(gather(source, &arguments.source_endpoints, tell)?);
    for destination in &arguments.destinations {
        let client = Client::new(context.other(destination)?)?;
        parties.push(gather(client, &arguments.destination_endpoints, tell)?);
    }
    let pairs = pairs(arguments.connection_mode, parties.len());
    check(&parties, &pairs)?;
    let mut connections = Vec::new();
    for &(reader, read) in &pairs {
        let (reader, read) = (&parties[reader], &parties[read]);
        let fresh = arguments.rotate || !reader.reads(read);
        let changed = fresh && introduce(reader, read, tell)?;
        if !fresh {
            let (reader, read) = (reader.name(), read.name());
            tell.line(&format!(
                "ℹ️  Cluster {reader} is connected to cluster {read} already"
            ))?;
        }
        connections.push(json!({
            "cluster": reader.name(), "reads": read.name(), "changed": changed,
        }));
    }
    let well = !arguments.wait.wait || wait(&parties, &pairs, arguments.wait)?;
    let names: Vec<&str> = parties.iter().map(Party::name).collect();
    if well {
        tell.line(&format!("✅ Connected cluster {}!", names.join(" and ")))?;
    } else {
        tell.line("❌ Connected, but not all clusters read each other yet; `tulle clustermesh status` says why")?;
    }
    if arguments.output == Format::Json {
        print_json(&json!({ "connections": connections, "ready": well }))?;
    }
    Ok(code(well))
}

/// Who (index) reads whom.
fn pairs(mode: Mode, parties: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for destination in 1..parties {
        pairs.push((0, destination));
        if mode != Mode::Unicast {
            pairs.push((destination, 0));
        }
    }
    if mode == Mode::Mesh {
        for a in 1..parties {
            pairs.extend((1..parties).filter(|b| *b != a).map(|b| (a, b)));
        }
    }
    pairs
}

fn gather(client: Client, endpoints: &[String], tell: Teller) -> Outcome<Party> {
    tell.line(&format!(
        "✨ Extracting access information of cluster {}...",
        client.name()
    ))?;
    let party = Party::ask(client, endpoints)?;
    let endpoints = party.endpoints().join(", ");
    tell.line(&format!(
        "ℹ️  Found endpoints of cluster {}: [{endpoints}]",
        party.name()
    ))?;
    Ok(party)
}

/// What would never work is refused before anything is changed.
fn check(parties: &[Party], pairs: &[(usize, usize)]) -> Outcome<()> {
    for (index, a) in parties.iter().enumerate() {
        for b in &parties[..index] {
            let (name, id) = (a.name(), a.access.cluster_id);
            if name == b.name() {
                return Err(format!(
                    "contexts {} and {} are both cluster {name}: a cluster cannot be connected with itself or with one of its name",
                    b.client.name(),
                    a.client.name()
                )
                .into());
            }
            if id == b.access.cluster_id {
                return Err(format!(
                    "clusters {} and {name} have the same id {id}: ids must differ in a mesh",
                    b.name()
                )
                .into());
            }
        }
    }
    for &(_, read) in pairs {
        let party = &parties[read];
        if !party.access.publishing {
            return Err(format!(
                "cluster {} is not enabled: run `tulle clustermesh enable --context {}` first",
                party.name(),
                party.client.name()
            )
            .into());
        }
    }
    for &(reader, read) in pairs {
        let (reader, read) = (&parties[reader], &parties[read]);
        let mut remotes = reader.status.remotes.iter();
        let taken = remotes.find(|remote| {
            remote.cluster_id == Some(read.access.cluster_id) && remote.name != read.name()
        });
        if let Some(taken) = taken {
            return Err(format!(
                "cluster {} already knows cluster {} with the id {} of {}: ids must differ in a mesh",
                reader.name(),
                taken.name,
                read.access.cluster_id,
                read.name()
            )
            .into());
        }
    }
    Ok(())
}

/// Lets `reader` read `read`; says whether that is new.
fn introduce(reader: &Party, read: &Party, tell: Teller) -> Outcome<bool> {
    let (reader_name, read_name) = (reader.name(), read.name());
    tell.line(&format!(
        "🔑 Extracting credentials of cluster {read_name} for {reader_name}..."
    ))?;
    let peer = format!("{}/{reader_name}", path::PEERS);
    let given: PeerAccess = read.client.order(Method::POST, &peer)?;
    if reader.access.bundle != read.access.bundle {
        tell.line(&format!(
            "ℹ️  Trust domain {} has roots of its own; they come with the connection",
            read.access.trust_domain
        ))?;
    }
    tell.line(&format!(
        "ℹ️  Configuring cluster {reader_name} to connect to cluster {read_name}"
    ))?;
    let remote = RemoteCluster {
        name: read_name.to_owned(),
        kind: None,
        endpoints: read.endpoints().to_vec(),
        ca: given.access.ca,
        cert: given.cert,
        key: given.key,
        server_name: None,
    };
    let place = format!("{}/{read_name}", path::REMOTES);
    let changed: Changed = reader.client.put(&place, &remote)?;
    Ok(changed.changed)
}

/// Waits until every connection is ready.
fn wait(parties: &[Party], pairs: &[(usize, usize)], wait: WaitArguments) -> Outcome<bool> {
    for &(reader, read) in pairs {
        let (reader, read) = (&parties[reader], &parties[read]);
        let ask = || reader.client.get::<ClusterStatus>(path::STATUS);
        let ready = |status: &ClusterStatus| {
            let mut remotes = status.remotes.iter();
            remotes.any(|r| r.name == read.name() && r.state == RemoteState::Ready)
        };
        let (_, done) = wait.until(&reader.client, ask, ready)?;
        if !done {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn disconnect(
    context: &ContextArguments,
    arguments: &DisconnectArguments,
) -> Outcome<ExitCode> {
    let tell = Teller(arguments.output);
    let source = Client::new(context.target()?)?;
    let source_name = source.get::<ClusterStatus>(path::STATUS)?.cluster;
    let mut answers = Vec::new();
    let mut forgotten = arguments.clusters.clone();
    for destination in &arguments.destinations {
        let client = Client::new(context.other(destination)?)?;
        let name = client.get::<ClusterStatus>(path::STATUS)?.cluster;
        let changed = forget(&client, &source_name)?;
        answers.push(json!({"cluster": name, "forgets": source_name, "changed": changed}));
        forgotten.push(name);
    }
    for name in forgotten {
        let changed = forget(&source, &name)?;
        let verb = if changed {
            "Disconnected"
        } else {
            "Not connected:"
        };
        tell.line(&format!("✅ {verb} cluster {source_name} and {name}"))?;
        answers.push(json!({"cluster": source_name, "forgets": name, "changed": changed}));
    }
    if arguments.output == Format::Json {
        print_json(&json!({ "connections": answers }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets a cluster forget another one, and ends what it gave to it; says whether it knew it.
fn forget(client: &Client, other: &str) -> Outcome<bool> {
    let remote: Changed = client.order(Method::DELETE, &format!("{}/{other}", path::REMOTES))?;
    let peer: Changed = client.order(Method::DELETE, &format!("{}/{other}", path::PEERS))?;
    Ok(remote.changed || peer.changed)
}

/// Tells people how it goes; programs get one answer at the end.
#[derive(Debug, Clone, Copy)]
struct Teller(Format);

impl Teller {
    fn line(self, text: &str) -> Outcome<()> {
        match self.0 {
            Format::Summary => print(&format!("{text}\n")),
            Format::Json => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_whom() {
        assert_eq!(pairs(Mode::Unicast, 3), [(0, 1), (0, 2)]);
        assert_eq!(pairs(Mode::Bidirectional, 2), [(0, 1), (1, 0)]);
        assert_eq!(
            pairs(Mode::Bidirectional, 3),
            [(0, 1), (1, 0), (0, 2), (2, 0)]
        );
        let mut mesh = pairs(Mode::Mesh, 3);
        mesh.sort_unstable();
        assert_eq!(mesh, [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
    }
}
