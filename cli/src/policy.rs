//! `tulle policy …`: whether policies can be read, which there are, and what they make of a connection.

use std::{fs, io::Read as _, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tulle_model::ClusterName;
use tulle_policy::{DefaultCluster, ReadPolicy, ReadSettings, read_policy_file};
use tulle_wire::management::{
    ExplainQuestion, ExplainRequest, ExplainedEnd, Explanation, PolicySummary, path,
};

use crate::{
    NOT_WELL,
    client::{CallError, Client},
    context::ContextArguments,
    output::{Format, Outcome, print, print_json, row, table, yes},
};

/// The arguments of `tulle policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    #[command(flatten)]
    context: ContextArguments,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Check that policies say only what the mesh can do; asks no cluster
    Validate {
        /// A file with policies; - is standard input
        #[arg(short, long = "filename", value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        place: PlaceArguments,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// List the policies of the cluster
    List {
        /// Only those of this namespace
        #[arg(short, long)]
        namespace: Option<String>,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Say whether one may ask the other, which policies decide that at both ends, and what is missing
    Explain(ExplainArguments),
}

/// Where policies will stand: what some of their parts mean depends on it.
#[derive(Debug, Args)]
struct PlaceArguments {
    /// The cluster that they are for
    #[arg(long, value_name = "NAME", default_value = "local")]
    cluster: ClusterName,
    /// Whose pods a selector means that names no cluster, as the xds-server is set up
    #[arg(long, value_enum, value_name = "CLUSTERS", default_value_t)]
    default_cluster: SelectedClusters,
}

/// The clusters of a selector that names none.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SelectedClusters {
    /// All of the mesh
    #[default]
    Any,
    /// The policy's own
    Local,
}

impl From<&PlaceArguments> for ReadSettings {
    fn from(place: &PlaceArguments) -> Self {
        ReadSettings {
            cluster: place.cluster.clone(),
            default_cluster: match place.default_cluster {
                SelectedClusters::Any => DefaultCluster::Any,
                SelectedClusters::Local => DefaultCluster::Local,
            },
        }
    }
}

#[derive(Debug, Args)]
struct ExplainArguments {
    /// Who asks: [NAMESPACE/]POD, [NAMESPACE/]deploy/NAME or an address
    source: String,
    /// Who is asked: the same, [NAMESPACE/]svc/NAME or a DNS name, with :PORT
    destination: String,
    /// tcp, udp or sctp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// A request: "GET /path", or a path
    #[arg(long, value_name = "REQUEST")]
    http: Option<String>,
    /// With --http: a header
    #[arg(long = "header", value_name = "NAME:VALUE", requires = "http")]
    headers: Vec<String>,
    /// With --http: the host that the client writes
    #[arg(long, value_name = "HOST", requires = "http")]
    host: Option<String>,
    /// The name in the TLS hello
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs one command.
pub(crate) fn run(arguments: &PolicyArguments) -> Outcome<ExitCode> {
    match &arguments.command {
        PolicyCommand::Validate {
            files,
            place,
            output,
        } => validate(files, &place.into(), *output),
        PolicyCommand::List { namespace, output } => {
            let client = Client::new(arguments.context.target()?)?;
            let mut policies: Vec<PolicySummary> = client.get(path::POLICIES)?;
            policies.retain(|policy| {
                let is_in = |namespace: &String| *namespace == policy.namespace;
                namespace.as_ref().is_none_or(is_in)
            });
            match output {
                Format::Json => print_json(&policies)?,
                Format::Summary => print(&list(&policies))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        PolicyCommand::Explain(question) => {
            let client = Client::new(arguments.context.target()?)?;
            let asked = client.ask(path::EXPLAIN, &question.question()?);
            let explained: Explanation = match asked {
                Ok(explained) => explained,
                Err(CallError::Refused { sentence, .. }) => return Err(sentence.into()),
                Err(error) => return Err(error.into()),
            };
            match question.output {
                Format::Json => print_json(&explained)?,
                Format::Summary => print(&describe(&explained))?,
            }
            Ok(if explained.outcome == "allow" {
                ExitCode::SUCCESS
            } else {
                NOT_WELL.into()
            })
        }
    }
}

impl ExplainArguments {
    fn question(&self) -> Outcome<ExplainQuestion> {
        let (destination, port) = split_port(&self.destination)?;
        let http = self.http.as_deref().map(|http| {
            let (method, path) = http.split_once(' ').unwrap_or(("GET", http));
            let headers = self.headers.iter().map(|header| {
                let (name, value) = header
                    .split_once(':')
                    .ok_or_else(|| format!("{header:?} is not a header: expected NAME:VALUE"))?;
                Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            });
            let headers: Result<Vec<_>, String> = headers.collect();
            headers.map(|headers| ExplainRequest {
                method: method.to_owned(),
                path: path.to_owned(),
                host: self.host.clone().unwrap_or_else(|| destination.clone()),
                headers,
            })
        });
        Ok(ExplainQuestion {
            source: self.source.clone(),
            http: http.transpose()?,
            destination,
            port,
            protocol: self.protocol.to_ascii_lowercase(),
            server_name: self.server_name.clone(),
        })
    }
}

/// `NAME:PORT`, `[ADDRESS]:PORT`, or without a port: then 80, as a browser has it.
fn split_port(text: &str) -> Outcome<(String, u16)> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok((text.to_owned(), DEFAULT_PORT));
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return Ok((text.to_owned(), DEFAULT_PORT));
    };
    let port = port
        .parse()
        .map_err(|_| format!("{text:?} has no port: expected NAME:PORT"))?;
    let name = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(name);
    Ok((name.to_owned(), port))
}

/// What became of one document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    file: String,
    document: usize,
    policy: Option<String>,
    error: Option<String>,
    warnings: Vec<String>,
}

fn validate(files: &[PathBuf], settings: &ReadSettings, output: Format) -> Outcome<ExitCode> {
    let mut checked = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = read(file).map_err(|error| format!("cannot read {name}: {error}"))?;
        checked.extend(check(&name, &text, settings));
    }
    match output {
        Format::Json => print_json(&checked)?,
        Format::Summary => print(&report(&checked))?,
    }
    let is_well = !checked.is_empty() && checked.iter().all(|one| one.error.is_none());
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        NOT_WELL.into()
    })
}

fn read(file: &PathBuf) -> std::io::Result<String> {
    if file.as_os_str() != "-" {
        return fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn check(file: &str, text: &str, settings: &ReadSettings) -> Vec<Checked> {
    let documents = read_policy_file(text, settings).into_iter();
    documents
        .map(|(document, read)| {
            let (policy, error, warnings) = match &read {
                Ok(policy) => (Some(name_of(policy)), None, policy.warnings().to_vec()),
                Err(error) => (None, Some(error.to_string()), Vec::new()),
            };
            Checked {
                file: file.to_owned(),
                document,
                policy,
                error,
                warnings,
            }
        })
        .collect()
}

fn name_of(policy: &ReadPolicy) -> String {
    match policy {
        ReadPolicy::Rules(read) => read.rules.key.to_string(),
        ReadPolicy::Authorization(converted) => format!("istio/{}", converted.authorization.key()),
        ReadPolicy::PeerAuthentication(_) => "a PeerAuthentication".to_owned(),
    }
}

fn report(checked: &[Checked]) -> String {
    if checked.is_empty() {
        return "No policies found\n".to_owned();
    }
    let mut text = String::new();
    for one in checked {
        let place = format!("{}, document {}", one.file, one.document);
        match (&one.policy, &one.error) {
            (_, Some(error)) => text += &format!("{place}: {error}\n"),
            (Some(policy), None) => text += &format!("{place}: {policy} can be used\n"),
            (None, None) => {}
        }
        for warning in &one.warnings {
            text += &format!("{place}: warning: {warning}\n");
        }
    }
    text
}

fn list(policies: &[PolicySummary]) -> String {
    if policies.is_empty() {
        return "No policies found\n".to_owned();
    }
    let mut rows = vec![row([
        "LANGUAGE",
        "NAMESPACE",
        "NAME",
        "PODS",
        "INGRESS",
        "EGRESS",
        "AUDIT",
    ])];
    let count = |rules: Option<usize>| match rules {
        Some(rules) => format!("{rules} rules"),
        None => "-".to_owned(),
    };
    rows.extend(policies.iter().map(|policy| {
        vec![
            policy.language.clone(),
            policy.namespace.clone(),
            policy.name.clone(),
            policy.subjects.to_string(),
            count(policy.ingress),
            count(policy.egress),
            yes(policy.audit).to_owned(),
        ]
    }));
    table(0, &rows)
}

fn describe(explained: &Explanation) -> String {
    let word = match explained.outcome.as_str() {
        "allow" => "may ask",
        "deny" => "may not ask",
        "depends" => "may, depending on what it asks, ask",
        _ => "may, as far as this cluster knows, ask",
    };
    let mut text = format!("{} {word} {}\n", explained.source, explained.destination);
    for end in &explained.ends {
        text += &describe_end(end);
    }
    text
}

fn describe_end(end: &ExplainedEnd) -> String {
    let mut text = format!("  {} at {}: {}\n", end.direction, end.subject, end.because);
    if let Some(missing) = &end.missing {
        text += &format!("    missing: {missing}\n");
    }
    for audited in &end.audited {
        text += &format!("    audited: {audited} would deny it\n");
    }
    text
}

/// Where no port is given.
const DEFAULT_PORT: u16 = 80;

#[cfg(test)]
mod tests;
