//! The probes of a running container: when they ask, and what their answers do.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    super::{
        probe::{self, Question, Rhythm},
        view::State,
    },
    Keeper, image,
    process::wait_for_child,
};
use crate::launch::{Files, Launch, Streams};

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Startup => "Startup",
            Purpose::Liveness => "Liveness",
            Purpose::Readiness => "Readiness",
        }
    }
}

impl Keeper<'_> {
    pub(super) fn probe(&self, purpose: Purpose) -> Option<(Question, Rhythm)> {
        let probe = match purpose {
            Purpose::Startup => &self.container.startup_probe,
            Purpose::Liveness => &self.container.liveness_probe,
            Purpose::Readiness => &self.container.readiness_probe,
        };
        let [address, _] = self.pod.addresses();
        probe::understand(self.container, probe.as_ref()?, address)
    }

    /// The life of one probe: as long as the run.
    pub(super) fn ask_again_and_again(
        &self,
        purpose: Purpose,
        question: &Question,
        rhythm: &Rhythm,
        number: i32,
    ) {
        let shared = &self.pod.shared;
        let is_over =
            |state: &State| state.stopping || state.runs.get(self.index).is_none_or(|run| run.over);
        if purpose != Purpose::Startup {
            // Until the startup probe is content, the others hold their peace.
            shared.wait_until(None, |state| {
                is_over(state)
                    || state
                        .view
                        .containers
                        .get(self.index)
                        .is_none_or(|view| view.started)
            });
        }
        let mut pause = rhythm.initial_delay;
        let (mut good, mut bad) = (0u32, 0u32);
        let mut eager = EAGER_PAUSE;
        loop {
            if shared.wait_until(Some(Instant::now() + pause), is_over) {
                return;
            }
            let answer = self.ask(question, rhythm.timeout, number);
            if is_over(&shared.look()) {
                return;
            }
            (good, bad) = if answer.is_ok() {
                (good + 1, 0)
            } else {
                (0, bad + 1)
            };
            if good >= rhythm.success_threshold {
                self.note_good(purpose);
                if purpose == Purpose::Startup {
                    return;
                }
            } else if bad >= rhythm.failure_threshold {
                self.note_bad(purpose, answer.err().unwrap_or_default());
            }
            // A program that has just been started is asked more often at first: nobody wants to
            // wait a whole period for it.
            pause = if purpose == Purpose::Readiness && !self.is_ready() && eager < rhythm.period {
                eager *= 2;
                eager / 2
            } else {
                rhythm.period
            };
        }
    }

    fn ask(&self, question: &Question, timeout: Duration, number: i32) -> Result<(), String> {
        match question {
            Question::Exec { command } => self.ask_by_command(command.clone(), timeout, number),
            Question::Http { .. } | Question::Tcp { .. } => {
                let node = self
                    .pod
                    .places
                    .node_namespace(&self.pod.cluster.name, &self.pod.node.name);
                probe::ask_by_network(&node, question, timeout)
            }
        }
    }

    /// Runs a command in the container; the error is a sentence.
    pub(super) fn ask_by_command(
        &self,
        command: Vec<std::ffi::OsString>,
        timeout: Duration,
        number: i32,
    ) -> Result<(), String> {
        let launch = Launch {
            command,
            environment: Some(image::environment(self.pod, self.container)?),
            cgroup: self.cgroup(),
            namespace: Some(self.pod.namespace()),
            files: Files::Of(number),
            directory: PathBuf::from("/"),
            user: image::user(self.pod, self.container),
            new_session: true,
            streams: Streams::Null,
        };
        let mut child = launch.spawn().map_err(|error| crate::describe(&error))?;
        match wait_for_child(&mut child, Instant::now() + timeout) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("command ended with {status}")),
            None => {
                // It may have ended just now; either way nothing of it is left after the wait.
                drop(child.kill());
                drop(child.wait());
                Err(format!("command timed out after {timeout:?}"))
            }
        }
    }

    fn note_good(&self, purpose: Purpose) {
        if purpose != Purpose::Liveness {
            self.change_view(|view| match purpose {
                Purpose::Startup => {
                    view.started = true;
                    view.ready = self.container.readiness_probe.is_none();
                }
                Purpose::Readiness => view.ready = true,
                Purpose::Liveness => {}
            });
        }
    }

    fn note_bad(&self, purpose: Purpose, message: String) {
        match purpose {
            Purpose::Readiness => self.change_view(|view| view.ready = false),
            Purpose::Startup | Purpose::Liveness => self.change_run(|run| {
                run.unhealthy = Some(format!("{} probe failed: {message}", purpose.word()));
            }),
        }
    }

    fn is_ready(&self) -> bool {
        self.pod
            .shared
            .look()
            .view
            .containers
            .get(self.index)
            .is_some_and(|view| view.ready)
    }
}

const EAGER_PAUSE: Duration = Duration::from_millis(25);
