//! Faults of manifests, collected with their places.

use std::fmt;

use thiserror::Error;

use super::{ManifestText, locate};

/// One fault of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFault {
    /// The file.
    pub file: String,
    /// The line, from 1, if it is known.
    pub line: Option<usize>,
    /// The field, empty for the whole document.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for ManifestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Manifests are not usable; none of them was applied.
#[derive(Debug, Error)]
#[error("{}", list(faults))]
pub struct ReadManifestError {
    /// Every fault that was found.
    pub faults: Vec<ManifestFault>,
}

fn list(faults: &[ManifestFault]) -> String {
    faults
        .iter()
        .map(ManifestFault::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The way from a document's root to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldPath(Vec<Step>);

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// To the value of a key.
    Key(String),
    /// To an element of a list.
    Index(usize),
}

impl FieldPath {
    pub(super) fn root() -> FieldPath {
        FieldPath(Vec::new())
    }

    pub(super) fn key(&self, key: &str) -> FieldPath {
        self.with(Step::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> FieldPath {
        self.with(Step::Index(index))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    fn with(&self, step: Step) -> FieldPath {
        let mut steps = self.0.clone();
        steps.push(step);
        FieldPath(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{key}")?,
                Step::Key(key) if key.contains('.') => write!(f, "[{key:?}]")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Collects faults.
pub(super) struct Report<'a> {
    texts: &'a [ManifestText],
    faults: Vec<ManifestFault>,
}

impl<'a> Report<'a> {
    pub(super) fn new(texts: &'a [ManifestText]) -> Report<'a> {
        Report {
            texts,
            faults: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// A fault of a field, in document `place.1` of text `place.0`.
    pub(super) fn add(&mut self, place: (usize, usize), path: &FieldPath, message: String) {
        if self.is_full() {
            // To look for its line would take a while, and nobody would see it.
            return;
        }
        let Some(text) = self.texts.get(place.0) else {
            return;
        };
        let line = locate::line(&text.text, place.1, path.steps());
        self.push(ManifestFault {
            file: text.file.clone(),
            line,
            field: path.to_string(),
            message,
        });
    }

    /// What the YAML parser says.
    pub(super) fn add_syntax(&mut self, source: usize, error: &serde_yaml_ng::Error) {
        let Some(text) = self.texts.get(source) else {
            return;
        };
        let line = error.location().map(|location| location.line());
        let message = error.to_string();
        self.push(ManifestFault {
            file: text.file.clone(),
            line,
            field: String::new(),
            message,
        });
    }

    /// Where a field is, in words.
    pub(super) fn line_of(&self, place: (usize, usize), path: &FieldPath) -> String {
        let Some(text) = self.texts.get(place.0) else {
            return String::new();
        };
        match locate::line(&text.text, place.1, path.steps()) {
            Some(line) => format!("at {}:{line}", text.file),
            None => format!("in {}", text.file),
        }
    }

    pub(super) fn into_error(self) -> ReadManifestError {
        ReadManifestError {
            faults: self.faults,
        }
    }

    fn push(&mut self, fault: ManifestFault) {
        if !self.is_full() {
            self.faults.push(fault);
        }
    }

    /// Past some point a list of faults helps nobody.
    fn is_full(&self) -> bool {
        self.faults.len() >= FAULTS_MAX
    }
}

const FAULTS_MAX: usize = 50;
