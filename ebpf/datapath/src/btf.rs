//! Finds where fields of kernel structs lie, in the kernel's own description of its types (BTF).
//!
//! A reader for one question only. Every index into the bytes is checked.
//! Format: `Documentation/bpf/btf.rst` of the kernel.

use std::{fs, io, path::Path};

use tulle_abi::KernelOffsets;

/// Where the running kernel describes its types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset could not be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FindOffsetError {
    /// The bytes are no BTF of this machine's byte order.
    #[error("the BTF is malformed at byte {0}")]
    Malformed(usize),
    /// The kernel has no such field.
    #[error("the kernel has no field {0}")]
    Absent(String),
    /// The field lies beyond what an offset can say, or inside a byte.
    #[error("the field {0} cannot be read")]
    Unreadable(String),
}

/// Reads the running kernel's BTF.
pub(crate) fn read_kernel_btf() -> io::Result<Vec<u8>> {
    fs::read(Path::new(KERNEL_BTF))
}

/// Finds all the offsets that the sockmap's rules need.
pub(crate) fn find_offsets(btf: &[u8]) -> Result<KernelOffsets, FindOffsetError> {
    let btf = Btf::parse(btf)?;
    Ok(KernelOffsets {
        daddr: btf.offset("sock", &["__sk_common", "skc_daddr"])?,
        dport: btf.offset("sock", &["__sk_common", "skc_dport"])?,
        num: btf.offset("sock", &["__sk_common", "skc_num"])?,
        v6_daddr: btf.offset("sock", &["__sk_common", "skc_v6_daddr"])?,
        family: btf.offset("sock", &["__sk_common", "skc_family"])?,
        rmem_alloc: btf.offset("sock", &["sk_backlog", "rmem_alloc"])?,
        socket: btf.offset("sock", &["sk_socket"])?,
        user_data: btf.offset("sock", &["sk_user_data"])?,
        file: btf.offset("socket", &["file"])?,
        file_flags: btf.offset("file", &["f_flags"])?,
        file_epolls: btf.offset("file", &["f_ep"])?,
        message_flags: btf.offset("msghdr", &["msg_flags"])?,
        ulp: btf.offset("inet_connection_sock", &["icsk_ulp_ops"])?,
        ingress: btf.offset("sk_psock", &["ingress_msg"])?,
        snd_una: btf.offset("tcp_sock", &["snd_una"])?,
        write_seq: btf.offset("tcp_sock", &["write_seq"])?,
        rcv_nxt: btf.offset("tcp_sock", &["rcv_nxt"])?,
        copied_seq: btf.offset("tcp_sock", &["copied_seq"])?,
    })
}

/// Finds where a socket's pending error lies.
pub(crate) fn find_error_offset(btf: &[u8]) -> Result<u32, FindOffsetError> {
    Btf::parse(btf)?.offset("sock", &["sk_err"])
}

/// The parsed type table: where each type's record begins.
struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// Start of the record of each type; type 0 is `void`.
    starts: Vec<usize>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, FindOffsetError> {
        let header = |at| word(bytes, at);
        let magic = bytes.get(..2).ok_or(FindOffsetError::Malformed(0))?;
        if magic != MAGIC.to_ne_bytes() {
            return Err(FindOffsetError::Malformed(0));
        }
        let header_len = header(4)?;
        let types = position(header_len, header(8)?)?;
        let types_end = types
            .checked_add(position(header(12)?, 0)?)
            .ok_or(FindOffsetError::Malformed(12))?;
        let strings = position(header_len, header(16)?)?;
        let mut starts = vec![0];
        let mut at = types;
        while at < types_end {
            starts.push(at);
            at = Record::read(bytes, at)?.end;
        }
        Ok(Btf {
            bytes,
            strings,
            starts,
        })
    }

    /// The offset in bytes of the member that `path` leads to.
    fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, FindOffsetError> {
        let full_name = || format!("{structure}.{}", path.join("."));
        let bits = self
            .structs_named(structure)
            .find_map(|id| self.follow(id, path))
            .ok_or_else(|| FindOffsetError::Absent(full_name()))?;
        if bits % 8 == 0 {
            Ok(bits / 8)
        } else {
            Err(FindOffsetError::Unreadable(full_name()))
        }
    }

    /// The structs of that name. There may be several: types of one name in different source files.
    fn structs_named(&self, name: &str) -> impl Iterator<Item = u32> {
        (1..)
            .zip(self.starts.iter().skip(1))
            .filter_map(move |(id, start)| {
                let record = Record::read(self.bytes, *start).ok()?;
                (record.kind == KIND_STRUCT && self.is_named(record.name, name)).then_some(id)
            })
    }

    /// The offset in bits of the member that `path` leads to, from the beginning of the type.
    fn follow(&self, id: u32, path: &[&str]) -> Option<u32> {
        let Some((first, rest)) = path.split_first() else {
            return Some(0);
        };
        let (offset, member_type) = self.member(id, first, DEPTH_MAX)?;
        offset.checked_add(self.follow(member_type, rest)?)
    }

    /// A member's offset in bits and its type. Members of unnamed structs and unions count as the outer one's own.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let record = self.resolve(id)?;
        if record.kind != KIND_STRUCT && record.kind != KIND_UNION {
            return None;
        }
        (0..record.len).find_map(|index| {
            let at = record.extra + index * MEMBER_LEN;
            let member_name = word(self.bytes, at).ok()?;
            let member_type = word(self.bytes, at + 4).ok()?;
            let raw_offset = word(self.bytes, at + 8).ok()?;
            let offset = if record.has_bitfields {
                raw_offset & BITFIELD_OFFSET_MASK
            } else {
                raw_offset
            };
            if self.is_named(member_name, name) {
                return Some((offset, member_type));
            }
            if !self.is_named(member_name, "") {
                return None;
            }
            let (inner, inner_type) = self.member(member_type, name, depth.checked_sub(1)?)?;
            Some((offset.checked_add(inner)?, inner_type))
        })
    }

    /// The record of a type, behind its aliases and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Record> {
        for _ in 0..DEPTH_MAX {
            let start = self.starts.get(usize::try_from(id).ok()?)?;
            let record = Record::read(self.bytes, *start).ok()?;
            match record.kind {
                KIND_TYPEDEF..=KIND_RESTRICT | KIND_TYPE_TAG => id = record.size_or_type,
                _ => return Some(record),
            }
        }
        None
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        usize::try_from(name)
            .ok()
            .and_then(|offset| self.bytes.get(self.strings.checked_add(offset)?..))
            .and_then(|rest| rest.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// The fixed part of a type's record.
struct Record {
    name: u32,
    kind: u32,
    /// Number of members, values or parameters.
    len: usize,
    has_bitfields: bool,
    size_or_type: u32,
    /// Where the members begin.
    extra: usize,
    /// Where the next record begins.
    end: usize,
}

impl Record {
    fn read(bytes: &[u8], at: usize) -> Result<Self, FindOffsetError> {
        let name = word(bytes, at)?;
        let info = word(bytes, at + 4)?;
        let size_or_type = word(bytes, at + 8)?;
        let kind = (info >> 24) & 0x1f;
        let len = position(info & 0xffff, 0)?;
        let extra_len = match kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => len * MEMBER_LEN,
            KIND_ENUM | KIND_FUNC_PROTO => len * 8,
            KIND_PTR | KIND_FWD | KIND_TYPEDEF..=KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => 0,
            _ => return Err(FindOffsetError::Malformed(at)),
        };
        Ok(Record {
            name,
            kind,
            len,
            has_bitfields: info >> 31 == 1,
            size_or_type,
            extra: at + RECORD_LEN,
            end: at + RECORD_LEN + extra_len,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, FindOffsetError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|chunk| u32::from_ne_bytes(*chunk))
        .ok_or(FindOffsetError::Malformed(at))
}

fn position(base: u32, offset: u32) -> Result<usize, FindOffsetError> {
    base.checked_add(offset)
        .and_then(|sum| usize::try_from(sum).ok())
        .ok_or(FindOffsetError::Malformed(0))
}

const MAGIC: u16 = 0xeb9f;
const RECORD_LEN: usize = 12;
const MEMBER_LEN: usize = 12;
const BITFIELD_OFFSET_MASK: u32 = 0x00ff_ffff;
/// Deepest chain of aliases or unnamed structs that is followed.
const DEPTH_MAX: u32 = 16;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

#[cfg(test)]
mod tests;
