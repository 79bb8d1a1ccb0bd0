use serde_json::json;

use super::{Step, next_steps};
use crate::{
    kind::Kind,
    object::{Object, ObjectKey},
    supervisor::controller::Objects,
};

/// A cluster with one deployment `d`.
struct Cluster(Objects);

impl Cluster {
    fn new(replicas: u32) -> Cluster {
        let mut cluster = Cluster(Objects::new());
        cluster.put(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default", "uid": "u1"},
            "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}},
        }));
        cluster
    }

    fn put(&mut self, value: serde_json::Value) {
        let object = Object::from_value(value).unwrap();
        self.0.insert(object.key.clone(), object);
    }

    fn deployment(&mut self) -> &mut Object {
        self.0
            .get_mut(&ObjectKey::new(Kind::Deployment, "default", "d"))
            .unwrap()
    }

    fn set_template_image(&mut self, image: &str) {
        let containers = json!([{"name": "c", "image": image}]);
        self.deployment()
            .set(&["spec", "template", "spec", "containers"], containers);
    }

    /// Does what the steps say; deleted pods go at once. Returns (created, deleted).
    fn step(&mut self) -> (usize, usize) {
        let (mut created, mut deleted) = (0, 0);
        for step in next_steps(&self.0) {
            match step {
                Step::Create(pod) => {
                    created += 1;
                    self.0.insert(pod.key.clone(), *pod);
                }
                Step::Delete(key) => {
                    deleted += 1;
                    self.0.remove(&key);
                }
            }
        }
        (created, deleted)
    }

    fn pods(&mut self) -> impl Iterator<Item = &mut Object> {
        self.0
            .values_mut()
            .filter(|object| object.key.kind == Kind::Pod)
    }

    fn make_all_ready(&mut self) {
        for pod in self.pods() {
            pod.set(
                &["status", "conditions"],
                json!([{"type": "Ready", "status": "True"}]),
            );
        }
    }

    fn ready(&mut self) -> usize {
        self.pods().filter(|pod| super::is_ready(pod)).count()
    }
}

#[test]
fn replicas_are_made_and_removed() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.step(), (3, 0));
    assert_eq!(cluster.step(), (0, 0));
    cluster.make_all_ready();
    cluster.deployment().set(&["spec", "replicas"], json!(1));
    assert_eq!(cluster.step(), (0, 2));
    assert_eq!(cluster.step(), (0, 0));
    cluster.deployment().set(&["spec", "replicas"], json!(0));
    assert_eq!(cluster.step(), (0, 1));
    assert_eq!(cluster.step(), (0, 0));
}

#[test]
fn pods_that_end_are_replaced() {
    let mut cluster = Cluster::new(2);
    cluster.step();
    let pod = cluster.pods().next().unwrap();
    pod.set(
        &["metadata", "deletionTimestamp"],
        json!("2026-01-01T00:00:00Z"),
    );
    assert_eq!(cluster.step(), (1, 0));
}

#[test]
fn pods_that_are_not_ready_go_first() {
    let mut cluster = Cluster::new(3);
    cluster.step();
    cluster.make_all_ready();
    let unready = cluster.pods().nth(1).unwrap();
    unready.set(&["status", "conditions"], json!([]));
    let key = unready.key.clone();
    cluster.deployment().set(&["spec", "replicas"], json!(2));
    assert_eq!(next_steps(&cluster.0), [Step::Delete(key)]);
}

#[test]
fn rolling_update_never_goes_below_what_is_wanted() {
    for replicas in [1u32, 2, 3, 4, 10] {
        let mut cluster = Cluster::new(replicas);
        cluster.step();
        cluster.make_all_ready();
        cluster.set_template_image("nginx:2");
        let wanted = usize::try_from(replicas).unwrap();
        let mut rounds = 0;
        loop {
            let steps = cluster.step();
            assert!(
                cluster.ready() >= wanted - wanted / 4,
                "{replicas} replicas: too few are ready"
            );
            assert!(
                cluster.pods().count() <= wanted + wanted.div_ceil(4),
                "too many pods"
            );
            if steps == (0, 0) && cluster.ready() == cluster.pods().count() {
                break;
            }
            cluster.make_all_ready();
            rounds += 1;
            assert!(rounds < 50, "{replicas} replicas: the update does not end");
        }
        assert_eq!(cluster.pods().count(), wanted);
        assert!(
            cluster
                .pods()
                .all(|pod| pod.value.to_string().contains("nginx:2"))
        );
    }
}

#[test]
fn recreate_ends_the_old_pods_first() {
    let mut cluster = Cluster::new(2);
    cluster
        .deployment()
        .set(&["spec", "strategy"], json!({"type": "Recreate"}));
    cluster.step();
    cluster.make_all_ready();
    cluster.set_template_image("nginx:2");
    assert_eq!(cluster.step(), (0, 2));
    assert_eq!(cluster.step(), (2, 0));
}

#[test]
fn pods_of_a_deployment_that_is_gone_go_too() {
    let mut cluster = Cluster::new(2);
    cluster.step();
    cluster
        .0
        .remove(&ObjectKey::new(Kind::Deployment, "default", "d"));
    assert_eq!(cluster.step(), (0, 2));
    // A deployment of the same name is another one.
    let mut cluster = Cluster::new(2);
    cluster.step();
    cluster.deployment().set(&["metadata", "uid"], json!("u2"));
    assert_eq!(cluster.step(), (2, 2));
}

#[test]
fn pods_that_belong_to_nobody_are_left_alone() {
    let mut cluster = Cluster::new(0);
    cluster.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": []}}));
    assert_eq!(cluster.step(), (0, 0));
}
