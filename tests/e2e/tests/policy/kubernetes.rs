//! Truth tables of Kubernetes' NetworkPolicy, as its own conformance tests have them: three namespaces, three pods in each, two ports,
//! TCP and UDP, every pair of pods tried.
//!
//! Half of the pods are on one node, half on another. Who sends a datagram from another node is proven by nothing, so a rule that
//! names pods never lets it in ([`Try::is_proven`]); a rule for addresses, or for everyone, does.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use tulle_e2e::{
    promises::Promises,
    rig::{READY_DEADLINE, Rig},
};
use tulle_lab::{Edited, Kind, ObjectKey};

use crate::{
    prober::{Fate, PYTHON, Prober, SCRIPT, Target, Transport},
    rounds::until_right,
};

const CLUSTER: &str = "koornacht";
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 2] = ["koornacht-worker", "koornacht-worker2"];
const PORTS: [u16; 2] = [80, 81];
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];
/// How long one try waits for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// One end of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pod {
    namespace: &'static str,
    name: &'static str,
    node: &'static str,
}

/// One try.
#[derive(Debug, Clone, Copy)]
struct Try {
    from: Pod,
    to: Pod,
    transport: Transport,
    port: u16,
}

impl Try {
    /// Whether the destination knows who comes: by TCP a tunnel proves it, on the same node the sender's own link.
    fn is_proven(&self) -> bool {
        self.transport == Transport::Tcp || self.from.node == self.to.node
    }

    fn to(&self, pod: &str) -> bool {
        format!("{}/{}", self.to.namespace, self.to.name) == pod
    }

    fn from(&self, pod: &str) -> bool {
        format!("{}/{}", self.from.namespace, self.from.name) == pod
    }
}

/// A step: what is applied, what goes (by name in namespace x), and what passes then.
struct Step {
    name: &'static str,
    apply: &'static str,
    delete: &'static [&'static str],
    passes: fn(&Try) -> bool,
}

#[test]
fn network_policies_hold_between_all_pods() -> Result<()> {
    let mut scene = Scene::up()?;
    let mut promises = Promises::default();
    for step in STEPS {
        let outcome = scene.play(step);
        promises.note(
            step.name,
            outcome.map(|took| eprintln!("after {took:?}: {}", step.name)),
        );
    }
    promises.note("labels that change", scene.labels_change());
    promises.all_kept()
}

struct Scene {
    rig: Rig,
    addresses: BTreeMap<Pod, String>,
    probers: BTreeMap<Pod, Prober>,
}

impl Scene {
    fn up() -> Result<Scene> {
        let rig = Rig::up("knp", &[CLUSTER])?;
        let mut text = String::new();
        for namespace in NAMESPACES {
            write!(
                text,
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{ns: {namespace}}}}}\n"
            )?;
        }
        for pod in pods() {
            let Pod {
                namespace,
                name,
                node,
            } = pod;
            let server = [PYTHON, "-c", SCRIPT, "serve", name, "80", "81"];
            let server = serde_json::to_string(&server)?;
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{pod: {name}}}}}\nspec:\n  \
                 nodeName: {node}\n  containers:\n  - name: main\n    image: tulle.test/host:1\n    command: {server}\n    ports:\n    \
                 - {{name: serve-80-tcp, containerPort: 80, protocol: TCP}}\n    - {{name: serve-81-tcp, containerPort: 81, protocol: TCP}}\n    \
                 - {{name: serve-80-udp, containerPort: 80, protocol: UDP}}\n    - {{name: serve-81-udp, containerPort: 81, protocol: UDP}}\n"
            )?;
        }
        rig.lab.apply_text(CLUSTER, &text)?;
        let (mut addresses, mut probers) = (BTreeMap::new(), BTreeMap::new());
        for pod in pods() {
            let key = ObjectKey::new(Kind::Pod, pod.namespace, pod.name);
            rig.lab.wait_pod_ready(CLUSTER, &key, READY_DEADLINE)?;
            let object = rig.lab.api(CLUSTER)?.get(&key)?.context("no such pod")?;
            let address = object
                .value
                .pointer("/status/podIP")
                .and_then(|ip| ip.as_str());
            addresses.insert(pod, address.context("a pod without an address")?.to_owned());
            probers.insert(pod, Prober::start(&rig, CLUSTER, pod.namespace, pod.name)?);
        }
        Ok(Scene {
            rig,
            addresses,
            probers,
        })
    }

    fn play(&mut self, step: &Step) -> Result<Duration> {
        for name in step.delete {
            let key = ObjectKey::new(Kind::NetworkPolicy, "x", name);
            self.rig.lab.delete(CLUSTER, &key)?;
        }
        if !step.apply.is_empty() {
            // An address of the lab, where the text needs one.
            let is_other = |(pod, _): &(&Pod, &String)| pod.namespace == "y" && pod.name == "b";
            let (_, other) = self.addresses.iter().find(is_other).context("no y/b")?;
            let text = step.apply.replace("ADDRESS_OF_Y_B", other);
            self.rig.lab.apply_text(CLUSTER, &text)?;
        }
        self.until(step.passes)
    }

    /// A pod's and a namespace's labels are what selectors see now, not what they were.
    fn labels_change(&mut self) -> Result<()> {
        self.play(&Step {
            name: "only friends",
            apply: ONLY_FRIENDS,
            delete: &[],
            passes: |t| !t.to("x/a"),
        })?;
        let edit = |rig: &Rig, kind, namespace: &str, name: &str, edit: &str| {
            let key = ObjectKey::new(kind, namespace, name);
            rig.lab
                .edit(CLUSTER, &key, Edited::Labels, &[edit.to_owned()])
        };
        edit(&self.rig, Kind::Namespace, "", "y", "friend=yes")?;
        self.until(|t| !t.to("x/a") || (t.from.namespace == "y" && t.is_proven()))?;
        edit(&self.rig, Kind::Namespace, "", "y", "friend-")?;
        self.until(|t| !t.to("x/a"))?;
        Ok(())
    }

    /// Tries all pairs until everything is as it should be.
    fn until(&mut self, passes: impl Fn(&Try) -> bool) -> Result<Duration> {
        let right = until_right(|| self.wrong(&passes));
        right.with_context(|| self.rig.evidence())
    }

    fn wrong(&mut self, passes: &impl Fn(&Try) -> bool) -> Result<Vec<String>> {
        let mut asked = Vec::new();
        for (from, prober) in &mut self.probers {
            let others = pods().filter(|to| to != from);
            let tries: Vec<Try> = others.flat_map(|to| tries(*from, to)).collect();
            let target = |t: &Try| Target(t.transport, self.addresses[&t.to].clone(), t.port);
            prober.ask(&tries.iter().map(target).collect::<Vec<_>>(), PATIENCE)?;
            asked.push(tries);
        }
        let mut wrong = Vec::new();
        for (tries, prober) in asked.iter().zip(self.probers.values_mut()) {
            for (one, fate) in tries.iter().zip(prober.answer()?) {
                // What is denied looks like a drop, not like an error.
                let wanted = if passes(one) { Fate::Ok } else { Fate::Silent };
                if fate != wanted {
                    wrong.push(format!("{one:?} was {fate:?}, not {wanted:?}"));
                }
            }
        }
        Ok(wrong)
    }
}

fn pods() -> impl Iterator<Item = Pod> {
    let of = |namespace| PODS.into_iter().map(move |name| (namespace, name));
    let names = NAMESPACES.into_iter().flat_map(of);
    names
        .zip(NODES.into_iter().cycle())
        .map(|((namespace, name), node)| Pod {
            namespace,
            name,
            node,
        })
}

fn tries(from: Pod, to: Pod) -> impl Iterator<Item = Try> {
    TRANSPORTS.into_iter().flat_map(move |transport| {
        PORTS.into_iter().map(move |port| Try {
            from,
            to,
            transport,
            port,
        })
    })
}

const STEPS: &[Step] = &[
    Step {
        name: "without policies all passes",
        apply: "",
        delete: &[],
        passes: |_| true,
    },
    Step {
        name: "default deny for ingress",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny-in, namespace: x}\nspec:\n  podSelector: {}\n  policyTypes: [Ingress]\n",
        delete: &[],
        passes: |t| t.to.namespace != "x",
    },
    Step {
        name: "stacked: own namespace too",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: own, namespace: x}\nspec:\n  podSelector: {}\n  ingress:\n  - from: [{podSelector: {}}]\n",
        delete: &[],
        passes: |t| t.to.namespace != "x" || (t.from.namespace == "x" && t.is_proven()),
    },
    Step {
        name: "default deny for both directions",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny-all, namespace: x}\nspec:\n  podSelector: {}\n  policyTypes: [Ingress, Egress]\n",
        delete: &["own", "deny-in"],
        passes: |t| t.to.namespace != "x" && t.from.namespace != "x",
    },
    Step {
        name: "a pod selector means the own namespace",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {pod: b}}}]\n",
        delete: &["deny-all"],
        passes: |t| !t.to("x/a") || (t.from("x/b") && t.is_proven()),
    },
    Step {
        name: "an update: a namespace selector",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {ns: y}}}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || (t.from.namespace == "y" && t.is_proven()),
    },
    Step {
        name: "both selectors in one peer are ANDed",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || (t.from("y/b") && t.is_proven()),
    },
    Step {
        name: "two peers are ORed",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {ns: y}}}, {podSelector: {matchLabels: {pod: b}}}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || (t.is_proven() && (t.from.namespace == "y" || t.from("x/b"))),
    },
    Step {
        name: "expressions",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}\n  ingress:\n  - from:\n    - namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [y]}, {key: ns, operator: Exists}]}\n      podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}\n",
        delete: &[],
        passes: |t| {
            !(t.to("x/a") || t.to("x/b"))
                || (t.is_proven() && t.from.namespace != "y" && t.from.name != "c")
        },
    },
    Step {
        name: "a port by number, of one protocol",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - ports: [{port: 81, protocol: TCP}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || (t.port == 81 && t.transport == Transport::Tcp),
    },
    Step {
        name: "a port by name",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - ports: [{port: serve-80-udp, protocol: UDP}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || (t.port == 80 && t.transport == Transport::Udp),
    },
    Step {
        name: "a range of ports",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - ports: [{port: 81, endPort: 90, protocol: TCP}, {port: 70, endPort: 80, protocol: UDP}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || (t.port == 81) == (t.transport == Transport::Tcp),
    },
    Step {
        name: "a block of addresses, less one",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - from: [{ipBlock: {cidr: 10.1.0.0/16, except: [ADDRESS_OF_Y_B/32]}}]\n",
        delete: &[],
        passes: |t| !t.to("x/a") || !t.from("y/b"),
    },
    Step {
        name: "egress to one namespace, on one port",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: out, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{namespaceSelector: {matchLabels: {ns: y}}}]\n    ports: [{port: 80, protocol: TCP}, {port: 81, protocol: UDP}]\n",
        delete: &["p"],
        passes: |t| {
            !t.from("x/a")
                || (t.to.namespace == "y" && (t.port == 80) == (t.transport == Transport::Tcp))
        },
    },
    Step {
        name: "egress to an address",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: out, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{ipBlock: {cidr: ADDRESS_OF_Y_B/32}}]\n",
        delete: &[],
        passes: |t| !t.from("x/a") || t.to("y/b"),
    },
    Step {
        name: "allow all beats deny all",
        apply: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny-all, namespace: x}\nspec:\n  podSelector: {}\n  policyTypes: [Ingress, Egress]\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: allow-all, namespace: x}\nspec:\n  podSelector: {}\n  policyTypes: [Ingress, Egress]\n  ingress: [{}]\n  egress: [{}]\n",
        delete: &["out"],
        passes: |_| true,
    },
    Step {
        name: "no policy is left",
        apply: "",
        delete: &["deny-all", "allow-all"],
        passes: |_| true,
    },
];

const ONLY_FRIENDS: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: friends, namespace: x}\nspec:\n  podSelector: {matchLabels: {pod: a}}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {friend: \"yes\"}}}]\n";
