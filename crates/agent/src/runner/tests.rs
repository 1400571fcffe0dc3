use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::is_runner;

#[test]
fn a_runner_is_a_listener_that_can_be_executed_and_its_script() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, script) = (dir.path().join("bin/Runner.Listener"), dir.path().join("run.sh"));
    assert!(!is_runner(dir.path()));
    fs::create_dir(dir.path().join("bin")).unwrap();
    fs::write(&listener, "").unwrap();
    fs::write(&script, "").unwrap();
    fs::set_permissions(&listener, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!is_runner(dir.path()), "a half-unpacked tree is no runner");
    fs::set_permissions(&listener, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(is_runner(dir.path()));
    fs::remove_file(&script).unwrap();
    assert!(!is_runner(dir.path()));
}
