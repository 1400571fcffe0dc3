//! The adapter against an HTTP double that answers in the shapes AWS documents, and against moto for what that can do.
//!
//! moto departs from EC2: `CreateFleet` ignores its client token and uses its first override only, so that everything
//! about fleets is shown on the double.

#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use fleet::aws::{AwsEc2, Timeouts};
use fleet::ec2::*;

type Answer = (u16, String);

#[derive(Clone, Default)]
struct Double {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Double {
    /// A server that gives these answers in turn, and then none.
    async fn answering(answers: impl IntoIterator<Item = (u16, &str)>) -> (Self, AwsEc2) {
        let double = Self::default();
        double.answers.lock().unwrap().extend(answers.into_iter().map(|(status, body)| (status, body.to_owned())));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Router::new().fallback(answer).with_state(double.clone());
        // It ends with the runtime of its test.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, server).await });
        tasks.detach_all();
        let short = Timeouts {
            operation: Duration::from_millis(400),
            read: Duration::from_millis(400),
            create_fleet: Duration::from_millis(800),
            ..Timeouts::default()
        };
        (double, AwsEc2::with_timeouts(&emulator::sdk(&format!("http://{address}")), emulator::silent(), short))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(State(double): State<Double>, body: String) -> (StatusCode, String) {
    double.requests.lock().unwrap().push(body);
    let next = double.answers.lock().unwrap().pop_front();
    match next {
        Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body),
        None => std::future::pending().await,
    }
}

fn pairs(body: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        let text = text.replace("%3A", ":").replace("%24", "$").replace("%2F", "/");
        assert!(!text.contains('%'), "{text}");
        text
    };
    body.split('&').map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (plain(k), plain(v))).collect()
}

fn request(spot: bool) -> FleetRequest {
    let at = |subnet: Option<&str>, priority| Override {
        instance_type: "c7g.xlarge".into(),
        subnet: subnet.map(str::to_owned),
        priority: Some(priority),
        volume: Some(Volume { device: "/dev/xvda".into(), gib: 100 }),
    };
    FleetRequest {
        client_token: "rf1-0123".into(),
        launch_template: "runs-fleet-runner-arm64".into(),
        overrides: vec![at(Some("subnet-a"), 0), at(None, 1), at(Some(""), 2)],
        capacity: 3,
        spot,
        tags: vec![("runs-fleet:managed".into(), "true".into()), ("Name".into(), "n".into())],
    }
}

const EMPTY: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>
<fleetId>fleet-1</fleetId><errorSet/><fleetInstanceSet/></CreateFleetResponse>"#;

/// In the shape of the API reference's `CreateFleet` answer: one instance beside an error.
const PARTIAL: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <requestId>59dbff89-35bd-4eac-99ed-be587EXAMPLE</requestId>
  <fleetId>fleet-73fbd2ce-aa30-494c-8788-1cee4EXAMPLE</fleetId>
  <errorSet><item>
    <errorCode>InsufficientInstanceCapacity</errorCode>
    <errorMessage>We currently do not have sufficient capacity.</errorMessage>
    <lifecycle>spot</lifecycle>
    <launchTemplateAndOverrides>
      <launchTemplateSpecification><launchTemplateId>lt-1</launchTemplateId><version>1</version></launchTemplateSpecification>
      <overrides><instanceType>m7g.xlarge</instanceType><subnetId>subnet-b</subnetId></overrides>
    </launchTemplateAndOverrides>
  </item></errorSet>
  <fleetInstanceSet><item>
    <instanceIds><item>i-0aaa</item><item>i-0bbb</item></instanceIds>
    <instanceType>c7g.xlarge</instanceType>
    <lifecycle>spot</lifecycle>
    <launchTemplateAndOverrides>
      <overrides><instanceType>c7g.xlarge</instanceType><subnetId>subnet-a</subnetId>
        <availabilityZone>us-east-1a</availabilityZone></overrides>
    </launchTemplateAndOverrides>
  </item></fleetInstanceSet>
</CreateFleetResponse>"#;

fn refusal(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Errors><Error><Code>{code}</Code><Message>words</Message>\
         </Error></Errors><RequestID>r</RequestID></Response>"
    )
}

#[tokio::test]
async fn a_fleet_is_asked_for_with_these_bytes_and_a_repetition_with_the_same() {
    let (double, ec2) = Double::answering([(200, EMPTY), (200, EMPTY), (200, EMPTY)]).await;
    for spot in [false, false, true] {
        assert_eq!(ec2.create_fleet(&request(spot)).await.unwrap().instances, []);
    }
    let sent = double.requests();
    assert_eq!(sent[0], sent[1]);
    let config = "LaunchTemplateConfigs.1";
    let one = |n: u32, subnet: bool, priority: Option<&str>| {
        let mut fields = vec![(format!("{config}.Overrides.{n}.InstanceType"), "c7g.xlarge".to_owned())];
        fields.extend(subnet.then(|| (format!("{config}.Overrides.{n}.SubnetId"), "subnet-a".to_owned())));
        fields.extend(priority.map(|p| (format!("{config}.Overrides.{n}.Priority"), p.to_owned())));
        let volume = format!("{config}.Overrides.{n}.BlockDeviceMapping.1");
        fields.extend([
            (format!("{volume}.DeviceName"), "/dev/xvda".to_owned()),
            (format!("{volume}.Ebs.Encrypted"), "true".to_owned()),
            (format!("{volume}.Ebs.DeleteOnTermination"), "true".to_owned()),
            (format!("{volume}.Ebs.VolumeSize"), "100".to_owned()),
            (format!("{volume}.Ebs.VolumeType"), "gp3".to_owned()),
        ]);
        fields
    };
    let whole = |spot: bool| {
        let priority = |p: &'static str| (!spot).then_some(p);
        let mut fields =
            [one(1, true, priority("0.0")), one(2, false, priority("1.0")), one(3, false, priority("2.0"))].concat();
        let (capacity, options, strategy) = if spot {
            ("spot", "SpotOptions.AllocationStrategy", "price-capacity-optimized")
        } else {
            ("on-demand", "OnDemandOptions.AllocationStrategy", "prioritized")
        };
        let rest = [
            ("Action", "CreateFleet"),
            ("Version", "2016-11-15"),
            ("ClientToken", "rf1-0123"),
            (options, strategy),
            ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName", "runs-fleet-runner-arm64"),
            ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "$Latest"),
            ("TargetCapacitySpecification.TotalTargetCapacity", "3"),
            ("TargetCapacitySpecification.DefaultTargetCapacityType", capacity),
            ("Type", "instant"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "runs-fleet:managed"),
            ("TagSpecification.1.Tag.1.Value", "true"),
            ("TagSpecification.1.Tag.2.Key", "Name"),
            ("TagSpecification.1.Tag.2.Value", "n"),
        ];
        fields.extend(rest.map(|(k, v)| (k.to_owned(), v.to_owned())));
        fields.sort();
        fields
    };
    for (body, spot) in [(&sent[0], false), (&sent[2], true)] {
        let mut found = pairs(body);
        found.sort();
        assert_eq!(found, whole(spot));
    }
}

#[tokio::test]
async fn instances_count_although_there_are_errors_beside_them() {
    let (_, ec2) = Double::answering([(200, PARTIAL)]).await;
    let answer = ec2.create_fleet(&request(true)).await.unwrap();
    let instance = |id: &str| FleetInstance {
        id: id.into(),
        instance_type: "c7g.xlarge".into(),
        zone: Some("us-east-1a".into()),
        subnet: Some("subnet-a".into()),
        spot: true,
    };
    assert_eq!(answer.instances, [instance("i-0aaa"), instance("i-0bbb")]);
    let error = FleetError {
        code: "InsufficientInstanceCapacity".into(),
        message: "We currently do not have sufficient capacity.".into(),
        instance_type: Some("m7g.xlarge".into()),
        subnet: Some("subnet-b".into()),
        zone: None,
    };
    assert_eq!(answer.errors, [error]);
    assert_eq!(answer.fleet_id, "fleet-73fbd2ce-aa30-494c-8788-1cee4EXAMPLE");
}

#[tokio::test]
async fn a_refusal_keeps_ec2_s_code_and_is_asked_once() {
    for (status, code) in [
        (503, "RequestLimitExceeded"),
        (403, "UnauthorizedOperation"),
        (400, "InsufficientInstanceCapacity"),
        (500, "InternalError"),
    ] {
        let (double, ec2) = Double::answering([(status, refusal(code).as_str())]).await;
        let error = ec2.create_fleet(&request(true)).await.unwrap_err();
        assert_eq!(error, ApiError::Refused { code: code.into(), message: "words".into(), status });
        assert_eq!(double.requests().len(), 1);
    }
}

#[tokio::test]
async fn what_cannot_be_read_may_have_happened() {
    for (status, body) in [
        (200, "<CreateFleetResponse><fleetId>fleet-1</fle"),
        (200, "<CreateFleetResponse><fleetId>fleet-1</fleetId><errorSet/>"),
        (200, "<html/>"),
        (200, ""),
        (502, "<html><body>Bad gateway</body></html>"),
        (503, ""),
    ] {
        let (_, ec2) = Double::answering([(status, body)]).await;
        let error = ec2.create_fleet(&request(true)).await.unwrap_err();
        assert!(matches!(error, ApiError::NoAnswer(_)), "{status} {body}: {error:?}");
    }
}

#[tokio::test]
async fn a_request_accepted_and_never_answered_ends_in_its_time() {
    let (double, ec2) = Double::answering([]).await;
    let begun = tokio::time::Instant::now();
    let error = ec2.create_fleet(&request(true)).await.unwrap_err();
    assert!(matches!(error, ApiError::NoAnswer(_)), "{error:?}");
    assert!(begun.elapsed() >= Duration::from_millis(750), "CreateFleet waits longer than other calls");
    assert_eq!(double.requests().len(), 1);
    let begun = tokio::time::Instant::now();
    assert!(matches!(ec2.stop_instances(&["i-0a".into()]).await.unwrap_err(), ApiError::NoAnswer(_)));
    assert!(begun.elapsed() < Duration::from_millis(750));
}

#[tokio::test]
async fn nobody_listening_is_no_answer_and_no_credentials_is_said_so() {
    let short = Timeouts::default();
    let dead = AwsEc2::with_timeouts(&emulator::sdk("http://127.0.0.1:9"), emulator::silent(), short);
    let error = dead.create_fleet(&request(true)).await.unwrap_err();
    assert!(matches!(error, ApiError::NoAnswer(_)), "{error:?}");
    let mut config = emulator::sdk("http://127.0.0.1:9").into_builder();
    config.set_credentials_provider(None);
    let nobody = AwsEc2::new(&config.build(), emulator::silent());
    let error = nobody.create_fleet(&request(true)).await.unwrap_err();
    assert!(matches!(error, ApiError::Credentials(_)), "{error:?}");
}

fn page(id: &str, next: &str) -> String {
    format!(
        "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><reservationSet><item>\
         <instancesSet><item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name>\
         </instanceState><instanceLifecycle>spot</instanceLifecycle></item></instancesSet></item></reservationSet>\
         <nextToken>{next}</nextToken></DescribeInstancesResponse>"
    )
}

#[tokio::test]
async fn every_page_of_a_list_is_read_and_a_circle_is_not_walked() {
    let by_tag = Selection::Filters(vec![("tag:runs-fleet:managed".into(), vec!["true".into()])]);
    let (double, ec2) = Double::answering([(200, page("i-1", "p2").as_str()), (200, page("i-2", "").as_str())]).await;
    let found = ec2.describe_instances(&by_tag).await.unwrap();
    assert_eq!(found.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["i-1", "i-2"]);
    let sent = double.requests();
    assert!(sent[0].contains("MaxResults=1000") && sent[1].contains("NextToken=p2"));

    let (_, ec2) = Double::answering([(200, page("i-1", "p").as_str()), (200, page("i-1", "p").as_str())]).await;
    assert!(matches!(ec2.describe_instances(&by_tag).await.unwrap_err(), ApiError::NoAnswer(_)));

    // EC2 refuses a page size together with ids.
    let (double, ec2) = Double::answering([(200, page("i-1", "").as_str())]).await;
    ec2.describe_instances(&Selection::Ids(vec!["i-1".into()])).await.unwrap();
    assert!(!double.requests()[0].contains("MaxResults"));
}

#[tokio::test]
async fn prices_are_the_newest_of_each_type_and_zone() {
    let row = |kind: &str, zone: &str, price: &str, hour: u32| {
        format!(
            "<item><instanceType>{kind}</instanceType><productDescription>Linux/UNIX</productDescription>\
             <spotPrice>{price}</spotPrice><timestamp>2026-01-01T{hour:02}:00:00.000Z</timestamp>\
             <availabilityZone>{zone}</availabilityZone></item>"
        )
    };
    let rows = [
        row("c7g.large", "a", "0.02", 1),
        row("c7g.large", "a", "0.03", 2),
        row("c7g.large", "b", "0.04", 1),
        row("m7g.large", "a", "nothing", 1),
        row("m7g.large", "b", "0", 1),
    ];
    let body = format!(
        "<DescribeSpotPriceHistoryResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><spotPriceHistorySet>{}\
         </spotPriceHistorySet><nextToken/></DescribeSpotPriceHistoryResponse>",
        rows.concat()
    );
    let (double, ec2) = Double::answering([(200, body.as_str())]).await;
    let mut found = ec2.spot_prices(&["c7g.large".into(), "m7g.large".into()], "Linux/UNIX").await.unwrap();
    found.sort_by(|a, b| a.zone.cmp(&b.zone));
    let price = |zone: &str, usd| SpotPrice { instance_type: "c7g.large".into(), zone: zone.into(), usd };
    assert_eq!(found, [price("a", 0.03), price("b", 0.04)]);
    assert!(double.requests()[0].contains("ProductDescription.1=Linux%2FUNIX"));
}

#[tokio::test]
async fn only_a_persistent_spot_request_outlives_its_instance() {
    let row = |id: &str, kind: &str, instance: &str| {
        format!(
            "<item><spotInstanceRequestId>{id}</spotInstanceRequestId><type>{kind}</type><state>active</state>\
             <instanceId>{instance}</instanceId></item>"
        )
    };
    let body = format!(
        "<DescribeSpotInstanceRequestsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <spotInstanceRequestSet>{}{}</spotInstanceRequestSet></DescribeSpotInstanceRequestsResponse>",
        row("sir-1", "one-time", "i-1"),
        row("sir-2", "persistent", "")
    );
    let (double, ec2) = Double::answering([(200, body.as_str())]).await;
    let request = |id: &str, instance: Option<&str>, persistent| SpotRequest {
        id: id.into(),
        instance: instance.map(str::to_owned),
        persistent,
    };
    let found = ec2.spot_requests(&[("state".into(), vec!["open".into(), "active".into()])]).await.unwrap();
    assert_eq!(found, [request("sir-1", Some("i-1"), false), request("sir-2", None, true)]);
    assert!(double.requests()[0].contains("Filter.1.Name=state&Filter.1.Value.1=open&Filter.1.Value.2=active"));
}

#[tokio::test]
async fn an_instance_tells_what_it_is_made_of_and_when_it_ended() {
    let body = "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><reservationSet><item>\
                <instancesSet><item><instanceId>i-1</instanceId><imageId>ami-1</imageId><architecture>arm64</architecture>\
                <reason>User initiated (2026-01-31 10:23:34 GMT)</reason><launchTime>2026-01-31T09:00:00.000Z</launchTime>\
                <instanceState><code>48</code><name>terminated</name></instanceState></item></instancesSet></item>\
                </reservationSet></DescribeInstancesResponse>";
    let (_, ec2) = Double::answering([(200, body)]).await;
    let instance = ec2.describe_instances(&Selection::Ids(vec!["i-1".into()])).await.unwrap().remove(0);
    assert_eq!((instance.image.as_deref(), instance.arch.as_deref()), (Some("ami-1"), Some("arm64")));
    assert_eq!(instance.transition.as_deref(), Some("User initiated (2026-01-31 10:23:34 GMT)"));
    assert_eq!(instance.launched_at, "2026-01-31T09:00:00Z".parse().ok());
}

#[tokio::test]
async fn tags_are_removed_by_key() {
    let (double, ec2) =
        Double::answering([(200, "<DeleteTagsResponse><return>true</return></DeleteTagsResponse>")]).await;
    ec2.delete_tags(&["i-1".into()], &["a".into(), "b".into()]).await.unwrap();
    let sent = &double.requests()[0];
    assert!(sent.contains("Action=DeleteTags") && sent.contains("ResourceId.1=i-1"), "{sent}");
    assert!(sent.contains("Tag.1.Key=a") && sent.contains("Tag.2.Key=b") && !sent.contains("Value"), "{sent}");
}

#[tokio::test]
async fn a_missing_template_is_an_answer() {
    let missing = refusal("InvalidLaunchTemplateName.NotFoundException");
    let (_, ec2) = Double::answering([(400, missing.as_str()), (403, refusal("UnauthorizedOperation").as_str())]).await;
    assert_eq!(ec2.template("t").await, Ok(None));
    assert!(ec2.template("t").await.is_err());
    let body = "<DescribeLaunchTemplateVersionsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                <launchTemplateVersionSet><item><launchTemplateData><imageId>ami-1</imageId></launchTemplateData></item>\
                </launchTemplateVersionSet></DescribeLaunchTemplateVersionsResponse>";
    let (double, ec2) = Double::answering([(200, body)]).await;
    assert_eq!(ec2.template("t").await, Ok(Some(Template { image: Some("ami-1".into()) })));
    assert!(double.requests()[0].contains("ResolveAlias=true"), "an image may be named by a parameter");
}

/// moto invents subnets and images on its own; it takes an unknown launch template for a missing one as EC2 does.
#[tokio::test]
async fn moto_understands_the_requests() {
    let ec2 = AwsEc2::new(&emulator::shared().sdk(), emulator::silent());
    assert_eq!(ec2.template("no-such-template").await, Ok(None));
    let offerings = ec2.offerings().await.unwrap();
    assert!(offerings.iter().any(|(kind, zone)| kind == "m5.large" && zone.starts_with(emulator::REGION)));
    let subnets = ec2.describe_subnets(&[]).await.unwrap();
    assert!(subnets.iter().any(|subnet| subnet.free_addresses > 0));
    let unknown = ["i-0123456789abcdef0".to_owned()];
    for error in [
        ec2.describe_instances(&Selection::Ids(unknown.to_vec())).await.unwrap_err(),
        ec2.terminate_instances(&unknown).await.unwrap_err(),
        ec2.start_instances(&unknown).await.unwrap_err(),
    ] {
        assert!(matches!(&error, ApiError::Refused { code, .. } if code == "InvalidInstanceID.NotFound"), "{error:?}");
    }
    let by_tag = Selection::Filters(vec![("tag:runs-fleet:pool".into(), vec!["nobody's".into()])]);
    assert_eq!(ec2.describe_instances(&by_tag).await, Ok(vec![]));
    let of_unknown = [("instance-id".to_owned(), unknown.to_vec())];
    assert_eq!(ec2.spot_requests(&of_unknown).await, Ok(vec![]));
}
