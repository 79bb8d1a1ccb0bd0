//! The controllers of one cluster: hold its objects against what runs, and take the steps that
//! bring the two together.
//!
//! One thread owns the state; it is woken by changed files and by the pods' keepers. Each step
//! writes one object whole, so that the controller may die between any two.

mod nodes;

use std::{collections::BTreeMap, path::Path, sync::Arc, thread, time::Duration};

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::{
    SuperviseError,
    deployments::{self, Step},
    endpoints,
    pod::PodRun,
    schedule, status,
    view::Shared,
    volumes,
    watch::{Watch, Woken},
    watch_fault,
};
use crate::{
    api::{self, ClusterApi},
    apply::{mark_deleted, timestamp},
    config::{ClusterConfig, LabConfig},
    kind::Kind,
    names::Places,
    object::{Object, ObjectKey},
    random,
};

/// The objects of a cluster, as last read.
pub(super) type Objects = BTreeMap<ObjectKey, Object>;

/// The controllers of one cluster.
pub(super) struct Controller {
    places: Places,
    config: Arc<LabConfig>,
    cluster: ClusterConfig,
    api: ClusterApi,
    watch: Watch,
    objects: Objects,
    pods: BTreeMap<ObjectKey, Keeper>,
    /// Where the search for a free address begins, by node: an address rests before it is used
    /// again.
    next_host: BTreeMap<u8, u8>,
}

/// A pod that has a keeper.
struct Keeper {
    shared: Arc<Shared>,
    node: u8,
    host: u8,
    config_maps: std::collections::BTreeSet<String>,
    namespace: String,
}

impl Controller {
    pub(super) fn new(
        places: &Places,
        config: &Arc<LabConfig>,
        cluster: &ClusterConfig,
    ) -> Result<Controller, SuperviseError> {
        let api = ClusterApi::at(places, &cluster.name);
        api.create_directories()?;
        let fault = |error: rustix::io::Errno| watch_fault(api.directory(), error.into());
        let mut watch = Watch::new().map_err(fault)?;
        for kind in Kind::ALL {
            watch
                .add(&api.directory().join(kind.directory()))
                .map_err(fault)?;
        }
        Ok(Controller {
            places: places.clone(),
            config: Arc::clone(config),
            cluster: cluster.clone(),
            api,
            watch,
            objects: Objects::new(),
            pods: BTreeMap::new(),
            next_host: BTreeMap::new(),
        })
    }

    /// Works until something fails that no later try could mend.
    pub(super) fn run(mut self) -> Result<(), SuperviseError> {
        self.read_everything()?;
        self.remove_strays();
        loop {
            self.reconcile()?;
            let woken = self.watch.wait(LOOK_AGAIN);
            match woken.map_err(|error| watch_fault(self.api.directory(), error.into()))? {
                Woken::Everything => self.read_everything()?,
                Woken::Files(files) => {
                    for file in files {
                        self.read(&file);
                    }
                }
            }
        }
    }

    fn read_everything(&mut self) -> Result<(), SuperviseError> {
        let mut objects = Objects::new();
        for kind in Kind::ALL {
            for object in self.api.list(kind)? {
                objects.insert(object.key.clone(), object);
            }
        }
        self.objects = objects;
        for keeper in self.pods.values() {
            keeper.shared.change(|state| state.config_revision += 1);
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) {
        if !api::is_object_file(path) {
            return;
        }
        match api::read_file(path) {
            Ok(Some(object)) => {
                let key = object.key.clone();
                let old = self.objects.insert(key.clone(), object);
                if key.kind == Kind::ConfigMap && old.as_ref() != self.objects.get(&key) {
                    self.announce_config_map(&key);
                }
            }
            Ok(None) => {
                let Some(key) = ObjectKey::of_file(path) else {
                    return;
                };
                if self.objects.remove(&key).is_some() && key.kind == Kind::ConfigMap {
                    self.announce_config_map(&key);
                }
            }
            // Somebody wrote the file by hand, and wrongly: the last good state stays.
            Err(error) => self.log(&crate::describe(&error)),
        }
    }

    fn announce_config_map(&self, key: &ObjectKey) {
        for keeper in self.pods.values() {
            if keeper.namespace == key.namespace && keeper.config_maps.contains(&key.name) {
                keeper.shared.change(|state| state.config_revision += 1);
            }
        }
    }

    /// One pass over everything. What it changes wakes the next pass.
    fn reconcile(&mut self) -> Result<(), SuperviseError> {
        self.create_service_accounts()?;
        self.report_pods()?;
        self.follow_deployments()?;
        self.place_pods()?;
        // The order matters: a pod that ends is marked in the endpoints before its programs hear of
        // it.
        self.write_endpoints()?;
        self.start_and_stop_pods()?;
        Ok(())
    }

    fn create_service_accounts(&mut self) -> Result<(), SuperviseError> {
        let namespaces: Vec<String> = self
            .names(Kind::Namespace)
            .map(|key| key.name.clone())
            .collect();
        for namespace in namespaces {
            let key = ObjectKey::new(Kind::ServiceAccount, &namespace, "default");
            if self.objects.contains_key(&key) {
                continue;
            }
            let value = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": namespace, "uid": random::uuid(),
                    "creationTimestamp": timestamp()},
            });
            let _lock = self.api.lock()?;
            self.write(Object { key, value })?;
        }
        Ok(())
    }

    /// Writes down what the keepers see, and takes leave of pods that are gone.
    fn report_pods(&mut self) -> Result<(), SuperviseError> {
        let keys: Vec<ObjectKey> = self.pods.keys().cloned().collect();
        for key in keys {
            let Some(keeper) = self.pods.get(&key) else {
                continue;
            };
            let state = keeper.shared.look();
            let (view, finished) = (state.view.clone(), state.finished);
            drop(state);
            let (node, host) = (keeper.node, keeper.host);
            if finished {
                let _lock = self.api.lock()?;
                self.pods.remove(&key);
                self.objects.remove(&key);
                self.api.remove(&key)?;
                continue;
            }
            let Some(node) = self
                .cluster
                .nodes
                .iter()
                .find(|config| config.index == node)
            else {
                continue;
            };
            let Some(object) = self.objects.get(&key) else {
                continue;
            };
            let fresh = status::of_pod(object, &view, &self.cluster, node, host);
            if object.field(&["status"]) == Some(&fresh) {
                continue;
            }
            self.update(&key, |object| object.set(&["status"], fresh))?;
        }
        Ok(())
    }

    fn follow_deployments(&mut self) -> Result<(), SuperviseError> {
        for step in deployments::next_steps(&self.objects) {
            match step {
                Step::Create(object) => {
                    let _lock = self.api.lock()?;
                    self.write(*object)?;
                }
                Step::Delete(key) => self.delete_pod(&key)?,
            }
        }
        Ok(())
    }

    fn delete_pod(&mut self, key: &ObjectKey) -> Result<(), SuperviseError> {
        let _lock = self.api.lock()?;
        if let Some(mut object) = self.api.get(key)? {
            mark_deleted(&self.api, &mut object)?;
            self.objects.insert(key.clone(), object);
        }
        Ok(())
    }

    fn place_pods(&mut self) -> Result<(), SuperviseError> {
        let waiting: Vec<ObjectKey> = self
            .names(Kind::Pod)
            .filter(|key| {
                self.objects
                    .get(key)
                    .is_some_and(|pod| pod.text(&["spec", "nodeName"]).is_none())
            })
            .cloned()
            .collect();
        for key in waiting {
            match schedule::choose_node(&self.cluster, &self.objects, &key) {
                Ok(node) => {
                    self.update(&key, |pod| pod.set(&["spec", "nodeName"], json!(node)))?;
                }
                Err(message) => {
                    let pending = status::unscheduled(&message);
                    let known = self
                        .objects
                        .get(&key)
                        .and_then(|pod| pod.field(&["status"]));
                    if known != Some(&pending) {
                        self.update(&key, |pod| pod.set(&["status"], pending))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_endpoints(&mut self) -> Result<(), SuperviseError> {
        let wanted = endpoints::slices(&self.cluster, &self.objects);
        let stale: Vec<ObjectKey> = self
            .names(Kind::EndpointSlice)
            .filter(|key| !wanted.contains_key(*key))
            .filter(|key| self.objects.get(key).is_some_and(endpoints::is_ours))
            .cloned()
            .collect();
        for key in stale {
            let _lock = self.api.lock()?;
            self.api.remove(&key)?;
            self.objects.remove(&key);
        }
        for (key, mut value) in wanted {
            if let Some(known) = self.objects.get(&key) {
                // Identity and age stay; everything else is as computed.
                for field in ["uid", "creationTimestamp"] {
                    if let Some(old) = known.field(&["metadata", field]) {
                        value["metadata"][field] = old.clone();
                    }
                }
                if known.value == value {
                    continue;
                }
            } else {
                value["metadata"]["uid"] = json!(random::uuid());
                value["metadata"]["creationTimestamp"] = json!(timestamp());
            }
            let _lock = self.api.lock()?;
            self.write(Object { key, value })?;
        }
        Ok(())
    }

    fn start_and_stop_pods(&mut self) -> Result<(), SuperviseError> {
        let keys: Vec<ObjectKey> = self.names(Kind::Pod).cloned().collect();
        for key in &keys {
            let Some(object) = self.objects.get(key) else {
                continue;
            };
            let deleted = object.field(&["metadata", "deletionTimestamp"]).is_some();
            let placed = object.text(&["spec", "nodeName"]).is_some();
            match self.pods.get(key) {
                None if deleted && !placed => {
                    let _lock = self.api.lock()?;
                    self.api.remove(key)?;
                    self.objects.remove(key);
                }
                None if placed => self.start(key),
                Some(keeper) if deleted && !keeper.shared.look().stopping => {
                    keeper.shared.change(|state| state.stopping = true);
                }
                _ => {}
            }
        }
        // A pod whose object was removed by hand ends, too.
        for (key, keeper) in &self.pods {
            if !self.objects.contains_key(key) && !keeper.shared.look().stopping {
                keeper.shared.change(|state| state.stopping = true);
            }
        }
        Ok(())
    }

    fn start(&mut self, key: &ObjectKey) {
        let Some(object) = self.objects.get(key) else {
            return;
        };
        let node = object.text(&["spec", "nodeName"]).unwrap_or_default();
        let Some(node) = self
            .cluster
            .nodes
            .iter()
            .find(|config| config.name == node)
            .cloned()
        else {
            return self.log(&format!("{key}: there is no node `{node}`"));
        };
        let spec = object
            .field(&["spec"])
            .and_then(|spec| serde_json::from_value::<PodSpec>(spec.clone()).ok());
        let Some(spec) = spec else {
            return self.log(&format!("{key}: its specification is not one"));
        };
        let uid = object.uid().to_owned();
        let sockmap = object.text(&["metadata", "annotations", SOCKMAP_ANNOTATION]);
        let sockmap = sockmap.map(str::to_owned);
        let Some(host) = self.host_for(key, &uid, &node) else {
            return self.log(&format!("{key}: node {} has no free address", node.name));
        };
        let names = spec
            .containers
            .iter()
            .map(|container| container.name.clone());
        let shared = Arc::new(Shared::new(self.watch.bell(), names));
        if let Some(object) = self.objects.get(key) {
            status::restore(object, &mut shared.look().view);
        }
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            node: node.index,
            host,
            config_maps: volumes::config_maps(&spec),
            namespace: key.namespace.clone(),
        };
        let run = PodRun {
            places: self.places.clone(),
            config: Arc::clone(&self.config),
            cluster: self.cluster.clone(),
            node,
            api: self.api.clone(),
            key: key.clone(),
            uid,
            spec,
            sockmap,
            host,
            shared,
        };
        self.pods.insert(key.clone(), keeper);
        thread::spawn(move || run.keep());
    }

    fn names(&self, kind: Kind) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys().filter(move |key| key.kind == kind)
    }

    /// Changes an object as it is now, not as it was when it was last read.
    fn update(
        &mut self,
        key: &ObjectKey,
        change: impl FnOnce(&mut Object),
    ) -> Result<(), SuperviseError> {
        let _lock = self.api.lock()?;
        let Some(mut object) = self.api.get(key)? else {
            self.objects.remove(key);
            return Ok(());
        };
        change(&mut object);
        self.write(object)
    }

    /// Writes an object; the caller holds the lock.
    fn write(&mut self, object: Object) -> Result<(), SuperviseError> {
        self.api.write(&object)?;
        self.objects.insert(object.key.clone(), object);
        Ok(())
    }

    fn log(&self, message: &str) {
        eprintln!("{} {}: {message}", timestamp(), self.cluster.name);
    }
}

/// The value of a JSON pointer's text, for the pure parts of the controllers.
pub(super) fn text<'v>(value: &'v Value, path: &[&str]) -> Option<&'v str> {
    path.iter()
        .try_fold(value, |value, key| value.get(key))?
        .as_str()
}

const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// `off` on a pod keeps its sockets out of the sockmap. Read when the pod is made.
const SOCKMAP_ANNOTATION: &str = "mesh.tulle.io/sockmap";
