//! What the operations make of GitHub's answers.

use domain::clock::Timestamp;
use domain::gh::Status;
use domain::ids::{JobId, RunId, RunnerId};
use serde_json::{Value, json};

use super::fake::*;
use crate::client::{AppView, Deleted, Error, Priority};

fn runner(id: u64) -> Value {
    json!({"id": id, "name": format!("r{id}"), "os": "linux", "status": "online", "busy": id == 1,
           "labels": [{"name": "runs-fleet"}, {"id": 3, "name": "x", "type": "custom"}]})
}

fn runners(from: u64, to: u64) -> Value {
    json!({"total_count": 9, "runners": (from..=to).map(runner).collect::<Vec<_>>()})
}

#[tokio::test(start_paused = true)]
async fn a_job_is_read_as_github_wrote_it() {
    let fake = Fake::new(|a| a.target.contains("/jobs/").then(|| ok(200, a_job())));
    let job = client(&fake).job(&repo(), JobId::new(5).unwrap(), Priority::Dispatch).await.unwrap().unwrap();
    assert_eq!(job.status, Status::InProgress);
    assert_eq!(job.run_attempt, 2);
    assert_eq!(job.run_id, RunId::new(9));
    let runner = job.runner.unwrap();
    assert_eq!((runner.id, runner.name.as_str()), (RunnerId::new(31), "runs-fleet-runner-x"));
    assert_eq!(job.started_at.unwrap().as_second(), START + 10);
    assert_eq!(job.completed_at, None);
}

#[tokio::test(start_paused = true)]
async fn a_queued_job_names_no_runner() {
    let mut queued = a_job();
    queued["status"] = json!("queued");
    queued["runner_id"] = json!(0);
    queued["runner_name"] = json!("");
    let fake = Fake::new(move |a| a.target.contains("/jobs/").then(|| ok(200, queued.clone())));
    let job = client(&fake).job(&repo(), JobId::new(5).unwrap(), Priority::Dispatch).await.unwrap().unwrap();
    assert_eq!((job.status, job.runner), (Status::Queued, None));
}

#[tokio::test(start_paused = true)]
async fn lists_are_read_to_the_end() {
    let fake = Fake::new(|a| {
        let page = |n| a.target == format!("/repos/acme/widgets/actions/runners?per_page=100&page={n}");
        let answer = if page(1) { runners(1, 100) } else { runners(101, 142) };
        (page(1) || page(2)).then(|| ok(200, answer))
    });
    let all = client(&fake).runners(&repo()).await.unwrap();
    assert_eq!(all.iter().map(|r| r.id.get()).collect::<Vec<_>>(), (1..=142).collect::<Vec<_>>());
    assert_eq!((all[0].online, all[0].busy, all[1].busy), (true, true, false));
    assert_eq!(all[0].labels, ["runs-fleet", "x"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_with_a_failing_page_is_no_list() {
    let fake = Fake::new(|a| {
        a.target
            .contains("/runners")
            .then(|| if a.target.ends_with("=1") { ok(200, runners(1, 100)) } else { empty(500) })
    });
    assert!(matches!(client(&fake).runners(&repo()).await, Err(Error::Server(_))));
}

#[tokio::test(start_paused = true)]
async fn an_endless_list_ends_at_twenty_pages() {
    let fake = Fake::new(|a| a.target.contains("/runners").then(|| ok(200, runners(1, 100))));
    assert_eq!(client(&fake).runners(&repo()).await.unwrap().len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn a_runner_is_found_by_its_exact_name() {
    let fake = Fake::new(|a| a.target.contains("/runners?name=r%2B1&per_page").then(|| ok(200, runners(1, 3))));
    assert_eq!(client(&fake).runner_by_name(&repo(), "r+1").await.unwrap(), None);
    let fake = Fake::new(|a| a.target.contains("/runners?name=r2&").then(|| ok(200, runners(1, 3))));
    assert_eq!(client(&fake).runner_by_name(&repo(), "r2").await.unwrap().unwrap().id.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn deleting_a_runner_succeeds_unless_it_is_busy() {
    for (status, expected) in [(204, Deleted::Gone), (404, Deleted::Gone), (422, Deleted::Busy)] {
        let fake = Fake::new(move |a| a.target.contains("/runners/").then(|| empty(status)));
        assert_eq!(client(&fake).delete_runner(&repo(), RunnerId::new(1).unwrap()).await, Ok(expected));
        assert_eq!(fake.count("DELETE /repos/acme/widgets/actions/runners/1"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn absence_is_an_answer() {
    let fake = Fake::new(|a| a.target.contains("/actions/").then(|| message(404, "Not Found")));
    let client = client(&fake);
    assert_eq!(client.runner(&repo(), RunnerId::new(1).unwrap()).await, Ok(None));
    assert_eq!(client.run(&repo(), RunId::new(1).unwrap()).await, Ok(None));
    assert!(matches!(client.runners(&repo()).await, Err(Error::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_found_in_any_case_and_a_failure_is_forgotten_sooner() {
    let mut calls = 0;
    let fake = Fake::new(move |a| {
        a.target.starts_with("/orgs/acme/actions/runner-groups?visible_to_repository=widgets").then(|| {
            calls += 1;
            match calls {
                1 => message(403, "no"),
                _ => ok(200, json!({"runner_groups": [{"id": 1, "name": "Default"}, {"id": 12, "name": "FAST"}]})),
            }
        })
    });
    let client = client(&fake);
    let asked = || fake.count("GET /orgs/");
    assert_eq!(client.runner_group_id(&repo(), "").await, 1);
    assert_eq!(client.runner_group_id(&repo(), "Default").await, 1);
    assert_eq!(asked(), 0);
    for (wait, id, times) in [(0, 1, 1), (59, 1, 1), (2, 12, 2), (1790, 12, 2), (20, 12, 3)] {
        tokio::time::advance(std::time::Duration::from_secs(wait)).await;
        assert_eq!((client.runner_group_id(&repo(), "Fast").await, asked()), (id, times), "{wait}");
    }
    assert_eq!(client.runner_group_id(&repo(), "unheard-of").await, 1);
}

#[tokio::test(start_paused = true)]
async fn active_runs_are_counted_once_and_their_jobs_told_apart() {
    let fake = Fake::new(|a| {
        let runs =
            |ids: &[u64]| ok(200, json!({"workflow_runs": ids.iter().map(|i| json!({"id": i})).collect::<Vec<_>>()}));
        Some(match a.target.as_str() {
            "/repos/acme/widgets/actions/runs?status=queued&per_page=100&page=1" => runs(&[9, 3]),
            "/repos/acme/widgets/actions/runs?status=in_progress&per_page=100&page=1" => runs(&[3, 4]),
            "/repos/acme/widgets/actions/runs/9/jobs?filter=latest&per_page=100&page=1" => {
                ok(200, json!({"total_count": 1, "jobs": [a_job()]}))
            }
            _ => return None,
        })
    });
    let client = client(&fake);
    let runs: Vec<_> = client.active_runs(&repo()).await.unwrap().into_iter().map(RunId::get).collect();
    assert_eq!(runs, [3, 4, 9]);
    let jobs = client.jobs_of_run(&repo(), RunId::new(9).unwrap()).await.unwrap();
    assert_eq!((jobs[0].id.get(), jobs[0].name.as_str(), jobs[0].workflow_name.as_deref()), (5, "build", Some("CI")));
    assert_eq!(jobs[0].view.labels, ["runs-fleet"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_have_jobs_is_not_listed() {
    let fake = Fake::new(|a| {
        Some(match a.target.as_str() {
            "/app/installations?per_page=100&page=1" => ok(
                200,
                json!([{"id": 3, "suspended_at": null}, {"id": 4, "suspended_at": "2026-01-01T00:00:00Z"}, {"id": 5}]),
            ),
            "/installation/repositories?per_page=100&page=1" => ok(
                200,
                json!({"total_count": 3, "repositories": [
                    {"full_name": "acme/widgets", "archived": false, "disabled": false},
                    {"full_name": "acme/attic", "archived": true},
                    {"full_name": "acme/barred", "disabled": true},
                ]}),
            ),
            _ => return None,
        })
    });
    let client = client(&fake);
    let installations = client.installations().await.unwrap();
    assert_eq!(installations.iter().map(|id| id.get()).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(client.installed_repos(installations[0]).await, Ok(vec![repo()]));
    assert_eq!(fake.count("POST /app/installations/3/access_tokens"), 1);
}

fn delivery(id: u64, at: &str) -> Value {
    json!({"id": id, "guid": format!("g{id}"), "delivered_at": at, "redelivery": false, "duration": 0.1,
           "status": "OK", "status_code": 200, "event": "workflow_job", "action": "queued",
           "installation_id": 1, "repository_id": 1})
}

#[tokio::test(start_paused = true)]
async fn deliveries_follow_cursors_until_they_are_old_enough() {
    let fake = Fake::new(|a| {
        let link = |cursor: &str| {
            format!("<https://elsewhere.example/app/hook/deliveries?per_page=100&cursor={cursor}>; rel=\"next\"")
        };
        Some(match a.target.as_str() {
            "/app/hook/deliveries?per_page=100" => {
                with(ok(200, json!([delivery(3, "2025-01-01T00:00:03Z")])), &[("link", &link("v1_2%3D"))])
            }
            "/app/hook/deliveries?per_page=100&cursor=v1_2%3D" => with(
                ok(200, json!([delivery(2, "2025-01-01T00:00:02Z"), delivery(1, "2025-01-01T00:00:01Z")])),
                &[("link", &link("v1_0"))],
            ),
            _ => return None,
        })
    });
    let since = Timestamp::from_second(START + 2).unwrap();
    let all = client(&fake).deliveries(since).await.unwrap().unwrap();
    assert_eq!(all.iter().map(|d| d.id).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((all[0].guid.as_str(), all[0].event.as_str(), all[0].status_code), ("g3", "workflow_job", 200));

    let endless = Fake::new(|_| {
        let link = "<https://x/?cursor=c>; rel=\"next\"";
        Some(with(ok(200, json!([delivery(1, "2025-01-01T00:00:03Z")])), &[("link", link)]))
    });
    client(&endless).deliveries(since).await.unwrap();
    assert_eq!(endless.asked().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn an_app_without_a_webhook_has_no_deliveries() {
    let fake = Fake::new(|_| Some(message(404, "Not Found")));
    assert_eq!(client(&fake).deliveries(Timestamp::UNIX_EPOCH).await, Ok(None));
}

#[test]
fn missing_permissions_are_named() {
    let app = |permissions: &[(&str, &str)], events: &[&str]| AppView {
        slug: String::new(),
        permissions: permissions.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        events: events.iter().map(|e| (*e).to_owned()).collect(),
    };
    let full = [("administration", "write"), ("actions", "write"), ("metadata", "read")];
    assert_eq!(app(&full, &["workflow_job"]).missing(), Vec::<String>::new());
    let weak = app(&[("administration", "read"), ("actions", "read"), ("metadata", "read")], &["push"]);
    assert_eq!(weak.missing().len(), 3);
    assert!(!weak.may_rerun());
    assert_eq!(app(&[], &[]).missing().len(), 5);
}
