//! What requests may be: HTTP rules, compiled once and asked for each request.
//!
//! Decides whether a request is one of those that a rule lists, and what becomes of its headers. Expressions must match the whole
//! value; the path is the one that the server will see, with its query. A list of a thousand expressions is matched in a few passes
//! over the path (sets of automata), where Envoy tries one expression after the other.
//!
//! Bytes count, not letters: `.` is any byte but a line feed, `\d` and `\w` are ASCII, as RE2 has it in Envoy. Matching never takes more
//! than linear time, whatever the expression and whatever the request.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use tulle_model::{HeaderMismatch, HeaderRule, HttpRule};

use crate::compiled::HttpFacts;

/// An expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpressionError {
    /// It is no expression that this matches.
    #[error("{expression:?} is no usable expression (RE2 syntax): {reason}")]
    Syntax {
        /// The expression, cut short.
        expression: String,
        /// What is wrong, in one line.
        reason: String,
    },
    /// It is too large.
    #[error(
        "{expression:?} is too large: an expression may take {EXPRESSION_SIZE_MAX} bytes when it is compiled"
    )]
    TooLarge {
        /// The expression, cut short.
        expression: String,
    },
}

/// Checks that an expression can be compiled.
///
/// # Errors
/// It cannot.
pub fn check_expression(expression: &str) -> Result<(), ExpressionError> {
    compile(expression).map(|_whole| ())
}

/// What has to be done to a request's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Nothing but a note that the header is not as the rule says.
    Note {
        /// Which.
        name: Arc<str>,
    },
    /// Add a value, beside those that are there.
    Add {
        /// Of which header.
        name: Arc<str>,
        /// Which.
        value: Arc<str>,
    },
    /// Take the header away.
    Remove {
        /// Which.
        name: Arc<str>,
    },
    /// Make this its only value.
    Set {
        /// Of which header.
        name: Arc<str>,
        /// Which.
        value: Arc<str>,
    },
}

/// A rule's list of requests, compiled.
#[derive(Debug)]
pub struct HttpMatcher {
    requests: Vec<Request>,
    /// The paths of the requests that name one, in chunks of `CHUNK_LEN`.
    paths: Vec<PathChunk>,
    /// The requests that name no path.
    without_path: Vec<usize>,
}

impl HttpMatcher {
    /// Compiles a list. A request whose expression cannot be compiled matches nothing: it can only allow.
    pub fn new(rules: &[HttpRule]) -> Self {
        let mut requests = Vec::with_capacity(rules.len());
        let mut with_path = Vec::new();
        let mut without_path = Vec::new();
        for rule in rules {
            let Ok(request) = Request::new(rule) else {
                continue;
            };
            match &rule.path {
                Some(path) if check_expression(path).is_ok() => {
                    with_path.push((requests.len(), path.as_str()));
                }
                Some(_) => continue,
                None => without_path.push(requests.len()),
            }
            requests.push(request);
        }
        let paths = with_path.chunks(CHUNK_LEN).map(PathChunk::new).collect();
        HttpMatcher {
            requests,
            paths,
            without_path,
        }
    }

    /// Whether the request is on the list, and then what has to be done to its headers. The first on the list that fits counts.
    pub fn matches(&self, facts: &HttpFacts<'_>) -> Option<Vec<HeaderEdit>> {
        let mut first: Option<(usize, Vec<HeaderEdit>)> = None;
        let by_path = self
            .paths
            .iter()
            .flat_map(|chunk| chunk.fitting(facts.path));
        for index in by_path.chain(self.without_path.iter().copied()) {
            if first.as_ref().is_some_and(|(held, _)| *held < index) {
                continue;
            }
            if let Some(edits) = self.requests.get(index).and_then(|r| r.matches(facts)) {
                first = Some((index, edits));
            }
        }
        first.map(|(_, edits)| edits)
    }
}

/// The conditions of one request but its path.
#[derive(Debug)]
struct Request {
    method: Option<Regex>,
    host: Option<Regex>,
    headers: Vec<HeaderRule>,
}

impl Request {
    fn new(rule: &HttpRule) -> Result<Self, ExpressionError> {
        let compiled = |expression: &Option<String>| expression.as_deref().map(compile).transpose();
        Ok(Request {
            method: compiled(&rule.method)?,
            host: compiled(&rule.host)?,
            headers: rule.headers.clone(),
        })
    }

    fn matches(&self, facts: &HttpFacts<'_>) -> Option<Vec<HeaderEdit>> {
        let fits = |wanted: &Option<Regex>, value: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.is_match(value.as_bytes()))
        };
        if !fits(&self.method, facts.method) || !fits(&self.host, facts.authority) {
            return None;
        }
        let mut edits = Vec::new();
        for rule in &self.headers {
            if !has_header(rule, facts.headers) {
                edits.push(edit_for(rule)?);
            }
        }
        Some(edits)
    }
}

/// Paths that are matched in one pass.
#[derive(Debug)]
struct PathChunk {
    set: RegexSet,
    /// Which request the expression of each place in the set belongs to.
    requests: Vec<usize>,
}

impl PathChunk {
    /// All of them were found to compile by themselves.
    fn new(paths: &[(usize, &str)]) -> Self {
        let set = RegexSetBuilder::new(paths.iter().map(|(_, path)| whole(path)))
            .unicode(false)
            .size_limit(EXPRESSION_SIZE_MAX.saturating_mul(CHUNK_LEN + 1))
            .build();
        PathChunk {
            // Cannot fail, and if it did nothing would match: the requests are not allowed then.
            set: set.unwrap_or_else(|_| RegexSet::empty()),
            requests: paths.iter().map(|(request, _)| *request).collect(),
        }
    }

    fn fitting(&self, path: &str) -> impl Iterator<Item = usize> {
        let places = self.set.matches(path.as_bytes()).into_iter();
        places.filter_map(|place| self.requests.get(place).copied())
    }
}

/// Several values count as one, joined by commas, as Envoy compares them: a value that is right does not hide one that is wrong.
fn has_header(rule: &HeaderRule, headers: &[(&str, &[u8])]) -> bool {
    let mut values = headers
        .iter()
        .filter(|(name, _)| *name == rule.name)
        .map(|(_, value)| *value);
    let Some(first) = values.next() else {
        return false;
    };
    let Some(wanted) = &rule.value else {
        return true;
    };
    match values.next() {
        None => first == wanted.as_bytes(),
        Some(second) => {
            let mut joined = first.to_vec();
            for value in std::iter::once(second).chain(values) {
                joined.push(b',');
                joined.extend_from_slice(value);
            }
            joined == wanted.as_bytes()
        }
    }
}

/// What becomes of a request that lacks a header; `None` = it does not match.
fn edit_for(rule: &HeaderRule) -> Option<HeaderEdit> {
    let name: Arc<str> = rule.name.as_str().into();
    let value: Arc<str> = rule.value.as_deref().unwrap_or_default().into();
    match rule.mismatch {
        HeaderMismatch::Fail => None,
        HeaderMismatch::Log => Some(HeaderEdit::Note { name }),
        HeaderMismatch::Add => Some(HeaderEdit::Add { name, value }),
        HeaderMismatch::Delete => Some(HeaderEdit::Remove { name }),
        HeaderMismatch::Replace => Some(HeaderEdit::Set { name, value }),
    }
}

/// Compiles an expression so that it has to match the whole value.
fn compile(expression: &str) -> Result<Regex, ExpressionError> {
    // By itself first: `a)|(b` is no expression, but would become one between the parentheses, and match parts.
    build(expression, expression)?;
    build(expression, &whole(expression))
}

fn build(expression: &str, text: &str) -> Result<Regex, ExpressionError> {
    let built = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(EXPRESSION_SIZE_MAX)
        .build();
    let shown = || expression.chars().take(SHOWN_LEN_MAX).collect();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => ExpressionError::TooLarge {
            expression: shown(),
        },
        error => ExpressionError::Syntax {
            expression: shown(),
            reason: last_line(&error.to_string()),
        },
    })
}

fn whole(expression: &str) -> String {
    format!("^(?:{expression})$")
}

/// The error's text is a drawing of several lines; the last says what is wrong.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// The compiled size of one expression: some hundred times that of the usual ones, and a small part of a proxy's memory.
pub const EXPRESSION_SIZE_MAX: usize = 1 << 18;
/// How many paths are matched in one pass.
const CHUNK_LEN: usize = 64;
/// How much of an expression an error shows.
const SHOWN_LEN_MAX: usize = 200;

#[cfg(test)]
mod tests;
