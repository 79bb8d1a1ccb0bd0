//! Starts a process in a cgroup, a network namespace and a mount namespace of the lab.
//!
//! The namespaces are joined by a thread that lives only for this: its child inherits them. Nothing
//! else of the lab's own process moves.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

use crate::{
    cgroup::{self, CgroupError},
    netns::{self, NamespaceError},
    os::{self, ChildSetup},
    rootfs::{BuildRootError, PodRoot},
};

/// A process could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Its cgroup is not usable.
    #[error("cannot use the cgroup of `{program}`")]
    Cgroup {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// Its network namespace is not usable.
    #[error("cannot use the network namespace of `{program}`")]
    Namespace {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: NamespaceError,
    },
    /// Its file system could not be built.
    #[error("cannot build the file system of `{program}`")]
    Root {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: BuildRootError,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program itself could not be started.
    #[error("cannot run `{program}`")]
    Program {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that starts the process ended without an answer.
    #[error("the start of `{program}` broke off")]
    BrokenOff {
        /// The program.
        program: String,
    },
}

/// Which file system a process sees.
pub(crate) enum Files {
    /// The starter's own.
    Host,
    /// A new one, built for a container.
    Build(PodRoot),
    /// The one of a process that runs already.
    Of(i32),
}

/// Where a process reads and writes.
pub(crate) enum Streams {
    /// Nothing to read; what it writes is appended to a file.
    Log(PathBuf),
    /// Nothing to read; what it writes is thrown away.
    Null,
    /// The caller takes both ends.
    Piped,
    /// The starter's own.
    Inherit,
}

/// A process to be started.
pub(crate) struct Launch {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Its environment: all of it, if it is to have its own.
    pub(crate) environment: Option<Vec<(String, String)>>,
    /// Its cgroup; must exist.
    pub(crate) cgroup: PathBuf,
    /// Its network namespace, if not the starter's.
    pub(crate) namespace: Option<String>,
    /// Its file system.
    pub(crate) files: Files,
    /// Its working directory.
    pub(crate) directory: PathBuf,
    /// The user it becomes.
    pub(crate) user: Option<u32>,
    /// A session of its own.
    pub(crate) new_session: bool,
    /// Where it reads and writes.
    pub(crate) streams: Streams,
}

impl Launch {
    /// A background program of the lab's infrastructure, on the host's file system.
    pub(crate) fn daemon(command: Vec<OsString>, cgroup: PathBuf, log: PathBuf) -> Launch {
        Launch {
            command,
            environment: None,
            cgroup,
            namespace: None,
            files: Files::Host,
            directory: PathBuf::from("/"),
            user: None,
            new_session: true,
            streams: Streams::Log(log),
        }
    }

    /// Starts the process.
    pub(crate) fn spawn(self) -> Result<Child, LaunchError> {
        let program = self.program();
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    let mut command = self.enter()?;
                    command
                        .spawn()
                        .map_err(|source| program_fault(&command, source))
                })
                .join()
                .unwrap_or(Err(LaunchError::BrokenOff { program }))
        })
    }

    /// Lets the calling process become the program. Returns only if that fails.
    pub(crate) fn replace(self) -> LaunchError {
        match self.enter() {
            Ok(mut command) => {
                let source = std::os::unix::process::CommandExt::exec(&mut command);
                program_fault(&command, source)
            }
            Err(error) => error,
        }
    }

    /// Moves the calling thread to where the process shall be.
    fn enter(self) -> Result<Command, LaunchError> {
        let program = self.program();
        cgroup::create(&self.cgroup).map_err(|source| LaunchError::Cgroup {
            program: program.clone(),
            source,
        })?;
        let procs = cgroup::open_procs(&self.cgroup).map_err(|source| LaunchError::Cgroup {
            program: program.clone(),
            source,
        })?;
        // Files of the host are opened before its file system is out of sight.
        let streams = open_streams(self.streams)?;
        if let Some(name) = &self.namespace {
            netns::join(name).map_err(|source| LaunchError::Namespace {
                program: program.clone(),
                source,
            })?;
        }
        match self.files {
            Files::Host => {}
            Files::Build(root) => {
                root.enter().map_err(|source| LaunchError::Root {
                    program: program.clone(),
                    source,
                })?;
            }
            Files::Of(process) => join_mounts(process)?,
        }
        let mut words = self.command.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(&self.directory);
        if let Some(environment) = self.environment {
            command.env_clear().envs(environment);
        }
        if let Some([stdin, stdout, stderr]) = streams {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        let setup = ChildSetup {
            cgroup_procs: Some(OwnedFd::from(procs)),
            new_session: self.new_session,
            user: self.user,
        };
        os::prepare_child(&mut command, setup);
        Ok(command)
    }

    fn program(&self) -> String {
        self.command
            .first()
            .map(|word| word.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// Joins the mount namespace (and the host name) of a process.
fn join_mounts(process: i32) -> Result<(), LaunchError> {
    let open = |kind: &str| {
        let path = PathBuf::from(format!("/proc/{process}/ns/{kind}"));
        File::open(&path).map_err(|source| fault("open", &path, source))
    };
    let (mounts, host_name) = (open("mnt")?, open("uts")?);
    let joined = os::unshare_thread_filesystem()
        .and_then(|()| {
            move_into_link_name_space(
                host_name.as_fd(),
                Some(LinkNameSpaceType::HostNameAndNISDomainName),
            )
        })
        .and_then(|()| move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)));
    let path = PathBuf::from(format!("/proc/{process}/ns/mnt"));
    joined.map_err(|error| fault("enter", &path, error.into()))
}

fn open_streams(streams: Streams) -> Result<Option<[Stdio; 3]>, LaunchError> {
    match streams {
        Streams::Inherit => Ok(None),
        Streams::Null => Ok(Some([Stdio::null(), Stdio::null(), Stdio::null()])),
        Streams::Piped => Ok(Some([Stdio::piped(), Stdio::piped(), Stdio::piped()])),
        Streams::Log(path) => {
            let file = open_log(&path)?;
            let second = file
                .try_clone()
                .map_err(|source| fault("open", &path, source))?;
            Ok(Some([
                Stdio::null(),
                Stdio::from(file),
                Stdio::from(second),
            ]))
        }
    }
}

fn open_log(path: &Path) -> Result<File, LaunchError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| fault("create", parent, source))?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| fault("open", path, source))
}

fn program_fault(command: &Command, source: io::Error) -> LaunchError {
    LaunchError::Program {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> LaunchError {
    LaunchError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
