//! One object of a cluster: its whole text as a value, and its name.

use std::{fmt, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::kind::Kind;

/// What makes an object unique in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for objects of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of a namespaced object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
        let namespace = if kind.is_namespaced() {
            namespace.to_owned()
        } else {
            String::new()
        };
        ObjectKey {
            kind,
            namespace,
            name: name.to_owned(),
        }
    }

    /// The object's file in the manifests directory: `<kind>/<namespace>_<name>.yaml`.
    pub(crate) fn file_name(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{}/{}.yaml", self.kind.directory(), self.name),
            namespace => format!("{}/{namespace}_{}.yaml", self.kind.directory(), self.name),
        }
    }

    /// The object whose file this is, if it has the name that [`ObjectKey::file_name`] gives.
    pub(crate) fn of_file(path: &Path) -> Option<ObjectKey> {
        let directory = path.parent()?.file_name()?.to_str()?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.directory() == directory)?;
        let stem = path.file_name()?.to_str()?.strip_suffix(".yaml")?;
        // No name has an underscore in it.
        let (namespace, name) = match stem.split_once('_') {
            Some(parts) if kind.is_namespaced() => parts,
            None if !kind.is_namespaced() => ("", stem),
            _ => return None,
        };
        Some(ObjectKey::new(kind, namespace, name))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.resource(), self.name)
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// What makes it unique.
    pub key: ObjectKey,
    /// All of it.
    pub value: Value,
}

impl Object {
    /// Reads kind and name from a value.
    pub(crate) fn from_value(value: Value) -> Option<Object> {
        let kind = Kind::from_manifest(value.get("kind")?.as_str()?)?;
        let metadata = value.get("metadata")?;
        let name = metadata.get("name")?.as_str()?;
        let namespace = metadata
            .get("namespace")
            .and_then(Value::as_str)
            .unwrap_or(DEFAULT_NAMESPACE);
        Some(Object {
            key: ObjectKey::new(kind, namespace, name),
            value,
        })
    }

    /// The object as the Kubernetes type `T`. `None` if it is of another form.
    pub(crate) fn view<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(&self.value).ok()
    }

    /// A field by its path of keys.
    pub(crate) fn field(&self, path: &[&str]) -> Option<&Value> {
        path.iter()
            .try_fold(&self.value, |value, key| value.get(key))
    }

    /// A text field by its path of keys.
    pub(crate) fn text(&self, path: &[&str]) -> Option<&str> {
        self.field(path)?.as_str()
    }

    /// Sets a field, making the maps on the way.
    pub(crate) fn set(&mut self, path: &[&str], new: Value) {
        if let Some((last, parents)) = path.split_last() {
            self.map_at(parents).insert((*last).to_owned(), new);
        }
    }

    /// The map at a path, made if it is not there.
    pub(crate) fn map_at(&mut self, path: &[&str]) -> &mut Map<String, Value> {
        let mut map = as_map(&mut self.value);
        for key in path {
            map = as_map(map.entry((*key).to_owned()).or_insert(Value::Null));
        }
        map
    }

    /// The object's unique id.
    pub fn uid(&self) -> &str {
        self.text(&["metadata", "uid"]).unwrap_or_default()
    }

    /// A label's value.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.field(&["metadata", "labels"])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("the line above made it a map"),
    }
}

/// Where objects live that name no namespace.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Kind, ObjectKey};

    #[test]
    fn a_files_name_leads_back_to_its_object() {
        for kind in Kind::ALL {
            let key = ObjectKey::new(kind, "some-space", "a-name");
            let file = Path::new("/somewhere").join(key.file_name());
            assert_eq!(ObjectKey::of_file(&file), Some(key));
        }
        for other in [
            "/service/web.yaml",
            "/node/a_b.yaml",
            "/service/a_b.yml",
            "/cat/a_b.yaml",
            "a.yaml",
        ] {
            assert_eq!(ObjectKey::of_file(Path::new(other)), None, "{other}");
        }
    }
}
