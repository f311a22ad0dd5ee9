//! The scriptable receiver does as it is told, and counts what it did.

use std::time::Duration;

use arauto::{
    dev::receiver::{Handle, Options, Receiver, Script},
    http::{Client, Target, guard::Guard},
    pipeline::{
        outcome::{Attempt, AttemptResult, RetryAfter},
        sign,
    },
};
use bytes::Bytes;
use http_types::{HeaderMap, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

const PATIENT: Duration = Duration::from_secs(20);

/// Runs a receiver for as long as the test talks to it.
async fn with(change: impl FnOnce(&mut Options), test: impl AsyncFnOnce(&Handle)) {
    let mut options = Options::new("127.0.0.1:0".parse().unwrap());
    change(&mut options);
    let (receiver, handle) = Receiver::bind(options).await.unwrap();
    let stop = CancellationToken::new();
    let talk = async {
        test(&handle).await;
        stop.cancel();
    };
    let (served, ()) = tokio::join!(receiver.run(stop.clone()), talk);
    served.unwrap();
}

async fn post(handle: &Handle, path: &str, id: &'static str, timeout: Duration) -> Attempt {
    let client = Client::new(Guard::new(&["127.0.0.0/8".parse().unwrap()])).unwrap();
    let target = Target::new(&handle.url(path).parse().unwrap(), timeout).unwrap();
    let headers = HeaderMap::from_iter([(sign::ID, HeaderValue::from_static(id))]);
    client.attempt(&target, headers, Bytes::from_static(b"{}")).await
}

#[tokio::test]
async fn a_retry_of_what_failed_is_no_duplicate() {
    let busy = Script {
        fail_first: 2,
        fail_status: 503,
        status: 201,
        headers: vec![("retry-after".to_owned(), "7".to_owned())],
        ..Script::default()
    };
    let change = |options: &mut Options| {
        options.paths.insert("/busy".to_owned(), busy);
    };
    with(change, async |handle| {
        for status in [503, 503, 201, 201] {
            let attempt = post(handle, "/busy", "msg_1", PATIENT).await;
            assert_eq!(attempt.result, AttemptResult::Status(status));
            assert_eq!(attempt.retry_after, Some(RetryAfter::After(Duration::from_secs(7))));
        }
        post(handle, "/other", "msg_1", PATIENT).await;
        let stats = handle.stats();
        assert_eq!((stats.received, stats.unique, stats.duplicates), (5, 2, 1));
        assert_eq!((stats.verified, stats.failed_verification), (0, 0));
        let duplicates: Vec<bool> = handle.last().iter().map(|received| received.duplicate).collect();
        assert_eq!(duplicates, [false, false, false, true, false]);
    })
    .await;
}

#[tokio::test]
async fn stats_are_served_as_json() {
    with(|_| {}, async |handle| {
        post(handle, "/", "msg_1", PATIENT).await;
        let mut stream = TcpStream::connect(handle.addr()).await.unwrap();
        stream.write_all(b"GET /stats HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let expected = r#"{"received":1,"unique":1,"duplicates":0,"verified":0,"failed_verification":0,"answered":{"200":1}}"#;
        assert_eq!(body, expected);
    })
    .await;
}

#[tokio::test]
async fn one_that_never_answers_can_still_be_stopped() {
    let change = |options: &mut Options| options.script.never = true;
    with(change, async |handle| {
        let attempt = post(handle, "/", "msg_1", Duration::from_millis(200)).await;
        assert_eq!(attempt.result, AttemptResult::Timeout);
        assert!(handle.until(PATIENT, |stats| stats.received == 1).await);
        assert!(!handle.until(Duration::ZERO, |stats| stats.received == 2).await);
        assert!(handle.stats().answered.is_empty());
    })
    .await;
}

#[tokio::test]
async fn delays_are_kept_and_a_full_channel_loses_no_count() {
    let (tell, mut told) = mpsc::channel(1);
    let change = |options: &mut Options| {
        options.script.delay = Duration::from_millis(50);
        options.keep = 2;
        options.tell = Some(tell);
    };
    with(change, async |handle| {
        for id in ["msg_1", "msg_2", "msg_3"] {
            assert!(post(handle, "/a?b", id, PATIENT).await.duration >= Duration::from_millis(50));
        }
        assert_eq!(handle.stats().unique, 3);
        let kept: Vec<_> = handle.last().iter().map(|received| received.id().to_owned()).collect();
        assert_eq!(kept, ["msg_2", "msg_3"]);
    })
    .await;
    let first = told.recv().await.unwrap();
    assert_eq!((first.id(), first.path.as_str()), ("msg_1", "/a?b"));
    assert!(told.try_recv().is_err());
}
