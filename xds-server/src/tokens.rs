//! Which node (or operator) presents which token. Only hashes are stored; a token itself is never logged, kept or compared byte by byte.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

/// The file of token hashes, read again when it changes.
#[derive(Debug)]
pub struct NodeTokens {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signature: Option<Signature>,
    hashes: Arc<Hashes>,
    fault: Option<String>,
}

/// What is kept of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

type Hashes = BTreeMap<String, TokenHash>;
type Signature = (u64, u64, Option<SystemTime>);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadTokensError {
    /// The file cannot be read.
    #[error("cannot read the tokens {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("the tokens {} are larger than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a JSON object of texts.
    #[error("the tokens {} are not a JSON object of name and hash", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A hash is not one.
    #[error("the tokens {} hold no SHA-256 in 64 hex digits for {node:?}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Whose.
        node: String,
    },
}

impl NodeTokens {
    /// Uses the file at `path`; it may come into being later.
    pub fn new(path: PathBuf) -> Self {
        NodeTokens {
            path,
            state: Mutex::new(State::default()),
        }
    }

    /// The node that presents this token.
    ///
    /// Every stored hash is compared, each in constant time, so that the time tells nothing about the tokens.
    pub async fn node_of(&self, token: &[u8]) -> Option<String> {
        self.node_of_hash(&TokenHash::of(token)).await
    }

    /// The same for a token that was presented earlier.
    pub async fn node_of_hash(&self, given: &TokenHash) -> Option<String> {
        self.reload().await;
        let hashes = Arc::clone(
            &self
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .hashes,
        );
        let mut found = None;
        for (node, hash) in hashes.iter() {
            if equal_in_constant_time(&hash.0, &given.0) {
                found = Some(node.clone());
            }
        }
        found
    }

    /// What is wrong with the file now.
    pub fn fault(&self) -> Option<String> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fault
            .clone()
    }

    /// Reads the file again if it is another one; a bad file leaves the last good content in force.
    pub async fn reload(&self) {
        let metadata = tokio::fs::metadata(&self.path).await;
        let signature = metadata
            .as_ref()
            .ok()
            .map(|m| (m.ino(), m.len(), m.modified().ok()));
        let same = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            signature.is_some() && state.signature == signature
        };
        if same {
            return;
        }
        let read = read(&self.path).await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.signature = signature;
        match read {
            Ok(hashes) => {
                state.hashes = Arc::new(hashes);
                state.fault = None;
            }
            Err(error) => {
                let text = crate::chain::Chain(&error).to_string();
                if state.fault.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                }
                state.fault = Some(text);
            }
        }
    }
}

impl TokenHash {
    /// The hash of this token.
    pub fn of(token: &[u8]) -> Self {
        TokenHash(Sha256::digest(token).into())
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// The token in the value of an `authorization` header, if it is one of a bearer.
pub fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let token = value.strip_prefix(b"Bearer ")?.trim_ascii();
    (!token.is_empty() && token.len() <= TOKEN_LEN_MAX).then_some(token)
}

async fn read(path: &Path) -> Result<Hashes, ReadTokensError> {
    let failed = |source| ReadTokensError::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let len = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    if u64::try_from(len).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(ReadTokensError::TooLarge {
            path: path.to_path_buf(),
        });
    }
    let texts: BTreeMap<String, String> =
        serde_json::from_slice(&bytes).map_err(|source| ReadTokensError::Json {
            path: path.to_path_buf(),
            source,
        })?;
    let hash = |(node, text): (String, String)| match parse_hash(&text) {
        Some(hash) => Ok((node, hash)),
        None => Err(ReadTokensError::Hash {
            path: path.to_path_buf(),
            node,
        }),
    };
    texts.into_iter().map(hash).collect()
}

fn parse_hash(text: &str) -> Option<TokenHash> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(TokenHash(hash))
}

/// Looks at every byte whatever the first ones are.
fn equal_in_constant_time(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// A hundred bytes for each of 40,000 nodes.
const FILE_BYTES_MAX: u64 = 4 << 20;
const TOKEN_LEN_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests;
