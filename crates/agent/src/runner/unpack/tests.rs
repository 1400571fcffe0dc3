use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::unpack;

/// Kind, name, link target or content, mode.
type Member = (EntryType, &'static str, &'static str, u32);

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

/// Writes names as they are: the builder's own checks would refuse what is tested here.
fn tarball(dir: &TempDir, members: &[Member]) -> File {
    let path = dir.path().join("t.tar.gz");
    let mut builder = Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
    for (kind, name, text, mode) in members {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        let content = if *kind == FILE { text.as_bytes() } else { &[] };
        header.set_size(content.len() as u64);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        if *kind != FILE {
            raw.linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap().flush().unwrap();
    File::open(path).unwrap()
}

#[test]
fn a_plain_tree_is_unpacked_with_its_modes_and_links() {
    let dir = TempDir::new().unwrap();
    let file = tarball(
        &dir,
        &[
            (EntryType::Directory, "./", "", 0o700),
            (FILE, "./run.sh", "#!", 0o4755),
            (FILE, "bin/tool", "x", 0o644),
            (LINK, "bin/run", "../run.sh", 0o777),
            (LINK, "lib", "./bin", 0o777),
            (HARD, "copy", "bin/tool", 0o644),
        ],
    );
    let staging = dir.path().join("staging");
    unpack(&file, &staging, &CancellationToken::new()).unwrap();
    let mode = |name: &str| std::fs::metadata(staging.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("run.sh"), 0o755, "no set-user-id");
    assert_eq!(mode("bin/tool"), 0o644);
    assert_eq!(mode("."), 0o755);
    assert_eq!(std::fs::read_to_string(staging.join("bin/run")).unwrap(), "#!");
    assert_eq!(std::fs::read_to_string(staging.join("copy")).unwrap(), "x");
}

#[test]
fn nothing_leaves_the_directory() {
    let hostile: &[&[Member]] = &[
        &[(FILE, "../evil", "x", 0o644)],
        &[(FILE, "a/../../evil", "x", 0o644)],
        &[(FILE, "/evil", "x", 0o644)],
        &[(LINK, "l", "/etc", 0o777)],
        &[(LINK, "l", "..", 0o777)],
        &[(LINK, "a/l", "../../evil", 0o777)],
        &[(LINK, "a/l", "b/../../../evil", 0o777)],
        // Each link alone looks harmless; together they lead out.
        &[(LINK, "a/b/up", "../..", 0o777), (LINK, "out", "a/b/up/..", 0o777)],
        &[(LINK, "l", "a", 0o777), (FILE, "l/x", "x", 0o644)],
        &[(HARD, "h", "/etc/passwd", 0o644)],
        &[(HARD, "h", "../evil", 0o644)],
        &[(LINK, "l", "a", 0o777), (HARD, "h", "l", 0o644)],
        &[(EntryType::Char, "tty", "", 0o644)],
        &[(EntryType::Fifo, "pipe", "", 0o644)],
    ];
    for members in hostile {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("canary"), "").unwrap();
        let file = tarball(&dir, members);
        let error = unpack(&file, &dir.path().join("staging"), &CancellationToken::new());
        assert!(error.is_err(), "{members:?}");
        assert!(!dir.path().join("evil").exists(), "{members:?}");
    }
}

#[test]
fn a_cancelled_unpacking_stops() {
    let dir = TempDir::new().unwrap();
    let file = tarball(&dir, &[(FILE, "run.sh", "#!", 0o755)]);
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(unpack(&file, &dir.path().join("staging"), &cancel).is_err());
}
