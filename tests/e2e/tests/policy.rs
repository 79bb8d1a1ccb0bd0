//! What policies let through and what they stop, tried by programs in pods.

#[path = "policy/seed.rs"]
mod seed;

#[path = "policy/kubernetes.rs"]
mod kubernetes;

#[path = "policy/bypass.rs"]
mod bypass;

#[path = "policy/change.rs"]
mod change;

#[path = "policy/standing.rs"]
mod standing;

#[path = "policy/prober.rs"]
mod prober;

#[path = "policy/rounds.rs"]
mod rounds;

#[path = "policy/random_policies.rs"]
mod random_policies;

#[path = "policy/cast.rs"]
mod cast;

#[path = "policy/names.rs"]
mod names;

#[path = "policy/agreement.rs"]
mod agreement;

#[path = "policy/http.rs"]
mod http;
