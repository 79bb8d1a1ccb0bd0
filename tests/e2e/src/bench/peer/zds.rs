//! The protocol between a ztunnel and the agent that hands it pods: one protobuf message per packet of a Unix socket, each
//! answered before the next; a pod's network namespace travels beside its message.
//!
//! The messages are so few that they are written by hand from their field numbers (`istio.workload.zds`).

use anyhow::{Result, bail, ensure};

/// A pod, as the agent tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
}

/// The pod is to be taken in; its namespace goes beside this.
pub(super) fn add(pod: &Pod) -> Vec<u8> {
    let info = [
        text(1, &pod.name),
        text(2, &pod.namespace),
        text(3, &pod.service_account),
    ];
    let add = [text(1, &pod.uid), field(2, &info.concat())];
    field(1, &add.concat())
}

/// The pod is gone.
pub(super) fn remove(uid: &str) -> Vec<u8> {
    field(2, &text(2, uid))
}

/// All pods have been told.
pub(super) fn snapshot_sent() -> Vec<u8> {
    field(3, &[])
}

/// Whether it is a greeting of the version that is spoken here.
pub(super) fn check_hello(packet: &[u8]) -> Result<()> {
    ensure!(
        packet == [0x08, 0x01],
        "the ztunnel greets with {packet:02x?}, expected version 1"
    );
    Ok(())
}

/// What the answer to a request complains of; nothing if all is well.
pub(super) fn complaint(packet: &[u8]) -> Result<Option<String>> {
    let Some(acknowledgement) = read_field(packet, 1) else {
        bail!("the ztunnel answers {packet:02x?}, expected an acknowledgement");
    };
    if acknowledgement.is_empty() {
        return Ok(None);
    }
    let Some(error) = read_field(acknowledgement, 1) else {
        bail!("the ztunnel answers {packet:02x?}, expected an acknowledgement");
    };
    Ok(Some(String::from_utf8_lossy(error).into_owned()))
}

fn text(number: u8, value: &str) -> Vec<u8> {
    field(number, value.as_bytes())
}

/// A field of bytes.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | LENGTH_DELIMITED];
    let mut len = value.len();
    while len >= 0x80 {
        bytes.extend(u8::try_from(len & 0x7f).map(|low| low | 0x80));
        len >>= 7;
    }
    bytes.extend(u8::try_from(len));
    bytes.extend_from_slice(value);
    bytes
}

/// The bytes of a message that has this one field.
fn read_field(message: &[u8], number: u8) -> Option<&[u8]> {
    let (tag, mut rest) = message.split_first()?;
    let (mut len, mut shift) = (0_usize, 0_u32);
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        len |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    (*tag == (number << 3 | LENGTH_DELIMITED) && rest.len() == len).then_some(rest)
}

const LENGTH_DELIMITED: u8 = 2;
