//! Keeps one container running: start, probes, restart, end.

mod image;
mod probing;
mod process;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Container;
use rustix::process::{Pid, Signal};

pub(crate) use self::process::wait_for_child;
use self::{
    probing::Purpose,
    process::{Process, UNKNOWN_EXIT_CODE, wait_for_end},
};
use super::{
    pod::PodRun,
    view::{ContainerState, Ended, Run},
};
use crate::{
    apply::timestamp,
    cgroup,
    launch::{Files, Launch, Streams},
    notes::{ContainerNotes, PodNotes, live_process},
};

/// Keeps the pod's container number `index` until the pod ends.
pub(super) fn keep(pod: &PodRun, index: usize, notes: &Mutex<PodNotes>) {
    let Some(container) = pod.spec.containers.get(index) else {
        return;
    };
    let mut keeper = Keeper {
        pod,
        index,
        container,
        notes,
        failures: 0,
    };
    let mut adopted = keeper.adopt();
    loop {
        let process = match adopted.take() {
            Some(process) => Ok(Process::Adopted(process)),
            None if pod.shared.look().stopping => return,
            None => keeper.start(),
        };
        let ended = match process {
            Ok(process) => keeper.run(process),
            Err(message) => {
                keeper.set_waiting("CreateContainerError", message);
                if !keeper.rest() {
                    return;
                }
                continue;
            }
        };
        let again = match pod.spec.restart_policy.as_deref() {
            Some("Never") => false,
            Some("OnFailure") => ended.exit_code != 0,
            _ => true,
        };
        if pod.shared.look().stopping || !again {
            keeper.set_ended(ended, None);
            return;
        }
        keeper.set_ended(ended, Some("CrashLoopBackOff"));
        if !keeper.rest() {
            return;
        }
    }
}

struct Keeper<'a> {
    pod: &'a PodRun,
    index: usize,
    container: &'a Container,
    notes: &'a Mutex<PodNotes>,
    /// Ends and failed starts in a row, without a long good run between.
    failures: u32,
}

impl Keeper<'_> {
    fn cgroup(&self) -> PathBuf {
        self.pod.cgroup().join(&self.container.name)
    }

    /// The container's process that an earlier supervisor started, if it lives.
    fn adopt(&self) -> Option<i32> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = notes.containers.get(&self.container.name)?.clone();
        drop(notes);
        let process = live_process(&self.cgroup(), Some(known.process));
        self.change_view(|view| match process {
            Some(_) => {
                let since = known.started_at;
                view.state = ContainerState::Running { since };
                view.restarts = known.restarts;
            }
            // It ended while nobody watched: what comes now is another run of it.
            None => {
                (view.started, view.ready) = (false, false);
                view.restarts = known.restarts + 1;
            }
        });
        process
    }

    fn start(&self) -> Result<Process, String> {
        let launch = self.launch()?;
        let child = launch.spawn().map_err(|error| crate::describe(&error))?;
        Ok(Process::Started(child))
    }

    fn launch(&self) -> Result<Launch, String> {
        // Whatever the last run left behind is not part of the new one.
        let cgroup = self.cgroup();
        cgroup::kill(&cgroup, KILL_DEADLINE).map_err(|error| crate::describe(&error))?;
        let image = image::prepare(self.pod, self.container)?;
        let directory = self.container.working_dir.as_deref().unwrap_or("/");
        Ok(Launch {
            command: image.command.into_iter().map(Into::into).collect(),
            environment: Some(image.environment),
            cgroup,
            namespace: Some(self.pod.namespace()),
            files: Files::Build(image.root),
            directory: PathBuf::from(directory),
            user: image.user,
            new_session: true,
            streams: Streams::Log(self.log()),
        })
    }

    fn log(&self) -> PathBuf {
        let name = format!("pod/{}/{}", self.pod.file_key(), self.container.name);
        self.pod.places.log(&name)
    }

    /// Watches one run of the process to its end.
    fn run(&mut self, process: Process) -> Ended {
        let number = match &process {
            Process::Started(child) => i32::try_from(child.id()).unwrap_or_default(),
            Process::Adopted(number) => *number,
        };
        let since = self.set_running(number, matches!(process, Process::Adopted(_)));
        let started = Instant::now();
        let keeper = &*self;
        let reason = thread::scope(|scope| {
            scope.spawn(move || {
                let code = wait_for_end(process);
                keeper.change_run(|run| run.exit_code = Some(code));
            });
            for kind in [Purpose::Startup, Purpose::Liveness, Purpose::Readiness] {
                if let Some((question, rhythm)) = keeper.probe(kind) {
                    scope.spawn(move || {
                        keeper.ask_again_and_again(kind, &question, &rhythm, number)
                    });
                }
            }
            let reason = keeper.watch(number);
            keeper.change_run(|run| run.over = true);
            reason
        });
        if started.elapsed() > GOOD_RUN {
            self.failures = 0;
        }
        let exit_code = self.run_state().exit_code.unwrap_or(UNKNOWN_EXIT_CODE);
        let word = match (&reason, exit_code) {
            (Some(_), _) => "Unhealthy",
            (None, 0) => "Completed",
            (None, _) => "Error",
        };
        Ended {
            exit_code,
            reason: word.to_owned(),
            message: reason.unwrap_or_default(),
            started_at: since,
            finished_at: timestamp(),
        }
    }

    /// Waits for the end, or brings it about; returns why a probe wanted it.
    fn watch(&self, number: i32) -> Option<String> {
        let shared = &self.pod.shared;
        shared.wait_until(None, |state| {
            let run = state.runs.get(self.index);
            state.terminating
                || run.is_none_or(|run| run.exit_code.is_some() || run.unhealthy.is_some())
        });
        let run = self.run_state();
        if run.exit_code.is_none() {
            self.change_run(|run| run.over = true);
            self.end(number);
        }
        // The first process has ended; what it left running ends with it.
        if let Err(error) = cgroup::kill(&self.cgroup(), KILL_DEADLINE) {
            return Some(crate::describe(&error));
        }
        shared.wait_until(Some(Instant::now() + KILL_DEADLINE), |state| {
            state
                .runs
                .get(self.index)
                .is_none_or(|run| run.exit_code.is_some())
        });
        run.unhealthy
    }

    /// Asks the process to end and gives it its time.
    fn end(&self, number: i32) {
        let deadline = Instant::now() + self.pod.grace();
        self.before_the_end(number, deadline);
        let signal = image::stop_signal(self.pod, self.container);
        if let Some(pid) = Pid::from_raw(number)
            && cgroup::processes(&self.cgroup()).contains(&number)
        {
            // A process that has just ended by itself needs no signal.
            rustix::process::kill_process(pid, signal).ok();
        }
        self.pod.shared.wait_until(Some(deadline), |state| {
            state
                .runs
                .get(self.index)
                .is_none_or(|run| run.exit_code.is_some())
        });
    }

    /// Does what the container wants done before it is asked to end (`lifecycle.preStop`).
    fn before_the_end(&self, number: i32, deadline: Instant) {
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let Some(hook) = hook else { return };
        if let Some(sleep) = &hook.sleep {
            let time = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default());
            let until = deadline.min(Instant::now() + time);
            self.pod.shared.wait_until(Some(until), |state| {
                state
                    .runs
                    .get(self.index)
                    .is_none_or(|run| run.exit_code.is_some())
            });
        } else if let Some(exec) = &hook.exec {
            let command = exec.command.iter().flatten().map(Into::into).collect();
            let time = deadline.saturating_duration_since(Instant::now());
            if let Err(message) = self.ask_by_command(command, time, number) {
                self.set_trouble("FailedPreStopHook", message);
            }
        }
    }

    fn set_running(&self, number: i32, adopted: bool) -> String {
        let since = timestamp();
        let started = self.container.startup_probe.is_none();
        let ready = started && self.container.readiness_probe.is_none();
        let shared = &self.pod.shared;
        let (since, restarts) = shared.change(|state| {
            if let Some(run) = state.runs.get_mut(self.index) {
                *run = Run::default();
            }
            let Some(view) = state.view.containers.get_mut(self.index) else {
                return (since, 0);
            };
            let since = match &view.state {
                ContainerState::Running { since } => since.clone(),
                _ => since,
            };
            view.state = ContainerState::Running {
                since: since.clone(),
            };
            if !adopted {
                (view.started, view.ready) = (started, ready);
            }
            (since, view.restarts)
        });
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = image::environment(self.pod, self.container).unwrap_or_default();
        let own = ContainerNotes {
            process: number,
            restarts,
            started_at: since.clone(),
            environment,
        };
        notes.containers.insert(self.container.name.clone(), own);
        if let Err(error) = notes.write(&self.pod.directory()) {
            self.set_trouble(
                "FailedToNote",
                format!("cannot write the pod's notes: {error}"),
            );
        }
        since
    }

    fn set_trouble(&self, reason: &str, message: String) {
        self.pod.shared.change(|state| {
            state.view.trouble = Some((reason.to_owned(), message));
        });
    }

    fn set_waiting(&self, reason: &str, message: String) {
        self.change_view(|view| {
            let reason = reason.to_owned();
            view.state = ContainerState::Waiting { reason, message };
            (view.started, view.ready) = (false, false);
        });
    }

    fn set_ended(&self, ended: Ended, then: Option<&str>) {
        self.change_view(|view| {
            (view.started, view.ready) = (false, false);
            match then {
                Some(reason) => {
                    view.restarts += 1;
                    let message = ended.message.clone();
                    view.state = ContainerState::Waiting {
                        reason: reason.to_owned(),
                        message,
                    };
                    view.last = Some(ended);
                }
                None => view.state = ContainerState::Terminated(ended),
            }
        });
    }

    /// Waits before the next try, longer each time; says false if the pod is stopped meanwhile.
    fn rest(&mut self) -> bool {
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => RESTART_PAUSE.saturating_mul(1 << (failures - 1).min(10)),
        };
        self.failures += 1;
        self.pod.shared.pause(pause.min(RESTART_PAUSE_MAX))
    }

    fn run_state(&self) -> Run {
        self.pod
            .shared
            .look()
            .runs
            .get(self.index)
            .cloned()
            .unwrap_or_default()
    }

    fn change_run(&self, change: impl FnOnce(&mut Run)) {
        self.pod.shared.change(|state| {
            if let Some(run) = state.runs.get_mut(self.index) {
                change(run);
            }
        });
    }

    fn change_view(&self, change: impl FnOnce(&mut super::view::ContainerView)) {
        self.pod.shared.change(|state| {
            if let Some(view) = state.view.containers.get_mut(self.index) {
                change(view);
            }
        });
    }
}

/// The signal that ends a program that asks for no other.
const DEFAULT_STOP_SIGNAL: Signal = Signal::TERM;
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
const GOOD_RUN: Duration = Duration::from_secs(30);
const KILL_DEADLINE: Duration = Duration::from_secs(10);
