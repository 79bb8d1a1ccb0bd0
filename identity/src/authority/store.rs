//! The root on disk.
//!
//! **Invariant:** a file appears whole or not at all, and is never replaced: it is written under another name, flushed,
//! and then linked to its own name, which fails if somebody else was faster. Whoever loses that race reads the winner's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use tulle_model::TrustDomain;

use super::{CertificateAuthority, error::OpenAuthorityError, root};
use crate::pem::PEM_LEN_MAX;

pub(super) fn open(
    directory: &Path,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateAuthority, OpenAuthorityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(|source| fault("create the directory", directory, source))?;
    let certificate_path = directory.join(CERTIFICATE_FILE);
    let key_path = directory.join(KEY_FILE);

    let key_pem = match read_key(&key_path)? {
        Some(key_pem) => key_pem,
        None if certificate_path.exists() => {
            return Err(OpenAuthorityError::KeyMissing {
                certificate: certificate_path,
                key: key_path,
            });
        }
        None => {
            tracing::info!(path = %key_path.display(), %trust_domain, "making a new root");
            write_new(
                &key_path,
                root::new_key()?.serialize_pem().as_bytes(),
                KEY_MODE,
            )?;
            read_key(&key_path)?.ok_or_else(|| vanished(&key_path))?
        }
    };
    let key = root::read_key(&key_pem)?;
    let certificate_pem = match read(&certificate_path)? {
        Some((text, _mode)) => text,
        None => {
            // A key without certificate is a start that was cut short; a new certificate of the same key is as good.
            let text = root::certify(trust_domain, &key, now)?;
            write_new(&certificate_path, text.as_bytes(), CERTIFICATE_MODE)?;
            read(&certificate_path)?
                .ok_or_else(|| vanished(&certificate_path))?
                .0
        }
    };
    CertificateAuthority::from_parts(&certificate_pem, key, trust_domain, now)
}

fn read_key(path: &Path) -> Result<Option<String>, OpenAuthorityError> {
    match read(path)? {
        None => Ok(None),
        Some((_text, mode)) if mode & OTHERS_MASK != 0 => Err(OpenAuthorityError::KeyReadable {
            path: path.to_owned(),
            mode,
        }),
        Some((text, _mode)) => Ok(Some(text)),
    }
}

/// The text of a file and its permission bits, both of the same open file; `None` if there is none.
fn read(path: &Path) -> Result<Option<(String, u32)>, OpenAuthorityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fault("open", path, source)),
    };
    let metadata = file
        .metadata()
        .map_err(|source| fault("inspect", path, source))?;
    let limit = u64::try_from(PEM_LEN_MAX).unwrap_or(u64::MAX);
    if metadata.len() > limit {
        return Err(OpenAuthorityError::TooLong {
            path: path.to_owned(),
            limit,
        });
    }
    let mut text = String::new();
    file.take(limit)
        .read_to_string(&mut text)
        .map_err(|source| fault("read", path, source))?;
    Ok(Some((text, metadata.permissions().mode() & MODE_MASK)))
}

/// Creates a file with its whole content; does nothing if it exists by now.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), OpenAuthorityError> {
    let draft = draft_path(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .map_err(|source| fault("create", &draft, source))?;
    // The process's umask may have taken bits away from the certificate; it cannot have added any.
    let written = file
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = fs::remove_file(&draft);
    linked
        .and(removed)
        .map_err(|source| fault("write", path, source))?;
    if let Some(directory) = path.parent() {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| fault("flush", directory, source))?;
    }
    Ok(())
}

/// A name that no other process and no earlier attempt uses.
fn draft_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.draft", rand::random::<u64>()));
    PathBuf::from(name)
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> OpenAuthorityError {
    OpenAuthorityError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn vanished(path: &Path) -> OpenAuthorityError {
    fault("read back", path, io::ErrorKind::NotFound.into())
}

const CERTIFICATE_FILE: &str = "root-cert.pem";
const KEY_FILE: &str = "root-key.pem";
const DIRECTORY_MODE: u32 = 0o700;
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
const MODE_MASK: u32 = 0o7777;
const OTHERS_MASK: u32 = 0o077;
