//! How much one step of a pump carries.
//!
//! A stream in full flow always has more to carry, and whoever waits for the pod's turn to end, or for the runtime to look at its
//! sockets, would wait for it. So a step carries so much each way and leaves the rest to the next; each way for itself, so that
//! neither starves the other.

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll},
};

/// What one step has carried in one direction.
#[derive(Debug, Default)]
pub(super) struct Carried(usize);

impl Carried {
    pub(super) fn count(&mut self, len: usize) {
        self.0 += len;
    }

    /// Whether the step has carried enough. If so the task will be woken, once the runtime has looked at what else is ready.
    pub(super) fn is_enough(&self, cx: &mut Context<'_>) -> bool {
        let is_enough = self.0 >= STEP_LEN_MAX;
        if is_enough {
            let _not_yet: Poll<()> = pin!(tokio::task::yield_now()).poll(cx);
        }
        is_enough
    }
}

/// Some hundred microseconds of work; a turn of the runtime costs about one.
const STEP_LEN_MAX: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    #[test]
    fn messages_are_never_enough() {
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut carried = Carried::default();
        assert!(!carried.is_enough(&mut cx));
        carried.count(STEP_LEN_MAX - 1);
        assert!(!carried.is_enough(&mut cx));
        carried.count(1);
        assert!(carried.is_enough(&mut cx));
    }
}
