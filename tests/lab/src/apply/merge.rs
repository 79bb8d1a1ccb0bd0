//! The merge of `kubectl apply`: what the user no longer says goes, what others added stays.

use serde_json::{Map, Value};

/// The live object with the applied one laid over it; fields of the last applied one that are not
/// applied any more are removed.
pub(super) fn three_way(last: &Value, live: &Value, applied: &Value) -> Value {
    let (Value::Object(live), Value::Object(applied)) = (live, applied) else {
        return applied.clone();
    };
    let nothing = Map::new();
    let last = last.as_object().unwrap_or(&nothing);
    let mut merged = live.clone();
    merged.retain(|key, _| applied.contains_key(key) || !last.contains_key(key));
    for (key, new) in applied {
        let old = last.get(key).unwrap_or(&Value::Null);
        let value = match live.get(key) {
            Some(current) => three_way(old, current, new),
            None => new.clone(),
        };
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::three_way;

    #[test]
    fn others_fields_stay_and_own_old_fields_go() {
        let last = json!({"a": 1, "b": {"x": 1, "y": 2}, "list": [1, 2]});
        let live = json!({"a": 1, "b": {"x": 1, "y": 2, "theirs": 3}, "list": [1, 2], "status": 7});
        let applied = json!({"b": {"x": 5}, "list": [3]});
        let expected = json!({"b": {"x": 5, "theirs": 3}, "list": [3], "status": 7});
        assert_eq!(three_way(&last, &live, &applied), expected);
    }

    #[test]
    fn same_again_changes_nothing() {
        let live = json!({"a": {"b": [1, {"c": 2}]}, "d": null});
        assert_eq!(three_way(&live, &live, &live), live);
    }
}
