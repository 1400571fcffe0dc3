//! Unpacking a runner's tarball so that nothing outside its directory is touched or pointed to.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use tar::{Archive, EntryType};
use tokio_util::sync::CancellationToken;

/// Unpacks the gzipped tarball into `staging`, which must not exist. Blocking; stops between members once `cancel` is.
pub(super) fn unpack(tarball: &File, staging: &Path, cancel: &CancellationToken) -> io::Result<()> {
    provider::files::private_dir(staging)?;
    let mut archive = Archive::new(GzDecoder::new(tarball));
    archive.set_preserve_mtime(false);
    let mut links = HashSet::new();
    for entry in archive.entries()? {
        if cancel.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
        }
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            continue;
        }
        let path = inside(&entry.path()?)?;
        if path.as_os_str().is_empty() {
            continue;
        }
        if path.ancestors().skip(1).any(|ancestor| links.contains(ancestor)) {
            return Err(refused("a member lies behind a link"));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| refused("a link leads nowhere"))?;
                stays_inside(&path, &target)?;
                links.insert(path);
            }
            EntryType::Link => {
                let target = inside(&entry.link_name()?.ok_or_else(|| refused("a link leads nowhere"))?)?;
                if target.ancestors().any(|ancestor| links.contains(ancestor)) {
                    return Err(refused("a hard link leads through a link"));
                }
            }
            _ => return Err(refused("a member is neither file, directory nor link")),
        }
        if !entry.unpack_in(staging)? {
            return Err(refused("a member leaves the directory"));
        }
    }
    // The directory becomes the runner's own, whatever the archive says about its root.
    fs::set_permissions(staging, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

/// The path without `.`; an error when it is absolute or has `..`.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return Err(refused("a member leaves the directory")),
        }
    }
    Ok(plain)
}

/// Refuses a symbolic link out of the directory. Members behind links are refused, so a link's parent is where its
/// path says; `..` counts only in front, because behind a name it would depend on what that name leads to.
fn stays_inside(path: &Path, target: &Path) -> io::Result<()> {
    let depth = path.components().count() - 1;
    let mut up = 0;
    let mut named = false;
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(_) => named = true,
            Component::ParentDir if !named && up < depth => up += 1,
            _ => return Err(refused("a link leaves the directory")),
        }
    }
    Ok(())
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests;
