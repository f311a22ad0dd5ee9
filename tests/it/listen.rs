//! `arauto listen`: a script step by step, and the tunnel to a server nearby.

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    PATIENCE,
    arauto::Arauto,
    command::arauto,
    config::SECRET,
    eventually,
    hook::{Hook, Reply},
    now_ms,
    raw::refused_url,
};

async fn listen(more: &[&str]) -> (Arauto, String) {
    let listener = Arauto::spawn([&["listen", "--json", "--addr", "127.0.0.1:0"], more].concat());
    let address = eventually(PATIENCE, "the listener", async || {
        listener.log().iter().find_map(|line| line["listening"].as_str().map(str::to_owned))
    })
    .await;
    (listener, address)
}

/// The lines of the webhooks, when there are so many.
async fn lines(listener: &Arauto, count: usize) -> Vec<Value> {
    let lines = || listener.log().into_iter().filter(|line| line["path"].is_string()).collect::<Vec<_>>();
    eventually(PATIENCE, "a line for each webhook", async || {
        Some(lines()).filter(|lines| lines.len() >= count)
    })
    .await
}

fn request(address: &str, id: &str, secret: &str, body: &[u8]) -> reqwest::RequestBuilder {
    // Another test may have made it the process's provider.
    rustls::crypto::ring::default_provider().install_default().ok();
    let at = now_ms() / 1000;
    let signature = standardwebhooks::Webhook::new(secret).unwrap().sign(id, at, body).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("http://{address}/in/hook?a=b")).body(body.to_vec());
    request.header("webhook-id", id).header("webhook-timestamp", at).header("webhook-signature", signature)
}

#[tokio::test]
async fn a_script_is_answered_step_by_step() {
    let script = "200,503:retry-after=5:times=2,timeout,404";
    let (listener, address) = listen(&["--script", script]).await;
    let post = async || request(&address, "msg_1", SECRET, b"{}").send().await.unwrap();
    assert_eq!(post().await.status(), 200);
    for _ in 0..2 {
        let answer = post().await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (503, &"5".parse().unwrap())
        );
    }
    // Takes the request and is shown to have left it at that.
    let mut unanswered = TcpStream::connect(&address).await.unwrap();
    unanswered.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    lines(&listener, 4).await;
    for _ in 0..2 {
        assert_eq!(post().await.status(), 404);
    }
    let lines = lines(&listener, 6).await;
    let statuses: Vec<&Value> = lines.iter().map(|line| &line["status"]).collect();
    assert_eq!(json!(statuses), json!([200, 503, 503, null, 404, 404]));
    let told = ["body", "bytes", "path", "id"].map(|name| lines[0][name].clone());
    assert_eq!(json!(told), json!(["{}", 2, "/in/hook?a=b", "msg_1"]));
    assert_eq!(lines[0]["headers"]["webhook-id"], "msg_1");

    for (wrong, told) in [
        (&["--script", "200,600"][..], "step 2 (\"600\") is neither"),
        (&["--script", "200", "--status", "500"], "cannot be used with"),
        (&["--forward-to", "localhost:1", "--script", "200"], "cannot be used with"),
        (&["--forward-to", "ftp://localhost"], "is no URL such as"),
    ] {
        let output = arauto(&[&["listen"], wrong].concat()).await;
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(told), "{told}: {output:?}");
    }
}

#[tokio::test]
async fn what_verifies_is_forwarded_as_it_came_and_answered_as_there() {
    let hook = Hook::start(|_| Reply::status(422).header("x-answer", "no").body("not today")).await;
    let (listener, address) =
        listen(&["--secret", SECRET, "--forward-to", &hook.address().to_string()]).await;
    let body = " {\"a\" : \"é\"}\n".as_bytes();
    let answer = request(&address, "msg_1", SECRET, body).header("x-more", "kept").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-answer"]), (422, &"no".parse().unwrap()));
    assert_eq!(answer.text().await.unwrap(), "not today");
    let [got] = &hook.requests()[..] else { panic!("one request") };
    assert_eq!((got.method.as_str(), got.uri.to_string()), ("POST", "/in/hook?a=b".to_owned()));
    assert_eq!((&got.body[..], got.header("x-more")), (body, Some("kept")));
    assert_eq!(got.header("host"), Some(&*hook.address().to_string()));
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(&got.body, &got.headers).unwrap();

    // What does not verify stays outside.
    let other = "whsec_b3RoZXIgc2VjcmV0LCBvdGhlciBrZXku";
    assert_eq!(request(&address, "msg_2", other, b"{}").send().await.unwrap().status(), 401);
    assert_eq!(hook.count(), 1);
    let lines = lines(&listener, 2).await;
    let told = |line: &Value| json!([line["verified"], line["status"], line["note"]]);
    assert_eq!(told(&lines[0]), json!([true, 422, null]));
    assert_eq!(told(&lines[1]), json!([false, 401, "not forwarded"]));
    assert_eq!(lines[0]["body"], " {\"a\" : \"é\"}\n");

    // A URL with a path gets everything; nobody there is a 502.
    let (_listener, address) = listen(&["--forward-to", &hook.url()]).await;
    request(&address, "msg_3", other, b"{}").send().await.unwrap();
    assert_eq!(hook.requests()[1].uri.to_string(), "/hook");
    let (_listener, address) = listen(&["--forward-to", &refused_url()]).await;
    let answer = request(&address, "msg_4", other, b"{}").send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.unwrap().contains("refused"));
}
