//! What the mesh's views rely on in their persistent maps: a difference between two versions is never overlooked.

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};

#[test]
fn one_change_is_one_difference_wherever_it_is() {
    for len in [10_u32, 17, 64, 100, 1000, 4000] {
        let before: OrdMap<Arc<str>, u32> = (0..len).map(|i| (key(i), 0_u32)).collect();
        for i in 0..len {
            let mut after = before.clone();
            after.insert(key(i), 1);
            let mut differences = before.diff(&after);
            let Some(DiffItem::Update {
                new: (found, _), ..
            }) = differences.next()
            else {
                panic!("the change of {i} of {len} is overlooked");
            };
            assert_eq!(*found, key(i));
            assert!(differences.next().is_none(), "{i} of {len}");
            assert_ne!(before, after, "{i} of {len}");
            after.remove(&key(i));
            assert_eq!(before.diff(&after).count(), 1, "{i} of {len} removed");
        }
    }
}

fn key(i: u32) -> Arc<str> {
    Arc::from(format!("{i:08}"))
}
