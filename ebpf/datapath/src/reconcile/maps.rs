//! Reading, writing and deleting entries, with errors that say of which map.

use std::{collections::HashMap, hash::Hash};

use aya::maps::MapError;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    ReconcileError,
    raw::{Raw, Table},
};

/// What a shared struct must be to lie in a map.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Plain for T {}

pub(crate) fn read_all<K: Plain + Eq + Hash, V: Plain>(
    map: &'static str,
    table: &Table<K, V>,
) -> Result<HashMap<K, V>, ReconcileError> {
    let entries = table
        .iter()
        .map(|entry| entry.map(|(key, value)| (key.0, value.0)));
    entries
        .collect::<Result<_, MapError>>()
        .map_err(|source| failed("read", map, source))
}

pub(super) fn read_keys<K: Plain, V: Plain>(
    map: &'static str,
    table: &Table<K, V>,
) -> Result<Vec<K>, ReconcileError> {
    let keys = table.keys().map(|key| key.map(|key| key.0));
    keys.collect::<Result<_, MapError>>()
        .map_err(|source| failed("read", map, source))
}

pub(crate) fn write<K: Plain, V: Plain>(
    map: &'static str,
    table: &mut Table<K, V>,
    key: K,
    value: V,
) -> Result<(), ReconcileError> {
    table
        .insert(Raw(key), Raw(value), 0)
        .map_err(|source| failed("write", map, source))
}

/// Deletes an entry. One that is not there counts as deleted.
pub(crate) fn delete<K: Plain, V: Plain>(
    map: &'static str,
    table: &mut Table<K, V>,
    key: K,
) -> Result<(), ReconcileError> {
    match table.remove(&Raw(key)) {
        Err(err) if !is_absent(&err) => Err(failed("delete", map, err)),
        _ => Ok(()),
    }
}

/// Whether a map's error only says that there is no such entry.
pub(crate) fn is_absent(err: &MapError) -> bool {
    match err {
        MapError::KeyNotFound => true,
        MapError::SyscallError(err) => err.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

pub(crate) fn failed(action: &'static str, map: &'static str, source: MapError) -> ReconcileError {
    ReconcileError::Write {
        action,
        map,
        source: Box::new(source),
    }
}
