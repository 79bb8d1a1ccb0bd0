//! Counts what processes do, by the kernel's own tracing: system calls and calls of functions of a program.
//!
//! Uses an instance of `tracefs` of its own, so that it disturbs nobody else's tracing; `ptrace(2)` would stop the process at each call.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{elf, proxy::Proxy};

/// A tracing instance; what it set up in the kernel goes with it.
pub(super) struct Tracing {
    root: PathBuf,
    instance: PathBuf,
    /// Where `tracefs` was mounted for this, if it was not there.
    mounted: Option<PathBuf>,
    probes: Vec<String>,
}

impl Tracing {
    pub(super) fn begin() -> Result<Tracing> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let (root, mounted) = match mount_point(&mounts) {
            Some(path) => (PathBuf::from(path), None),
            None => {
                let path = std::env::temp_dir().join(format!("tulle-trace-{}", std::process::id()));
                fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
                mount("tracefs", &path, "tracefs", MountFlags::empty(), None)
                    .context("the kernel's tracefs cannot be mounted")?;
                (path.clone(), Some(path))
            }
        };
        let instance = root.join(format!("instances/tulle-bench-{}", std::process::id()));
        let tracing = Tracing {
            root,
            instance,
            mounted,
            probes: Vec::new(),
        };
        fs::create_dir(&tracing.instance)
            .with_context(|| tracing.instance.display().to_string())?;
        tracing.write("buffer_size_kb", BUFFER_KIB)?;
        Ok(tracing)
    }

    /// How many system calls the proxies make during `work`.
    pub(super) fn system_calls(
        &self,
        proxies: &[Proxy],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<usize> {
        self.count(proxies, "raw_syscalls/sys_enter", work)
    }

    /// Watches calls of a program's functions, of which the names end so.
    pub(super) fn watch_functions(&mut self, program: &Path, names: &[&str]) -> Result<()> {
        let bytes = fs::read(program).with_context(|| program.display().to_string())?;
        for (number, name) in names.iter().enumerate() {
            let offset = elf::function_offset(&bytes, |symbol| symbol.ends_with(name));
            let offset = offset.with_context(|| {
                format!(
                    "{} has no function that ends in `{name}`",
                    program.display()
                )
            })?;
            let probe = format!("{}/p{number}", probes());
            let line = format!("p:{probe} {}:{offset:#x}\n", program.display());
            self.append_probe(&line)?;
            self.probes.push(probe);
        }
        Ok(())
    }

    /// How many calls of the watched functions the proxies make during `work`.
    pub(super) fn function_calls(
        &self,
        proxies: &[Proxy],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<usize> {
        self.count(proxies, &probes(), work)
    }

    fn count(
        &self,
        proxies: &[Proxy],
        event: &str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<usize> {
        let mut threads = String::new();
        for proxy in proxies {
            let path = format!("/proc/{}/task", proxy.process);
            for thread in fs::read_dir(&path).with_context(|| path.clone())? {
                threads += &format!("{} ", thread?.file_name().to_string_lossy());
            }
        }
        self.write("set_event_pid", &threads)?;
        self.write("options/event-fork", "1")?;
        // Empties the buffer.
        self.write("trace", "")?;
        let switch = format!("events/{event}/enable");
        self.write(&switch, "1")?;
        let worked = work();
        self.write(&switch, "0")?;
        worked?;
        let mut count = 0;
        for processor in fs::read_dir(self.instance.join("per_cpu"))? {
            let path = processor?.path().join("stats");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let number = |key| super::proxy::field(&text, key).map(usize::try_from);
            let (Some(entries), Some(overrun)) = (number("entries:"), number("overrun:")) else {
                anyhow::bail!("unreadable statistics of the trace: {text}");
            };
            count += entries? + overrun?;
        }
        ensure!(count > 0, "the kernel traced nothing at `{event}`");
        Ok(count)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// The file is one of orders: writing to it without appending would remove everybody's probes.
    fn append_probe(&self, line: &str) -> Result<()> {
        let path = self.root.join("uprobe_events");
        let file = fs::OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| io::Write::write_all(&mut file, line.as_bytes()))
            .with_context(|| format!("{}: {line}", path.display()))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!("{}: {error}", self.instance.display());
        }
        for probe in &self.probes {
            if let Err(error) = self.append_probe(&format!("-:{probe}\n")) {
                eprintln!("{error:#}");
            }
        }
        if let Some(path) = &self.mounted {
            let unmounted = unmount(path, UnmountFlags::empty()).map_err(io::Error::from);
            if let Err(error) = unmounted.and_then(|()| fs::remove_dir(path)) {
                eprintln!("{}: {error}", path.display());
            }
        }
    }
}

fn mount_point(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let path = words.next()?;
        (words.next()? == "tracefs").then_some(path)
    })
}

/// For each processor; what does not fit is still counted.
const BUFFER_KIB: &str = "1024";
const PROBES: &str = "tulle_bench";

/// A name of this run's own: what a killed one left must not be in the way.
fn probes() -> String {
    format!("{PROBES}_{}", std::process::id())
}
