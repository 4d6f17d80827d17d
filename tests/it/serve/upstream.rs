//! Batches that an upstream answers, in OpenAI's dialect: their window ends, and their input is deleted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use batchline::dialect::OPENAI;
use batchline::remote::Address;
use batchline::serve::UpstreamOptions;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{Fixture, read};

/// Requests at the upstream at a time.
const CONCURRENCY: usize = 2;

/// A server that takes its time; all it knows is how often it was asked.
struct Slow {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Slow {
    async fn start(latency: Duration) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let answer = async move |Json(body): Json<Value>| {
            counted.fetch_add(1, Relaxed);
            tokio::time::sleep(latency).await;
            Json(json!({"heard": body["messages"]}))
        };
        let routes = Router::new().route("/v1/chat/completions", post(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    /// A Batch API in front of it.
    async fn fixture(&self) -> Fixture {
        let address = Address::parse(&format!("http://{}/v1", self.address)).unwrap();
        let upstream = UpstreamOptions { concurrency: CONCURRENCY, ..UpstreamOptions::new(address, None) };
        Fixture::start_with(|options| (options.dialect, options.upstream) = (OPENAI, Some(upstream))).await
    }

    async fn until_asked(&self, times: usize) {
        while self.asked() < times {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn requests(count: usize) -> String {
    let line = |number| {
        json!({"custom_id": format!("r-{number}"), "method": "POST", "url": "/v1/chat/completions",
               "body": {"model": "m", "messages": [number]}})
        .to_string()
    };
    (0..count).map(|number| line(number) + "\n").collect()
}

/// Uploads, creates, and gives the ids of the file and of the batch.
async fn begin(fixture: &Fixture, requests: String, window: &str) -> (String, String) {
    let form =
        Form::new().text("purpose", "batch").part("file", Part::bytes(requests.into_bytes()).file_name("in.jsonl"));
    let (_, file) = read(fixture.call(Method::POST, "/files").multipart(form).send().await.unwrap()).await;
    let body = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": window});
    let (status, batch) = fixture.post("/batches", &body).await;
    assert_eq!(status, 200, "{batch}");
    let id = |object: &Value| object["id"].as_str().unwrap().to_owned();
    (id(&file), id(&batch))
}

async fn ended(fixture: &Fixture, batch: &str) -> Value {
    fixture.until(batch, |batch| ["completed", "failed", "expired"].contains(&batch["status"].as_str().unwrap())).await
}

/// The rows of one of a batch's files, by id; none if there is no file.
async fn rows(fixture: &Fixture, file: &Value) -> BTreeMap<String, Value> {
    let Some(id) = file.as_str() else { return BTreeMap::new() };
    let content =
        fixture.call(Method::GET, &format!("/files/{id}/content")).send().await.unwrap().text().await.unwrap();
    let row = |line| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["custom_id"].as_str().unwrap().to_owned(), row)
    };
    let rows: BTreeMap<String, Value> = content.lines().map(row).collect();
    assert_eq!(rows.len(), content.lines().count(), "one row for each");
    rows
}

/// Insists that a batch of `count` requests has expired: what was answered is there, and a row for each of the others
/// says so. Gives how many were answered.
async fn assert_expired(fixture: &Fixture, batch: &str, count: usize) -> usize {
    let batch = ended(fixture, batch).await;
    assert_eq!((&batch["status"], batch["expired_at"].is_i64()), (&json!("expired"), true), "{batch}");
    let (outputs, errors) =
        (rows(fixture, &batch["output_file_id"]).await, rows(fixture, &batch["error_file_id"]).await);
    let all: Vec<&String> = outputs.keys().chain(errors.keys()).collect();
    let mut wanted = (0..count).map(|number| format!("r-{number}"));
    assert_eq!((all.len(), wanted.all(|id| all.contains(&&id))), (count, true), "{all:?}");
    for (id, row) in &outputs {
        let number: Value = id["r-".len()..].parse().unwrap();
        assert_eq!((&row["response"]["body"], &row["error"]), (&json!({"heard": [number]}), &Value::Null), "{row}");
    }
    for row in errors.values() {
        assert_eq!((&row["response"], &row["error"]["code"]), (&Value::Null, &json!("batch_expired")), "{row}");
    }
    let counts = json!({"total": count, "completed": outputs.len(), "failed": errors.len()});
    assert_eq!(batch["request_counts"], counts);
    outputs.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_window_ends_nothing_more_is_sent_and_what_was_answered_is_there() {
    let slow = Slow::start(Duration::from_millis(200)).await;
    let fixture = slow.fixture().await;
    let (_, batch) = begin(&fixture, requests(60), "1s").await;
    let answered = assert_expired(&fixture, &batch, 60).await;
    assert_eq!(answered, slow.asked(), "what was out has come home");
    assert!((1..30).contains(&answered), "{answered} in a second, {CONCURRENCY} at a time");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(slow.asked(), answered);
    let bill = std::fs::read_to_string(fixture.directory.path().join(format!("billing/{batch}.jsonl"))).unwrap();
    assert_eq!(bill.lines().count(), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_while_there_is_no_server_costs_no_answer_and_no_further_request() {
    let slow = Slow::start(Duration::from_millis(100)).await;
    let fixture = slow.fixture().await;
    let (_, batch) = begin(&fixture, requests(200), "2s").await;
    slow.until_asked(6).await;
    // It waits for what is out.
    let fixture = fixture.restart(|_, _| std::thread::sleep(Duration::from_millis(2_200))).await;
    let asked = slow.asked();
    assert_eq!(assert_expired(&fixture, &batch, 200).await, asked);
    assert_eq!(slow.asked(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_of_a_batch_can_be_deleted_and_no_answer_is_lost_with_it() {
    let slow = Slow::start(Duration::from_millis(20)).await;
    let fixture = slow.fixture().await;
    let (file, batch) = begin(&fixture, requests(60), "24h").await;
    slow.until_asked(4).await;
    let path = format!("/files/{file}");
    let (status, _) = read(fixture.call(Method::DELETE, &path).send().await.unwrap()).await;
    assert_eq!((status, fixture.get(&path).await.0), (200, 404), "to its owner it is gone");
    assert_eq!(fixture.get("/files").await.1["data"], json!([]));
    assert_eq!(read(fixture.call(Method::DELETE, &path).send().await.unwrap()).await.0, 404);
    let fixture = fixture.restart(|_, _| ()).await;
    assert!((4..60).contains(&slow.asked()), "{} of 60", slow.asked());
    let batch = ended(&fixture, &batch).await;
    assert_eq!((&batch["status"], rows(&fixture, &batch["output_file_id"]).await.len()), (&json!("completed"), 60));
    assert_eq!((slow.asked(), fixture.get(&path).await.0), (60, 404));
    let left = |ending: &str| fixture.directory.path().join(format!("files/{file}.{ending}")).exists();
    assert!(!left("bytes") && !left("json"), "nobody needs it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_input_goes_at_the_next_start_if_a_kill_came_before() {
    let fixture = Fixture::start_with(|options| options.dialect = OPENAI).await;
    let (file, batch) = begin(&fixture, requests(3), "24h").await;
    read(fixture.call(Method::DELETE, &format!("/files/{file}")).send().await.unwrap()).await;
    assert_eq!(ended(&fixture, &batch).await["request_counts"]["completed"], 3, "an echo is made of it, too");
    let (other, _) = begin(&fixture, requests(3), "24h").await;
    let fixture = fixture
        .restart(|directory, _| {
            let record = directory.join(format!("files/{other}.json"));
            let text = std::fs::read_to_string(&record).unwrap();
            std::fs::write(&record, text.replace(r#""deleted":false"#, r#""deleted":true"#)).unwrap();
        })
        .await;
    let gone = || !fixture.directory.path().join(format!("files/{other}.bytes")).exists();
    while !gone() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_that_had_not_begun_leaves_a_row_for_each_request() {
    let time = Duration::from_secs(8);
    let fixture = Fixture::start_with(|options| (options.dialect, options.batch_time) = (OPENAI, time)).await;
    let (_, batch) = begin(&fixture, requests(5), "1s").await;
    assert_eq!(assert_expired(&fixture, &batch, 5).await, 0);
}
