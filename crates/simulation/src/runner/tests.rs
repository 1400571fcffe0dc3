use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::runner_tarball;

#[test]
fn the_path_is_quoted_for_the_shell_and_the_files_may_be_executed() {
    let tarball = runner_tarball(Path::new("/opt/it's $HOME/exe")).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(&tarball.bytes[..]));
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o755);
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        if name == "run.sh" {
            assert!(text.contains(r"exec '/opt/it'\''s $HOME/exe' stand-in-runner"), "{text}");
        }
        names.push(name);
    }
    assert_eq!(names, ["run.sh", "config.sh", "bin/Runner.Listener"]);
    assert_eq!(tarball.sha256, runner_tarball(Path::new("/opt/it's $HOME/exe")).unwrap().sha256);
    assert!(runner_tarball(Path::new("/a\nb")).is_err());
}
