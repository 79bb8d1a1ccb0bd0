//! Hands names that were resolved to who compiles the rules, and waits until the kernel knows them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::timeout;
use tulle_policy::compiled::{LearnedNames, PolicyTouched};

use super::keeper::PolicyStatus;
use crate::{
    kernel_sync::TouchLog,
    published::{Published, Publisher},
};

/// What pods resolved, and how many times that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// Counts changes.
    pub generation: u64,
    /// The names with their addresses.
    pub names: LearnedNames,
}

/// See the module's text.
#[derive(Debug)]
pub struct NameLearner {
    learned: Mutex<Publisher<Learned>>,
    touched: Arc<TouchLog>,
    status: Published<PolicyStatus>,
}

impl NameLearner {
    /// `status` is that of the keeper who reads `learned`.
    pub fn new(
        learned: Publisher<Learned>,
        touched: Arc<TouchLog>,
        status: Published<PolicyStatus>,
    ) -> Self {
        NameLearner {
            learned: Mutex::new(learned),
            touched,
            status,
        }
    }

    /// Makes `names` all that is known of names, and returns when the kernel decides by them; says whether that was in time. An
    /// answer waits for this, so that its application cannot be faster than the rules; but not for longer than Cilium's proxy waits.
    ///
    /// # Cancel safety
    /// The names are taken even when the future is dropped.
    pub async fn install(&self, names: LearnedNames) -> bool {
        let generation = {
            let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            let generation = learned.snapshot().generation + 1;
            learned.publish(Learned { generation, names });
            generation
        };
        self.touched.add_policy(PolicyTouched::default(), false);
        let mut status = self.status.clone();
        let known = status.wait_for(|status| status.learned >= generation);
        timeout(INSTALL_PATIENCE, known)
            .await
            .is_ok_and(|known| known.is_ok())
    }
}

/// `tofqdns-proxy-response-max-delay` of Cilium.
const INSTALL_PATIENCE: Duration = Duration::from_millis(100);
