//! The bytes, request by request.

use axum::body::Body;
use axum::http::{Method, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::json;

use crate::lookups::walk;
use crate::support::{Answer, BACKS, Back, Service, noise, path, settings, token};

const MIB: usize = 1 << 20;

fn block(path: &str, id: &str) -> String {
    format!("{path}&comp=block&blockid={}", BASE64.encode(id).replace('+', "%2B").replace('=', "%3D"))
}

fn list(ids: &[&str]) -> String {
    let blocks: String = ids.iter().map(|id| format!("<Latest>{}</Latest>", BASE64.encode(id))).collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{blocks}</BlockList>")
}

async fn put_list(service: &Service, path: &str, xml: impl Into<Bytes>) -> Answer {
    service.put(&format!("{path}&comp=blocklist"), xml).await
}

async fn get(service: &Service, url: &str, name: &'static str, range: &str) -> Answer {
    service.send(Request::get(url).header(name, range).body(Body::empty()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_any_size_in_any_order_become_what_the_list_says() {
    for &back in BACKS {
        let service = Service::new(back).await;
        let token = token("1");
        let (large, small) = (noise(6 * MIB, 1), Bytes::from_static(b"0123456789"));
        for (key, pieces) in [
            ("mixed", vec![large.clone(), small.clone(), large.clone(), Bytes::from_static(b"x")]),
            ("one", vec![large.clone()]),
            ("many", (0..40).map(|n| noise(MIB / 2 + n, n as u64)).collect()),
            ("none", Vec::new()),
        ] {
            let path = service.create(&token, key).await;
            let ids: Vec<String> = (0..pieces.len()).map(|n| format!("{:04}", n * 7919 % 10_000)).collect();
            // The last one first, one of them twice, one that the list does not name.
            for (id, bytes) in ids.iter().zip(&pieces).rev() {
                assert_eq!(service.put(&block(&path, id), "wrong").await.status, 201);
                assert_eq!(service.put(&block(&path, id), bytes.clone()).await.status, 201);
            }
            assert_eq!(service.put(&block(&path, "unlisted"), "dropped").await.status, 201);
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let size = pieces.iter().map(Bytes::len).sum();
            if ids.len() > 1 {
                // An earlier list does not count.
                assert_eq!(put_list(&service, &path, list(&ids[..1])).await.status, 201);
            }
            assert_eq!(put_list(&service, &path, list(&ids)).await.status, 201);
            assert_eq!(service.finalize(&token, key, size + 1).await.status, 400);
            let done = service.finalize(&token, key, size).await;
            assert_eq!(done.status, 200, "{key}: {}", done.text());
            assert_eq!(service.load(&token, key).await, Some(pieces.concat().into()), "{key}");
        }
    }
}

#[tokio::test]
async fn an_upload_s_answer_has_what_clients_cannot_do_without() {
    let service = Service::new(Back::Fs).await;
    let path = service.create(&token("1"), "k").await;
    let request = Request::put(&path)
        .header("content-length", 3)
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-version", "2025-01-05")
        .header("x-ms-client-request-id", "mine")
        .header("content-md5", "rL0Y20zC+Fzt72VPzMSk2A==");
    let answer = service.send(request.body("foo".into()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (201, 0));
    assert!(answer.header("etag").starts_with('"') && !answer.header("x-ms-request-id").is_empty());
    assert!(answer.header("last-modified").ends_with(" GMT"));
    assert_eq!(answer.header("x-ms-version"), "2025-01-05");
    assert_eq!(answer.header("x-ms-client-request-id"), "mine");
    assert_eq!(answer.header("x-ms-request-server-encrypted"), "true");
}

#[tokio::test]
async fn bad_uploads_are_refused_by_name() {
    let service = Service::with(Back::Fs, cache::Settings { max_entry: 100, ..settings() }, true).await;
    let token = token("1");
    let path = service.create(&token, "k").await;
    let put = |query: &str| Request::put(format!("{path}{query}"));
    let body = || Body::from("foo");
    let entity = "<!DOCTYPE x [<!ENTITY e \"QQ==\">]><BlockList><Latest>&e;</Latest></BlockList>";
    for (what, request, status, code) in [
        ("no length", put("").body(body()).unwrap(), 411, "MissingContentLengthHeader"),
        ("short", put("").header("content-length", 4).body(body()).unwrap(), 400, "InvalidInput"),
        ("long", put("").header("content-length", 2).body(body()).unwrap(), 400, "InvalidInput"),
        ("too large", put("").header("content-length", 101).body(body()).unwrap(), 413, "RequestBodyTooLarge"),
        (
            "too large, unannounced",
            put("").header("transfer-encoding", "chunked").body(vec![0; 101].into()).unwrap(),
            413,
            "RequestBodyTooLarge",
        ),
        (
            "another kind",
            put("").header("content-length", 3).header("x-ms-blob-type", "PageBlob").body(body()).unwrap(),
            400,
            "InvalidHeaderValue",
        ),
        (
            "MD5",
            put("").header("content-length", 3).header("content-md5", BASE64.encode([0; 16])).body(body()).unwrap(),
            400,
            "Md5Mismatch",
        ),
        (
            "no MD5",
            put("").header("content-length", 3).header("content-md5", "x").body(body()).unwrap(),
            400,
            "InvalidHeaderValue",
        ),
        (
            "CRC",
            put("")
                .header("content-length", 3)
                .header("x-ms-content-crc64", BASE64.encode([0; 8]))
                .body(body())
                .unwrap(),
            400,
            "Crc64Mismatch",
        ),
        (
            "unknown comp",
            put("&comp=page").header("content-length", 3).body(body()).unwrap(),
            400,
            "InvalidQueryParameterValue",
        ),
        (
            "no id",
            put("&comp=block").header("content-length", 3).body(body()).unwrap(),
            400,
            "InvalidQueryParameterValue",
        ),
        (
            "bad id",
            put("&comp=block&blockid=..%2F..").header("content-length", 3).body(body()).unwrap(),
            400,
            "InvalidQueryParameterValue",
        ),
        (
            "empty block",
            put("&comp=block&blockid=QQ%3D%3D").header("content-length", 0).body(Body::empty()).unwrap(),
            400,
            "InvalidHeaderValue",
        ),
        (
            "unknown block",
            put("&comp=blocklist").header("content-length", list(&["x"]).len()).body(list(&["x"]).into()).unwrap(),
            400,
            "InvalidBlockList",
        ),
        (
            "no list",
            put("&comp=blocklist").header("content-length", 3).body(body()).unwrap(),
            400,
            "InvalidXmlDocument",
        ),
        (
            "entities",
            put("&comp=blocklist").header("content-length", entity.len()).body(entity.into()).unwrap(),
            400,
            "InvalidXmlDocument",
        ),
        ("POST", Request::post(&path).body(body()).unwrap(), 405, "UnsupportedHttpVerb"),
        ("DELETE", Request::delete(&path).body(body()).unwrap(), 405, "UnsupportedHttpVerb"),
        (
            "no signature",
            Request::put(path.split('?').next().unwrap()).header("content-length", 3).body(body()).unwrap(),
            403,
            "AuthenticationFailed",
        ),
        (
            "another id",
            Request::put(path.replace("/u/", "/u/1")).header("content-length", 3).body(body()).unwrap(),
            403,
            "AuthenticationFailed",
        ),
        (
            "no id",
            Request::put(path.replace("/u/", "/u/..%2F")).header("content-length", 3).body(body()).unwrap(),
            403,
            "AuthenticationFailed",
        ),
        ("a container", Request::get("/_rfcache/u?restype=container").body(body()).unwrap(), 404, "BlobNotFound"),
    ] {
        let answer = service.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{what}: {}", answer.text());
        assert!(answer.text().contains(&format!("<Code>{code}</Code>")), "{what}");
    }
    assert_eq!(service.finalize(&token, "k", 3).await.status, 400, "nothing of it was stored");
    let again = service.create(&token, "k").await;
    assert_ne!(again, path);
    assert_eq!(
        (service.put(&path, "foo").await.code(), service.put(&again, "foo").await.status.as_u16()),
        ("BlobNotFound", 201)
    );
    service.clock.advance(std::time::Duration::from_secs(6 * 3600 + 1));
    assert_eq!(service.put(&again, "foo").await.code(), "AuthenticationFailed", "the address is too old");
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_are_whole_or_in_part() {
    for &back in BACKS {
        let service = Service::new(back).await;
        let token = token("1");
        let bytes = noise(3 * MIB + 5, 9);
        service.save(&token, "k", bytes.clone()).await;
        service.save(&token, "empty", "").await;
        let url = path(service.lookup(&token, "k", &[]).await["signed_download_url"].as_str().unwrap());
        let size = bytes.len();
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=5-", 5..size),
            ("bytes=-7", size - 7..size),
            ("bytes=1048570-2097160", 1_048_570..2_097_161),
            ("bytes=10-99999999999", 10..size),
        ] {
            for name in ["range", "x-ms-range"] {
                let answer = get(&service, &url, name, range).await;
                assert_eq!(answer.status, 206, "{range}");
                let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                assert_eq!(answer.header("content-range"), shown);
                assert_eq!(answer.header("content-length"), part.len().to_string());
                assert!(answer.body == bytes[part.clone()], "{back:?} {range}");
            }
        }
        let both = Request::get(&url).header("range", "bytes=0-0").header("x-ms-range", "bytes=1-2");
        assert_eq!(service.send(both.body(Body::empty()).unwrap()).await.body, bytes[1..3], "Azure's own counts");
        let behind = get(&service, &url, "range", &format!("bytes={size}-")).await;
        assert_eq!((behind.status.as_u16(), behind.code()), (416, "InvalidRange"));
        assert_eq!(behind.header("content-range"), format!("bytes */{size}"));
        assert_eq!(get(&service, &url, "range", "bytes=0-1,3-4").await.body.len(), size, "several: all of it");
        let etag = get(&service, &url, "range", "bytes=0-0").await.header("etag").to_owned();
        assert_eq!(get(&service, &url, "if-match", "\"other\"").await.code(), "ConditionNotMet");
        let met = Request::get(&url).header("if-match", etag).header("range", "bytes=0-9");
        assert_eq!(service.send(met.body(Body::empty()).unwrap()).await.status, 206);
        let head = service.send(Request::head(&url).body(Body::empty()).unwrap()).await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, size.to_string().as_str()));
        assert_eq!((head.header("accept-ranges"), head.header("x-ms-blob-type")), ("bytes", "BlockBlob"));

        let url = path(service.lookup(&token, "empty", &[]).await["signed_download_url"].as_str().unwrap());
        let empty = service.send(Request::get(&url).body(Body::empty()).unwrap()).await;
        assert_eq!((empty.status.as_u16(), empty.header("content-length"), empty.body.len()), (200, "0", 0));
        assert_eq!(get(&service, &url, "range", "bytes=0-0").await.status, 416);
    }
}

#[tokio::test]
async fn a_download_that_cannot_go_on_does_not_end_well() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    service.save(&token, "k", noise(3 * MIB, 1)).await;
    let url = path(service.lookup(&token, "k", &[]).await["signed_download_url"].as_str().unwrap());
    let response = service.open(Request::get(&url).body(Body::empty()).unwrap()).await;
    let data = walk(service.dir.path()).into_iter().find(|file| file.to_string_lossy().contains("/dat/")).unwrap();
    std::fs::File::options().write(true).open(data).unwrap().set_len(2 << 20).unwrap();
    let answer = Answer::of(response).await;
    assert!(answer.cut, "a client that counts would not notice a short end");
}

#[tokio::test]
async fn an_address_leads_nowhere_else() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    service.save(&token, "k", "bytes").await;
    std::fs::write(service.dir.path().join("outside"), "secret").unwrap();
    let url = path(service.lookup(&token, "k", &[]).await["signed_download_url"].as_str().unwrap());
    let (address, query) = url.split_once('?').unwrap();
    let object = query.split('&').find_map(|pair| pair.strip_prefix("o=")).unwrap();
    let upload = service.create(&token, "another").await;
    let upload_query = upload.split_once('?').unwrap().1;
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    for bad in [
        address.to_owned(),
        format!("{address}?{}", query.replace(object, &url_safe.encode("../../../outside"))),
        format!("{address}?{}", query.replace(object, &url_safe.encode("acme/app/../../../../outside"))),
        format!("{address}?o={object}&{upload_query}"),
        url.replace("/d/", "/d/9"),
        url.replace("se=", "se=9"),
        url.replace("/d/", "/d/..%2F..%2Foutside%2F"),
        url.replace("/d/", "/u/"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let request = Request::builder().method(method).uri(&bad).body(Body::empty()).unwrap();
            let answer = service.send(request).await;
            assert!([403, 404, 405].contains(&answer.status.as_u16()), "{bad}: {}", answer.status);
            assert!(!answer.text().contains("secret"));
        }
    }
    let presign =
        Request::post(upload.replace('?', "/presign?")).body(json!({ "op": "blob" }).to_string().into()).unwrap();
    assert_eq!(service.send(presign).await.status, 501, "all bytes come through here");
    service.clock.advance(std::time::Duration::from_secs(3601));
    assert_eq!(service.send(Request::get(&url).body(Body::empty()).unwrap()).await.code(), "AuthenticationFailed");
}
