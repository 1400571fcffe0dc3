use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use double::serve;

use super::*;

/// A metadata service in a few lines: tokens are `t1`, `t2`, …, and only the latest is good.
mod double {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    pub(super) async fn serve(tokens: Arc<AtomicUsize>, refuse_once: bool) -> (String, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut refused = !refuse_once;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).await.unwrap();
                let request = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
                let token = format!("x-aws-ec2-metadata-token: t{}\r", tokens.load(Ordering::SeqCst));
                let (status, body) = if request.starts_with("put /latest/api/token") {
                    assert!(request.contains("ttl-seconds: 21600"));
                    (200, format!("t{}", tokens.fetch_add(1, Ordering::SeqCst) + 1))
                } else if !request.contains(&token) || !std::mem::replace(&mut refused, true) {
                    (401, String::new())
                } else if request.starts_with("get /latest/meta-data/instance-id ") {
                    (200, "i-1\n".to_owned())
                } else {
                    (404, String::new())
                };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (base, server)
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_replaced_once() {
    for (refuse_once, expected) in [(false, 1), (true, 2)] {
        let tokens = Arc::new(AtomicUsize::new(0));
        let (base, _server) = serve(Arc::clone(&tokens), refuse_once).await;
        let imds = Imds::new(&base).unwrap();
        assert_eq!(imds.get("meta-data/instance-id").await, Ok(Some("i-1".to_owned())));
        assert_eq!(imds.get("meta-data/spot/instance-action").await, Ok(None), "absent is not an error");
        assert_eq!(tokens.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn a_service_that_is_not_up_is_waited_for_until_the_deadline() {
    let imds = Imds::new("http://127.0.0.1:9").unwrap();
    let answer = imds.get_by("meta-data/instance-id", Instant::now() + Duration::from_millis(1_500)).await;
    assert!(matches!(answer, Err(Error::NoAnswer(_))), "{answer:?}");
}
