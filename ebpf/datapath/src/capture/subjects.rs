//! As whom the policy tables know the captured pods.
//!
//! What is said of a pod holds whether it is captured already or only later: a pod that starts begins with its identity, or pending.

use std::collections::HashMap;

use tulle_abi::{POD_WITHOUT_SOCKMAP, PODS_MAX, PodValue};

use super::{Pods, Subject, uid_hash};
use crate::{
    PolicySubject, ReconcileError, UID_LEN_MAX,
    raw::Raw,
    reconcile::{read_all, write},
};

impl Pods {
    /// As whom a pod is to be registered.
    pub(super) fn subject(&self, uid: &str, netns: u64) -> Subject {
        match &self.subjects {
            Some(subjects) => subjects.get(uid).copied().unwrap_or_default(),
            // The tables of an earlier process still hold, and so does what it said of the pod.
            None => match self.pods.get(&Raw(netns), 0) {
                Ok(Raw(held)) if held.uid_hash == uid_hash(uid) => Subject {
                    identity: held.identity,
                    flags: held.flags & !POD_WITHOUT_SOCKMAP,
                },
                _ => Subject::default(),
            },
        }
    }

    /// Lets all connections of all pods go through the proxy.
    pub(crate) fn set_all_pending(&mut self) -> Result<(), ReconcileError> {
        self.write_subjects(|_hash| Some(Subject::default()))
            .map(drop)
    }

    /// Makes these pods, and no others, known. Says how many pods changed.
    pub(crate) fn replace_subjects(
        &mut self,
        subjects: &[PolicySubject],
    ) -> Result<usize, ReconcileError> {
        let wanted = by_uid(subjects)?;
        let by_hash = by_hash(&wanted);
        let subject_of = |hash| Some(by_hash.get(&hash).copied().unwrap_or_default());
        let changed = self.write_subjects(subject_of)?;
        self.subjects = Some(wanted);
        Ok(changed)
    }

    /// Changes what is known of some pods. Says how many pods changed.
    pub(crate) fn set_subjects(
        &mut self,
        subjects: &[PolicySubject],
        gone: &[String],
    ) -> Result<usize, ReconcileError> {
        if subjects.is_empty() && gone.is_empty() {
            return Ok(0);
        }
        let mut changes: HashMap<String, Subject> = HashMap::new();
        for uid in gone {
            changes.insert(uid.clone(), Subject::default());
        }
        changes.extend(by_uid(subjects)?);
        let mut known = self.subjects.take().unwrap_or_default();
        for (uid, subject) in &changes {
            if subject.identity == 0 {
                known.remove(uid);
            } else {
                known.insert(uid.clone(), *subject);
            }
        }
        let len = known.len();
        self.subjects = Some(known);
        if len > PODS_MAX {
            return Err(ReconcileError::TooLarge {
                map: "PODS",
                wanted: len,
                limit: PODS_MAX,
            });
        }
        let by_hash = by_hash(&changes);
        self.write_subjects(|hash| by_hash.get(&hash).copied())
    }

    /// Writes what `subject_of` says of the captured pods, by the hash of their uid.
    fn write_subjects(
        &mut self,
        subject_of: impl Fn(u64) -> Option<Subject>,
    ) -> Result<usize, ReconcileError> {
        let held: HashMap<u64, PodValue> = read_all("PODS", &self.pods)?;
        let mut changed = 0;
        for (netns, pod) in held {
            let Some(subject) = subject_of(pod.uid_hash) else {
                continue;
            };
            let value = PodValue {
                identity: subject.identity,
                // What its capture said stays.
                flags: subject.flags | pod.flags & POD_WITHOUT_SOCKMAP,
                ..pod
            };
            if value != pod {
                write("PODS", &mut self.pods, netns, value)?;
                changed += 1;
            }
        }
        Ok(changed)
    }
}

fn by_uid(subjects: &[PolicySubject]) -> Result<HashMap<String, Subject>, ReconcileError> {
    let entries = subjects.iter().map(|subject| {
        let uid = &subject.uid;
        if uid.is_empty() || uid.len() > UID_LEN_MAX {
            return Err(ReconcileError::Uid { uid: uid.clone() });
        }
        let value = Subject {
            identity: subject.identity,
            flags: subject.flags.bits(),
        };
        Ok((uid.clone(), value))
    });
    entries.collect()
}

fn by_hash(subjects: &HashMap<String, Subject>) -> HashMap<u64, Subject> {
    let entries = subjects
        .iter()
        .map(|(uid, subject)| (uid_hash(uid), *subject));
    entries.collect()
}
