//! `tulle lab …`: the commands of the lab, spoken as kubectl speaks where both have the command.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use tulle_lab::{
    ALL_NAMESPACES, Changed, Edited, ExecRequest, Kind, Lab, LabConfig, LabError, ManifestText,
    ObjectKey, OutputFormat, UpOptions,
};

use crate::output::{Outcome, print};

/// The arguments of `tulle lab`.
#[derive(Debug, Args)]
pub(crate) struct LabArguments {
    /// The rig's name: several rigs may run on one machine.
    #[arg(long, global = true)]
    rig: Option<String>,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Bring the rig up; what stands already is left alone.
    Up {
        /// The lab's file; two clusters are built in.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Only this cluster (may be given several times).
        #[arg(long = "cluster", value_name = "CLUSTER")]
        clusters: Vec<String>,
        /// Where `node-proxy` and `xds-server` lie, if not beside this program.
        #[arg(long, value_name = "DIR")]
        bin_dir: Option<PathBuf>,
        /// Let each cluster stand alone until `tulle clustermesh enable` and `connect`
        #[arg(long)]
        no_mesh: bool,
    },
    /// Remove the rig, whatever its state.
    Down,
    /// Show clusters, components and links.
    Status,
    /// Make a cluster's objects as manifests say; all of them or none.
    Apply {
        cluster: String,
        /// A file of manifests, or `-` for standard input.
        #[arg(short = 'f', long = "filename", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Delete an object.
    Delete {
        cluster: String,
        /// A kind, or KIND/NAME.
        kind: String,
        names: Vec<String>,
        #[command(flatten)]
        scope: Scope,
        /// Do not complain about an object that is not there.
        #[arg(long)]
        ignore_not_found: bool,
    },
    /// Set (`key=value`) or remove (`key-`) annotations.
    Annotate(EditArguments),
    /// Set (`key=value`) or remove (`key-`) labels.
    Label(EditArguments),
    /// Set the number of replicas of a deployment.
    Scale {
        cluster: String,
        /// A kind and a name, or KIND/NAME.
        #[arg(num_args = 1..=2, required = true)]
        object: Vec<String>,
        #[arg(long)]
        replicas: u32,
        #[command(flatten)]
        scope: Scope,
    },
    /// Run a command in a pod; exit code and streams pass through.
    Exec(ExecArguments),
    /// List objects: pods, services, endpoints, deployments, …
    Get {
        cluster: String,
        /// A kind, or KIND/NAME.
        kind: String,
        name: Option<String>,
        #[command(flatten)]
        scope: Scope,
        /// Objects of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Wait until a deployment has its pods, all of them ready.
    Wait {
        cluster: String,
        /// deployment/NAME or pod/NAME.
        target: String,
        /// Seconds to wait.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        #[command(flatten)]
        scope: Scope,
    },
    /// Print the log of a component or of pod/NAME.
    Logs {
        component: String,
        /// Only this many lines from the end.
        #[arg(long)]
        tail: Option<usize>,
        /// Go on printing what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// Cut or join the wire between two clusters.
    Link {
        a: String,
        b: String,
        state: LinkState,
    },
    /// Let two clusters read each other.
    Connect { a: String, b: String },
    /// Let two clusters forget each other.
    Disconnect { a: String, b: String },
    /// Ask a component to end (SIGTERM); it stays ended.
    Stop { component: String },
    /// Start a component.
    Start {
        component: String,
        /// Where `node-proxy` and `xds-server` lie, if not beside this program.
        #[arg(long, value_name = "DIR")]
        bin_dir: Option<PathBuf>,
    },
    /// Kill a component (SIGKILL) or the programs of pod/NAME.
    Kill { component: String },
    /// Capture what passes the link of a cluster into a pcap file, until standard input ends.
    Capture { cluster: String, file: PathBuf },
    /// Run the pods of a rig; `up` starts this in the background.
    #[command(hide = true)]
    Supervise,
}

#[derive(Debug, Args)]
struct Scope {
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Debug, Args)]
struct EditArguments {
    cluster: String,
    /// A kind (or KIND/NAME), a name, and the changes.
    #[arg(required = true)]
    words: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Accepted as kubectl does; the lab always overwrites.
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Args)]
struct ExecArguments {
    cluster: String,
    /// deployment/NAME, pod/NAME or a pod's name.
    target: String,
    /// The user to run as.
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// The container; the first one if not given.
    #[arg(short, long)]
    container: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// Accepted as kubectl does: standard input always passes through.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Accepted as kubectl does: the terminal always passes through.
    #[arg(short = 't', long)]
    tty: bool,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinkState {
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

/// Runs one command of the lab.
pub(crate) fn run(arguments: LabArguments) -> Outcome<ExitCode> {
    let rig = arguments.rig;
    let name = rig.clone().unwrap_or_else(|| DEFAULT_RIG.to_owned());
    match arguments.command {
        LabCommand::Up {
            file,
            clusters,
            bin_dir,
            no_mesh,
        } => up(UpOptions {
            config: file.map(|path| LabConfig::read(&path)).transpose()?,
            clusters,
            rig,
            binaries: bin_dir,
            no_mesh,
        })?,
        LabCommand::Down => Lab::down(&name)?,
        LabCommand::Supervise => tulle_lab::supervise(&name)?,
        LabCommand::Exec(arguments) => return exec(&Lab::open(&name)?, arguments),
        command => objects(&Lab::open(&name)?, command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(options: UpOptions) -> Outcome<()> {
    print(&Lab::up(options)?.status())
}

/// The commands that are about objects.
fn objects(lab: &Lab, command: LabCommand) -> Outcome<()> {
    match command {
        LabCommand::Apply { cluster, files } => {
            let texts = files
                .iter()
                .map(|path| read_manifest(path))
                .collect::<Result<Vec<_>, _>>()?;
            print_changes(&lab.apply(&cluster, &texts)?)
        }
        LabCommand::Delete {
            cluster,
            kind,
            names,
            scope,
            ignore_not_found,
        } => {
            let words = [vec![kind], names].concat();
            delete(lab, &cluster, &words, &scope, ignore_not_found)
        }
        LabCommand::Annotate(arguments) => edit(lab, arguments, Edited::Annotations),
        LabCommand::Label(arguments) => edit(lab, arguments, Edited::Labels),
        LabCommand::Scale {
            cluster,
            object,
            replicas,
            scope,
        } => {
            let (key, _) = object_key(&object, &scope)?;
            print_changes(&[lab.scale_object(&cluster, &key, replicas)?])
        }
        LabCommand::Get {
            cluster,
            kind,
            name,
            scope,
            all_namespaces,
            output,
        } => {
            let (kind, name) = match (kind.split_once('/'), name) {
                (Some((kind, name)), None) => (kind.to_owned(), Some(name.to_owned())),
                (_, name) => (kind, name),
            };
            let namespace = if all_namespaces {
                ALL_NAMESPACES
            } else {
                &scope.namespace
            };
            let format = output.map_or(OutputFormat::Table, Output::format);
            print(&lab.get(&cluster, &kind, name.as_deref(), Some(namespace), format)?)
        }
        LabCommand::Wait {
            cluster,
            target,
            timeout,
            scope,
        } => {
            let (key, _) = object_key(&[target], &scope)?;
            let deadline = Duration::from_secs(timeout);
            match key.kind {
                Kind::Pod => lab.wait_pod_ready(&cluster, &key, deadline)?,
                _ => lab.wait_ready_object(&cluster, &key, deadline)?,
            }
            print(&format!("{key} condition met\n"))
        }
        other => components(lab, other),
    }
}

/// The commands that are about the rig's own parts.
fn components(lab: &Lab, command: LabCommand) -> Outcome<()> {
    match command {
        LabCommand::Status => print(&lab.status()),
        LabCommand::Logs {
            component,
            tail,
            follow,
        } => logs(lab, &component, tail, follow),
        LabCommand::Link { a, b, state } => {
            Ok(lab.set_link(&a, &b, matches!(state, LinkState::Up))?)
        }
        LabCommand::Connect { a, b } => Ok(lab.connect(&a, &b)?),
        LabCommand::Disconnect { a, b } => Ok(lab.disconnect(&a, &b)?),
        LabCommand::Stop { component } => Ok(lab.stop(&component)?),
        LabCommand::Start { component, bin_dir } => {
            Ok(lab.clone().with_binaries(bin_dir).start(&component)?)
        }
        LabCommand::Kill { component } => Ok(lab.kill(&component)?),
        LabCommand::Capture { cluster, file } => {
            let capture = lab.capture_link(&cluster, &file)?;
            io::copy(&mut io::stdin(), &mut io::sink())?;
            let bytes = capture.finish()?;
            print(&format!("{} bytes in {}\n", bytes.len(), file.display()))
        }
        // The rest was handled before.
        _ => Ok(()),
    }
}

fn exec(lab: &Lab, arguments: ExecArguments) -> Outcome<ExitCode> {
    let request = ExecRequest {
        target: arguments.target,
        namespace: Some(arguments.scope.namespace),
        container: arguments.container,
        user: arguments.user,
        command: arguments.command,
    };
    // This process becomes the command: streams, signals and exit code are the command's own.
    let error = lab.exec_replace(&arguments.cluster, &request);
    eprintln!("error: {}", tulle_lab::describe(&error));
    Ok(ExitCode::from(if error.is_missing_program() {
        NOT_FOUND
    } else {
        CANNOT_RUN
    }))
}

fn delete(
    lab: &Lab,
    cluster: &str,
    words: &[String],
    scope: &Scope,
    ignore_not_found: bool,
) -> Outcome<()> {
    let first = words.first().map(String::as_str).unwrap_or_default();
    let keys = if first.contains('/') {
        let keys = words
            .iter()
            .map(|word| object_key(std::slice::from_ref(word), scope));
        keys.map(|key| key.map(|(key, _)| key))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        let kind = parse_kind(first)?;
        words[1..]
            .iter()
            .map(|name| ObjectKey::new(kind, &scope.namespace, name))
            .collect()
    };
    if keys.is_empty() {
        return Err("no name is given".into());
    }
    for key in keys {
        match lab.delete(cluster, &key) {
            Ok(_) => print(&format!(
                "{} \"{}\" deleted\n",
                key.kind.resource(),
                key.name
            ))?,
            Err(error) if ignore_not_found && error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn edit(lab: &Lab, arguments: EditArguments, what: Edited) -> Outcome<()> {
    let (key, edits) = object_key(&arguments.words, &arguments.scope)?;
    if edits.is_empty() {
        return Err("no change is given: `key=value` sets, `key-` removes".into());
    }
    print_changes(&[lab.edit(&arguments.cluster, &key, what, edits)?])
}

/// Reads `KIND NAME` or `KIND/NAME` from the front of the words.
fn object_key<'w>(words: &'w [String], scope: &Scope) -> Outcome<(ObjectKey, &'w [String])> {
    let first = words.first().map(String::as_str).unwrap_or_default();
    let (kind, name, rest) = match first.split_once('/') {
        Some((kind, name)) => (kind, name, &words[1..]),
        None => {
            let name = words
                .get(1)
                .ok_or_else(|| format!("no name of a {first} is given"))?;
            (first, name.as_str(), &words[2..])
        }
    };
    Ok((
        ObjectKey::new(parse_kind(kind)?, &scope.namespace, name),
        rest,
    ))
}

fn parse_kind(word: &str) -> Result<Kind, LabError> {
    Kind::from_argument(word).ok_or_else(|| LabError::UnknownKind {
        name: word.to_owned(),
        known: Kind::ALL
            .iter()
            .map(|kind| kind.plural().to_owned())
            .collect(),
    })
}

fn read_manifest(path: &Path) -> Result<ManifestText, LabError> {
    let io = |source| LabError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin()).map_err(io)?
    } else {
        std::fs::read_to_string(path).map_err(io)?
    };
    Ok(ManifestText {
        file: path.display().to_string(),
        text,
    })
}

fn logs(lab: &Lab, component: &str, tail: Option<usize>, follow: bool) -> Outcome<()> {
    for path in lab.logs(component)? {
        let mut file = File::open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let skipped = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        for line in &lines[skipped..] {
            print(&format!("{line}\n"))?;
        }
        if follow {
            follow_file(&mut file)?;
        }
    }
    Ok(())
}

/// Prints what is added to a file, until printing fails or the user ends the program.
fn follow_file(file: &mut File) -> Outcome<()> {
    let mut at = file.stream_position()?;
    loop {
        let deadline = std::time::Instant::now() + FOLLOW_LOOK_AGAIN;
        tulle_lab::wait_until(deadline, || {
            file.metadata().is_ok_and(|data| data.len() > at)
        });
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        at += u64::try_from(bytes.len())?;
        io::stdout().write_all(&bytes)?;
        io::stdout().flush()?;
    }
}

fn print_changes(changes: &[Changed]) -> Outcome<()> {
    changes
        .iter()
        .try_for_each(|change| print(&format!("{change}\n")))
}

impl Output {
    fn format(self) -> OutputFormat {
        match self {
            Output::Wide => OutputFormat::Wide,
            Output::Yaml => OutputFormat::Yaml,
            Output::Json => OutputFormat::Json,
            Output::Name => OutputFormat::Name,
        }
    }
}

const DEFAULT_RIG: &str = "lab";
const FOLLOW_LOOK_AGAIN: Duration = Duration::from_secs(1);
/// As a shell: the command is not there.
const NOT_FOUND: u8 = 127;
/// As a shell: the command is there but cannot be run.
const CANNOT_RUN: u8 = 126;
