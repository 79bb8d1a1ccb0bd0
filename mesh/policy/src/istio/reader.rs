//! Walks an object and knows at each step where it is, so that an error can name the field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tulle_model::NamespacedName;

use super::{Kind, ReadPolicyError};

/// What all of Istio's objects have.
pub(super) struct Manifest<'a> {
    pub(super) kind: Kind,
    pub(super) key: NamespacedName,
    pub(super) annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, as the API server writes it; empty when the object never was in one.
    pub(super) created: String,
    pub(super) spec: Node<'a>,
}

impl<'a> Manifest<'a> {
    pub(super) fn read(manifest: &'a Value) -> Result<Self, ReadPolicyError> {
        let text = |name: &str| {
            manifest
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (version, kind) = (text("apiVersion"), text("kind"));
        let known_version = matches!(
            version,
            "security.istio.io/v1" | "security.istio.io/v1beta1"
        );
        let kind = match kind {
            "AuthorizationPolicy" if known_version => Kind::AuthorizationPolicy,
            "PeerAuthentication" if known_version => Kind::PeerAuthentication,
            _ => {
                let found = format!("{kind:?} of {version:?}")
                    .chars()
                    .take(128)
                    .collect();
                return Err(ReadPolicyError::Kind { found });
            }
        };
        let metadata = Node::new("metadata", manifest.get("metadata").unwrap_or(&Value::Null));
        let name = metadata.required("name")?.name()?;
        let namespace = match metadata.get("namespace")? {
            Some(namespace) => namespace.name()?,
            None => NAMESPACE_DEFAULT,
        };
        let annotations = metadata
            .get("annotations")?
            .map_or(Ok(BTreeMap::new()), |node| node.text_map())?;
        let created = match metadata.get("creationTimestamp")? {
            Some(node) => node.text()?.to_owned(),
            None => String::new(),
        };
        Ok(Manifest {
            kind,
            key: NamespacedName::new(namespace, name),
            annotations,
            created,
            spec: Node::new("spec", manifest.get("spec").unwrap_or(&Value::Null)),
        })
    }
}

/// A value and where it stands.
pub(super) struct Node<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    pub(super) fn new(path: impl Into<String>, value: &'a Value) -> Self {
        Node {
            path: path.into(),
            value,
        }
    }

    pub(super) fn refuse(&self, expected: &'static str) -> ReadPolicyError {
        ReadPolicyError::field(&self.path, self.value, expected)
    }

    /// `null` is an empty object, as `spec:` with nothing behind it.
    fn fields(&self) -> Result<Option<&'a Map<String, Value>>, ReadPolicyError> {
        match self.value {
            Value::Object(fields) => Ok(Some(fields)),
            Value::Null => Ok(None),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(self.refuse("an object"))
            }
        }
    }

    /// Refuses a field that this build does not know: it might narrow what is allowed.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ReadPolicyError> {
        for name in self.fields()?.into_iter().flat_map(Map::keys) {
            if !known.contains(&name.as_str()) {
                let path = format!("{}.{name}", self.path);
                return Err(ReadPolicyError::field(
                    path,
                    "a value",
                    "no field of this name",
                ));
            }
        }
        Ok(())
    }

    /// A field; `null` is the same as no field.
    pub(super) fn get(&self, name: &str) -> Result<Option<Node<'a>>, ReadPolicyError> {
        let value = self
            .fields()?
            .and_then(|fields| fields.get(name))
            .filter(|value| !value.is_null());
        Ok(value.map(|value| Node::new(format!("{}.{name}", self.path), value)))
    }

    pub(super) fn required(&self, name: &str) -> Result<Node<'a>, ReadPolicyError> {
        let missing =
            || ReadPolicyError::field(format!("{}.{name}", self.path), "nothing", "a value");
        self.get(name)?.ok_or_else(missing)
    }

    /// The items of a list field; no field = `None`. An empty list is refused, as in Istio: it looks like "none" and
    /// would mean "any".
    pub(super) fn list(&self, name: &str) -> Result<Option<Vec<Node<'a>>>, ReadPolicyError> {
        let Some(node) = self.get(name)? else {
            return Ok(None);
        };
        match node.value {
            Value::Array(items) if !items.is_empty() => {
                let at = |(i, value)| Node::new(format!("{}[{i}]", node.path), value);
                Ok(Some(items.iter().enumerate().map(at).collect()))
            }
            _ => Err(node.refuse("a list that is not empty")),
        }
    }

    /// As `list`, but an empty list is as good as none. For lists whose neighbours say enough, as in Istio.
    pub(super) fn list_or_empty(&self, name: &str) -> Result<Vec<Node<'a>>, ReadPolicyError> {
        match self.get(name)? {
            Some(Node {
                value: Value::Array(items),
                ..
            }) if items.is_empty() => Ok(Vec::new()),
            Some(_) | None => Ok(self.list(name)?.unwrap_or_default()),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, ReadPolicyError> {
        self.value
            .as_str()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| self.refuse("a text that is not empty"))
    }

    /// A part of a key.
    fn name(&self) -> Result<&'a str, ReadPolicyError> {
        let text = self.text()?;
        if text.contains('/') {
            Err(self.refuse("a name without '/'"))
        } else {
            Ok(text)
        }
    }

    pub(super) fn text_map(&self) -> Result<BTreeMap<String, String>, ReadPolicyError> {
        let fields = self.fields()?.into_iter().flatten();
        fields
            .map(|(name, value)| {
                let refused =
                    || ReadPolicyError::field(format!("{}.{name}", self.path), value, "a text");
                Ok((name.clone(), value.as_str().ok_or_else(refused)?.to_owned()))
            })
            .collect()
    }

    /// All fields with their names; `null` is the same as no field.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, ReadPolicyError> {
        let fields = self
            .fields()?
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null());
        Ok(fields
            .map(|(name, value)| {
                (
                    name.as_str(),
                    Node::new(format!("{}.{name}", self.path), value),
                )
            })
            .collect())
    }
}

/// `selector.matchLabels`; no selector = `None`.
pub(super) fn read_selector(
    spec: &Node<'_>,
) -> Result<Option<BTreeMap<String, String>>, ReadPolicyError> {
    let Some(selector) = spec.get("selector")? else {
        return Ok(None);
    };
    selector.only(&["matchLabels"])?;
    selector
        .get("matchLabels")?
        .map_or(Ok(BTreeMap::new()), |labels| labels.text_map())
        .map(Some)
}

/// Where Kubernetes puts an object that names no namespace.
const NAMESPACE_DEFAULT: &str = "default";
