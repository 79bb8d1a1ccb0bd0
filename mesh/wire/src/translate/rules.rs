//! Rules: as JSON in a message of ours, since only programs of ours read them.

use prost::Message;
use tulle_model::Rules;

use super::DecodeResourceError;
use crate::tulle;

/// Writes rules.
pub fn encode_rules(rules: &Rules) -> tulle::Rules {
    // Every key of every map in it is text and no type of it can refuse.
    let json = serde_json::to_vec(rules).unwrap_or_default();
    tulle::Rules { json }
}

/// Reads rules.
///
/// # Errors
///
/// The bytes are not such a message, or it holds something that this build does not know: rules are taken whole or not at all.
pub fn decode_rules(bytes: &[u8]) -> Result<Rules, DecodeResourceError> {
    let message = tulle::Rules::decode(bytes)?;
    serde_json::from_slice(&message.json).map_err(|err| {
        DecodeResourceError::field(
            "rules.json",
            err.to_string(),
            "rules as this version knows them",
        )
    })
}
