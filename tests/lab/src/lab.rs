//! The lab as a library: one value that stands for a rig, with a method for each command.

mod foreign;
mod management;
mod objects;
mod pods;
mod rig;

use std::path::PathBuf;

pub use self::{
    foreign::{ForeignProxy, NodeAccess},
    management::ManagementAccess,
    objects::Edited,
};
use crate::{
    component::Programs,
    config::{ClusterConfig, LabConfig},
    down,
    error::LabError,
    names::{self, Places},
    netns, up,
};

/// How a rig is brought up.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// The lab's file; the built-in one if not given.
    pub config: Option<LabConfig>,
    /// The clusters to bring up; all if none is named.
    pub clusters: Vec<String>,
    /// The rig's name, if not the file's: tests that run beside each other need rigs of their own.
    pub rig: Option<String>,
    /// Where `node-proxy` and `xds-server` lie, if not beside the running program.
    pub binaries: Option<PathBuf>,
    /// No cluster publishes its state or knows of another until an operator orders it.
    pub no_mesh: bool,
}

/// A rig.
#[derive(Debug, Clone)]
pub struct Lab {
    places: Places,
    config: LabConfig,
    binaries: Option<PathBuf>,
}

/// Takes a rig down when it is dropped, also when a test fails.
#[must_use]
#[derive(Debug)]
pub struct DownGuard {
    rig: String,
}

impl DownGuard {
    /// Removes what an earlier run may have left of the rig, and guards what is going to be brought
    /// up.
    ///
    /// # Errors
    /// If leftovers cannot be removed.
    pub fn fresh(rig: &str) -> Result<DownGuard, LabError> {
        Lab::down(rig)?;
        Ok(DownGuard {
            rig: rig.to_owned(),
        })
    }
}

impl Drop for DownGuard {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.rig) {
            eprintln!("rig {}: {}", self.rig, crate::describe(&error));
        }
    }
}

impl Lab {
    /// Brings a rig up; what stands already is left alone. A rig that is up keeps its file and its
    /// programs if none are given.
    ///
    /// # Errors
    /// If the machine lacks something or a component does not start. What was made stays until
    /// [`Lab::down`].
    pub fn up(options: UpOptions) -> Result<Lab, LabError> {
        let given = options.config.is_some();
        let mut config = match options.config {
            Some(config) => config,
            None => LabConfig::built_in()?,
        };
        if let Some(rig) = &options.rig {
            config = config.with_rig(rig)?;
        }
        if options.no_mesh {
            config = config.without_connections()?;
        }
        let places = Places::of(&config.rig)?;
        let known = Lab::open(&config.rig).ok();
        if let (false, false, Some(known)) = (given, options.no_mesh, &known) {
            config = known.config.clone();
        }
        let binaries = options.binaries.or_else(|| config.binaries.clone());
        let binaries = binaries.or_else(|| known?.binaries);
        let programs = Programs::find(binaries.as_deref());
        up::up(&places, &config, &options.clusters, &programs)?;
        if let Some(directory) = &binaries {
            up::remember_binaries(&places, directory)?;
        }
        Ok(Lab {
            places,
            config,
            binaries,
        })
    }

    /// The rig of that name, which is up.
    ///
    /// # Errors
    /// If it is not up.
    pub fn open(rig: &str) -> Result<Lab, LabError> {
        let places = Places::of(LabConfig::check_rig_name(rig)?)?;
        if !places.config().exists() {
            return Err(LabError::NotUp {
                rig: rig.to_owned(),
            });
        }
        let config = LabConfig::read(&places.config())?;
        let binaries = up::known_binaries(&places).or_else(|| config.binaries.clone());
        Ok(Lab {
            places,
            config,
            binaries,
        })
    }

    /// Removes a rig, whatever its state. No error if there is none.
    ///
    /// # Errors
    /// If something of it cannot be removed.
    pub fn down(rig: &str) -> Result<(), LabError> {
        // The name becomes part of paths that are removed.
        let rig = LabConfig::check_rig_name(rig)?;
        Ok(down::down(&Places::of(rig)?)?)
    }

    /// Whether anything of a rig is there.
    ///
    /// # Errors
    /// If the machine has no cgroup v2.
    pub fn exists(rig: &str) -> Result<bool, LabError> {
        Ok(down::exists(&Places::of(rig)?))
    }

    /// Where `node-proxy` and `xds-server` lie, for components that are started later.
    #[must_use]
    pub fn with_binaries(mut self, binaries: Option<PathBuf>) -> Lab {
        self.binaries = binaries.or(self.binaries);
        self
    }

    /// What the rig was built from.
    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// A cluster of the rig's file.
    ///
    /// # Errors
    /// If the file has no such cluster.
    pub fn cluster(&self, name: &str) -> Result<&ClusterConfig, LabError> {
        self.config
            .cluster(name)
            .ok_or_else(|| LabError::UnknownCluster {
                name: name.to_owned(),
                known: self
                    .config
                    .clusters
                    .iter()
                    .map(|cluster| cluster.name.clone())
                    .collect(),
            })
    }

    /// The directory of the rig's files.
    pub fn state_directory(&self) -> PathBuf {
        self.places.state()
    }

    /// The file of a pod's network namespace.
    pub fn pod_namespace(&self, cluster: &str, namespace: &str, pod: &str) -> PathBuf {
        netns::path(
            &self
                .places
                .pod_namespace(cluster, &names::pod_key(namespace, pod)),
        )
    }
}
