//! `matchLabels` and `matchExpressions`, which all languages of Kubernetes have.

use std::collections::BTreeSet;

use tulle_model::{LabelKey, LabelSource, Operator, Requirement, Selector};

use super::{Node, ReadPolicyError};

/// A selector as it is written, before its language adds what it leaves out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    pub(crate) requirements: Vec<Requirement>,
}

impl Labels {
    /// Whether a requirement names the label `name`, whoever shall have given it.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.requirements.iter().any(|r| r.key.name == name)
    }

    pub(crate) fn any_key(&self, fits: impl Fn(&LabelKey) -> bool) -> bool {
        self.requirements.iter().any(|r| fits(&r.key))
    }

    pub(crate) fn need(&mut self, source: LabelSource, name: &str, operator: Operator) {
        self.requirements.push(Requirement {
            key: LabelKey {
                source,
                name: name.to_owned(),
            },
            operator,
        });
    }

    /// Adds that the label `name`, of Kubernetes, has this value.
    pub(crate) fn need_value(&mut self, name: &str, value: &str) {
        let value = BTreeSet::from([value.to_owned()]);
        self.need(LabelSource::K8s, name, Operator::In(value));
    }

    pub(crate) fn into_selector(self) -> Selector {
        Selector {
            requirements: self.requirements,
        }
    }
}

/// Reads a selector; `read_key` says what the language takes for a key.
pub(crate) fn read_labels(
    node: &Node<'_>,
    read_key: impl Fn(&str) -> Result<LabelKey, &'static str>,
) -> Result<Labels, ReadPolicyError> {
    node.only(&["matchLabels", "matchExpressions"])?;
    let mut labels = Labels::default();
    if let Some(wanted) = node.get("matchLabels")? {
        for (text, value) in wanted.all_entries()? {
            let key = read_key(text).map_err(|expected| {
                ReadPolicyError::field(wanted.path(), format!("the key {text:?}"), expected)
            })?;
            let operator = Operator::In(BTreeSet::from([read_value(&value)?]));
            labels.requirements.push(Requirement { key, operator });
        }
    }
    for expression in node.list_or_empty("matchExpressions")? {
        expression.only(&["key", "operator", "values"])?;
        let key_node = expression.required("key")?;
        let key = read_key(key_node.text()?).map_err(|expected| key_node.refuse(expected))?;
        let operator = read_operator(&expression)?;
        labels.requirements.push(Requirement { key, operator });
    }
    Ok(labels)
}

fn read_operator(expression: &Node<'_>) -> Result<Operator, ReadPolicyError> {
    let values: BTreeSet<String> = expression
        .list_or_empty("values")?
        .iter()
        .map(read_value)
        .collect::<Result<_, _>>()?;
    let node = expression.required("operator")?;
    let some = |values: BTreeSet<String>| {
        if values.is_empty() {
            let path = format!("{}.values", expression.path());
            Err(ReadPolicyError::field(
                path,
                "nothing",
                "at least one value",
            ))
        } else {
            Ok(values)
        }
    };
    let operator = match node.text()? {
        "In" => return some(values).map(Operator::In),
        "NotIn" => return some(values).map(Operator::NotIn),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return Err(node.refuse("In, NotIn, Exists or DoesNotExist")),
    };
    if values.is_empty() {
        Ok(operator)
    } else {
        Err(expression
            .required("values")?
            .refuse("no values beside Exists and DoesNotExist"))
    }
}

/// A label's value, as Kubernetes takes it.
fn read_value(node: &Node<'_>) -> Result<String, ReadPolicyError> {
    let text = node.text_or_empty()?;
    let bytes = text.as_bytes();
    let edges = [bytes.first(), bytes.last()];
    let right = text.len() <= LABEL_LEN_MAX
        && edges
            .into_iter()
            .flatten()
            .all(|byte| byte.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| is_label_byte(*byte));
    if right {
        Ok(text.to_owned())
    } else {
        Err(node.refuse("a label's value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"))
    }
}

/// Whether `text` is a key as Kubernetes takes it: a name, perhaps behind a DNS name and a slash.
pub(crate) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let right = |text: &str, len_max| {
        let bytes = text.as_bytes();
        !text.is_empty()
            && text.len() <= len_max
            && bytes.iter().all(|byte| is_label_byte(*byte))
            && [bytes.first(), bytes.last()]
                .into_iter()
                .flatten()
                .all(|byte| byte.is_ascii_alphanumeric())
    };
    right(name, LABEL_LEN_MAX) && prefix.is_none_or(|prefix| right(prefix, PREFIX_LEN_MAX))
}

/// What `is_label_key` asks for.
pub(crate) const LABEL_KEY: &str = "a label's key, such as app or example.com/app";

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Kubernetes' limits.
const LABEL_LEN_MAX: usize = 63;
const PREFIX_LEN_MAX: usize = 253;
