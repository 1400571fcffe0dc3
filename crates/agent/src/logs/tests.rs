use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use domain::clock::SystemClock;
use flate2::read::GzDecoder;

use super::*;

/// A bucket that keeps everything but the keys with `refuses` in them, and takes `delay` for each.
#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, String>>,
    refuses: Option<&'static str>,
    delay: Duration,
}

#[async_trait]
impl Bucket for Memory {
    async fn put(&self, bucket: &str, object: Object) -> Result<(), String> {
        tokio::time::sleep(self.delay).await;
        if self.refuses.is_some_and(|word| object.key.contains(word)) {
            return Err("denied".to_owned());
        }
        let mut packed = Vec::new();
        (&object.content).read_to_end(&mut packed).unwrap();
        assert_eq!(packed.len() as u64, object.length);
        assert_eq!(hex::encode(Sha256::digest(&packed)), object.sha256);
        let mut text = String::new();
        GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        self.objects.lock().unwrap().insert(format!("{bucket}/{}", object.key), text);
        Ok(())
    }
}

fn document() -> HandOver {
    HandOver {
        run_id: "70".to_owned(),
        job_id: "7".to_owned(),
        runner_logs_bucket: "b".to_owned(),
        ..HandOver::default()
    }
}

async fn kept(files: &[(&str, &str)], bucket: Memory, ours: bool) -> (Outcome, BTreeMap<String, String>) {
    let root = tempfile::tempdir().unwrap();
    if !files.is_empty() {
        fs::create_dir(root.path().join(DIAG)).unwrap();
    }
    for (name, text) in files {
        fs::write(root.path().join(DIAG).join(name), text).unwrap();
    }
    let bucket = Arc::new(bucket);
    let log = Log::new(Arc::new(SystemClock));
    log.info("hello", &[]);
    let upload = Upload {
        bucket: Arc::clone(&bucket) as Arc<dyn Bucket>,
        document: &document(),
        key: "i-1",
        dir: root.path(),
        owner: None,
        scratch: root.path(),
        ours,
    };
    let outcome = upload.run(Duration::from_millis(300), &log).await;
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == DIAG), "{left:?}");
    let objects = bucket.objects.lock().unwrap().clone();
    (outcome, objects)
}

const LOGS: [(&str, &str); 3] = [("Worker_1.log", "w"), ("Runner_1.log", "r"), ("else.log", "x")];

#[tokio::test]
async fn the_runners_logs_are_kept_under_public_keys() {
    let (outcome, objects) = kept(&LOGS, Memory::default(), false).await;
    assert_eq!(outcome, Outcome::Uploaded);
    let expected = [("Runner_1.log", "r"), ("Worker_1.log", "w")]
        .map(|(name, text)| (format!("b/runner-logs/70/7/i-1/{name}.gz"), text.to_owned()));
    assert_eq!(objects, BTreeMap::from(expected));
    let (_, objects) = kept(&LOGS, Memory::default(), true).await;
    assert!(objects["b/runner-logs/70/7/i-1/Agent.log.gz"].contains("hello"));
}

#[tokio::test]
async fn what_cannot_be_kept_is_told() {
    assert_eq!(kept(&[], Memory::default(), true).await.0, Outcome::Skipped);
    let refusing = |refuses| Memory { refuses: Some(refuses), ..Memory::default() };
    assert_eq!(kept(&LOGS, refusing("Worker_"), false).await.0, Outcome::Partial);
    assert_eq!(kept(&LOGS, refusing("i-1"), true).await.0, Outcome::Failed);
    let slow = Memory { delay: Duration::from_secs(60), ..Memory::default() };
    assert_eq!(kept(&LOGS, slow, false).await.0, Outcome::Failed);
}

#[test]
fn only_plain_files_of_the_owner_are_opened() {
    let root = tempfile::tempdir().unwrap();
    let diag = root.path().join(DIAG);
    fs::create_dir(&diag).unwrap();
    fs::write(root.path().join("secret"), "s").unwrap();
    fs::write(diag.join("Worker_0.log"), "w").unwrap();
    symlink(root.path().join("secret"), diag.join("Worker_1.log")).unwrap();
    fs::hard_link(root.path().join("secret"), diag.join("Worker_2.log")).unwrap();
    fs::create_dir(diag.join("Worker_3.log")).unwrap();
    let names = |owner| collect(&diag, owner).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(None), ["Worker_0.log"]);
    assert_eq!(names(Some(54_321)), [""; 0], "somebody else's");
    symlink(&diag, root.path().join("link")).unwrap();
    assert!(collect(&root.path().join("link"), None).is_empty());
}
