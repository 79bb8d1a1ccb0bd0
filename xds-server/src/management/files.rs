//! Files that are replaced whole: a reader sees the old content or the new one, also after a crash.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Replaces the file; nobody else may read it.
pub(super) async fn replace(path: PathBuf, content: Vec<u8>) -> io::Result<()> {
    run(move || replace_now(&path, &content)).await
}

/// Removes the file; says whether it was there.
pub(super) async fn remove(path: PathBuf) -> io::Result<bool> {
    run(move || match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    })
    .await
}

pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the work on the file broke off")))
}

fn replace_now(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The ending keeps readers of the directory away from it.
    let temporary = path.with_file_name(format!(".{name}.new"));
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
