//! A server in OpenAI's dialect.

use std::collections::BTreeMap;
use std::time::Duration;

use batchline::dialect::OPENAI;
use batchline::serve::{echo_reply_in, request_digest};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{Fixture, read};

const ENDED: [&str; 4] = ["completed", "failed", "cancelled", "expired"];

async fn start(batch_time: Duration) -> Fixture {
    Fixture::start_with(|options| (options.batch_time, options.dialect) = (batch_time, OPENAI)).await
}

/// `count` good requests, one per line, without and with their envelope.
fn requests(count: usize) -> (Vec<String>, String) {
    let bare = |number| {
        json!({"custom_id": format!("request-{number}"),
               "body": {"model": "m/x", "messages": [{"role": "user", "content": format!("question {number}")}]}})
        .to_string()
    };
    let bare: Vec<String> = (0..count).map(bare).collect();
    let full = bare.iter().map(|line| full(line));
    (bare.clone(), full.collect())
}

fn full(line: &str) -> String {
    line.replacen('{', r#"{"method":"POST","url":"/v1/chat/completions","#, 1) + "\n"
}

impl Fixture {
    async fn send(&self, purpose: &str, name: &str, content: impl Into<Vec<u8>>) -> (u16, Value) {
        let file = Part::bytes(content.into()).file_name(name.to_owned());
        let form = Form::new().text("purpose", purpose.to_owned()).part("file", file);
        read(self.call(Method::POST, "/files").multipart(form).send().await.unwrap()).await
    }

    /// Uploads and creates, and gives the batch.
    async fn begin(&self, content: impl Into<Vec<u8>>, extra: Value) -> Value {
        let (status, file) = self.send("batch", "in.jsonl", content).await;
        assert_eq!(status, 200, "{file}");
        let mut body =
            json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let (status, batch) = self.post("/batches", &body).await;
        assert_eq!((status, &batch["object"], &batch["status"]), (200, &json!("batch"), &json!("validating")));
        batch
    }

    async fn ended(&self, batch: &Value) -> Value {
        let id = batch["id"].as_str().unwrap();
        self.until(id, |batch| ENDED.contains(&batch["status"].as_str().unwrap())).await
    }

    /// The rows of both files of a batch, by id.
    async fn rows(&self, batch: &Value) -> BTreeMap<String, Value> {
        let text = self.content(&batch["output_file_id"]).await + &self.content(&batch["error_file_id"]).await;
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| (row["custom_id"].as_str().unwrap().to_owned(), row)).collect()
    }
}

#[tokio::test]
async fn a_batch_goes_through_its_statuses_and_counts_its_rows() {
    let fixture = start(Duration::from_millis(600)).await;
    let (mut bare, mut lines) = requests(20);
    let failing = r#"{"custom_id":"bad","body":{"model":"m/x","stop":["1","2","3","4","5"]}}"#;
    lines.push_str(&full(failing));
    bare.push(failing.to_owned());
    let metadata = json!({"who": "me"});
    let begun = fixture.begin(lines, json!({"metadata": metadata})).await;
    assert!(begun["created_at"].is_i64() && begun["output_file_id"].is_null() && begun["errors"].is_null(), "{begun}");
    assert_eq!(begun["expires_at"].as_i64().unwrap() - begun["created_at"].as_i64().unwrap(), 86_400);
    let id = begun["id"].as_str().unwrap();
    let mut seen = Vec::new();
    let batch = fixture.until(id, |batch| {
        let status = batch["status"].as_str().unwrap().to_owned();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        batch["status"] == "completed"
    });
    let batch = batch.await;
    assert_eq!(seen, ["validating", "in_progress", "finalizing", "completed"]);
    assert_eq!(batch["request_counts"], json!({"total": 21, "completed": 20, "failed": 1}));
    assert_eq!((&batch["metadata"], &batch["model"]), (&metadata, &json!("m/x")));
    assert!(["in_progress_at", "finalizing_at", "completed_at"].iter().all(|at| batch[at].is_i64()), "{batch}");
    assert!(["failed_at", "expired_at", "cancelled_at"].iter().all(|at| batch[at].is_null()), "{batch}");
    let rows = fixture.rows(&batch).await;
    assert_eq!(rows.len(), 21);
    for line in &bare {
        let wanted: Value = serde_json::from_slice(&echo_reply_in(OPENAI, line.as_bytes())).unwrap();
        assert_eq!(rows[wanted["custom_id"].as_str().unwrap()], wanted);
    }
    let billed: Vec<String> =
        fixture.billing(id).iter().map(|record| record["digest"].as_str().unwrap().to_owned()).collect();
    assert_eq!(billed.len(), 20);
    assert!(bare[..20].iter().all(|line| billed.contains(&request_digest(line.as_bytes()))), "billed without envelope");
}

#[tokio::test]
async fn files_come_whole_and_are_listed_in_pages() {
    let fixture = start(Duration::ZERO).await;
    let (_, lines) = requests(3);
    for (purpose, name) in [("batch-api", "in.jsonl"), ("", "in.jsonl"), ("batch", "in.txt"), ("batch", "jsonl")] {
        let (status, refused) = fixture.send(purpose, name, lines.clone()).await;
        assert_eq!((status, refused["error"]["message"].is_string()), (400, true), "{purpose} {name}");
    }
    let mut ids = Vec::new();
    for number in 0..5 {
        let (status, file) = fixture.send("batch", &format!("dir/{number}.jsonl"), lines.clone()).await;
        assert_eq!((status, &file["filename"]), (200, &json!(format!("{number}.jsonl"))));
        assert_eq!(
            (&file["object"], &file["bytes"], &file["status"]),
            (&json!("file"), &json!(lines.len()), &json!("processed"))
        );
        ids.push(file["id"].as_str().unwrap().to_owned());
    }
    let (mut listed, mut path) = (Vec::new(), "/files?limit=2".to_owned());
    loop {
        let (status, page) = fixture.get(&path).await;
        assert_eq!((status, &page["object"]), (200, &json!("list")));
        let data = page["data"].as_array().unwrap();
        listed.extend(data.iter().map(|file| file["id"].as_str().unwrap().to_owned()));
        if page["has_more"] == false {
            break;
        }
        path = format!("/files?limit=2&after={}", page["last_id"].as_str().unwrap());
    }
    listed.sort();
    ids.sort();
    assert_eq!(listed, ids);
    let (status, gone) = read(fixture.call(Method::DELETE, &format!("/files/{}", ids[0])).send().await.unwrap()).await;
    assert_eq!((status, gone), (200, json!({"id": ids[0], "object": "file", "deleted": true})));
    assert_eq!(fixture.get(&format!("/files/{}", ids[0])).await.0, 404);
    assert_eq!(fixture.get("/files?limit=0").await.0, 400);
    assert_eq!(fixture.get("/files?purpose=batch_output").await.1["data"], json!([]));
}

#[tokio::test]
async fn batches_are_listed_in_pages_the_newest_first() {
    let fixture = start(Duration::ZERO).await;
    assert_eq!(
        fixture.get("/batches").await.1,
        json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false})
    );
    let mut ids = Vec::new();
    for _ in 0..25 {
        let batch = fixture.begin(requests(1).1, json!({})).await;
        ids.insert(0, batch["id"].as_str().unwrap().to_owned());
    }
    let listed = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|batch| batch["id"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = fixture.get("/batches").await;
    assert_eq!((listed(&first), &first["has_more"]), (ids[..20].to_vec(), &json!(true)));
    let (_, rest) = fixture.get(&format!("/batches?limit=100&after={}", ids[19])).await;
    assert_eq!((listed(&rest), &rest["has_more"]), (ids[20..].to_vec(), &json!(false)));
    for query in ["limit=101", "limit=x", "after=nobody"] {
        assert_eq!(
            fixture
                .client
                .get(format!("{}/batches?{query}", fixture.server.base_url()))
                .bearer_auth(fixture.token)
                .send()
                .await
                .unwrap()
                .status(),
            400,
            "{query}"
        );
    }
}

#[tokio::test]
async fn what_cannot_become_a_batch_is_refused_at_once() {
    let fixture = start(Duration::ZERO).await;
    let (_, file) = fixture.send("batch", "in.jsonl", requests(1).1).await;
    let good = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let many: BTreeMap<String, &str> = (0..17).map(|number| (number.to_string(), "x")).collect();
    for (member, value) in [
        ("input_file_id", json!("file-nobody")),
        ("input_file_id", json!(null)),
        ("endpoint", json!("/v1/elsewhere")),
        ("completion_window", json!(null)),
        ("completion_window", json!("soon")),
        ("metadata", json!({"a": 1})),
        ("metadata", json!({"a": "x".repeat(513)})),
        ("metadata", json!({"x".repeat(65): "a"})),
        ("metadata", json!(many)),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        let (status, refused) = fixture.post("/batches", &bad).await;
        assert_eq!(status, 400, "{bad}");
        assert!(refused["error"]["message"].is_string() && refused["error"]["type"] == "invalid_request_error");
    }
    assert_eq!(fixture.post("/batches", &good).await.0, 200);
    assert_eq!(fixture.get("/batches/batch_nobody").await.0, 404);
    assert_eq!(fixture.get("/v3/whoami").await.0, 404, "Together's own");
}

#[tokio::test]
async fn a_line_that_is_unfit_fails_its_batch_and_is_named() {
    let fixture = start(Duration::ZERO).await;
    let (bare, lines) = requests(2);
    let together = fixture.begin(format!("{lines}{}\n", bare[0].replace("-0", "-9")), json!({})).await;
    let batch = fixture.ended(&together).await;
    assert_eq!((&batch["status"], &batch["output_file_id"]), (&json!("failed"), &json!(null)));
    let error = &batch["errors"]["data"][0];
    assert_eq!((&error["line"], &error["code"]), (&json!(3), &json!("missing_required_parameter")));
    assert!(error["param"] == "method" && error["message"].is_string() && batch["failed_at"].is_i64(), "{batch}");
    let empty = fixture.begin("", json!({})).await;
    let batch = fixture.ended(&empty).await;
    assert_eq!(batch["errors"]["data"][0]["line"], json!(null));
}

#[tokio::test]
async fn what_a_cancel_leaves_undone_has_rows_that_say_so() {
    let fixture = start(Duration::from_secs(2)).await;
    let begun = fixture.begin(requests(200).1, json!({})).await;
    let id = begun["id"].as_str().unwrap();
    fixture.until(id, |batch| batch["request_counts"]["completed"].as_u64() > Some(0)).await;
    let (status, cancelled) = fixture.post(&format!("/batches/{id}/cancel"), &Value::Null).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelling")));
    assert_eq!(fixture.post(&format!("/batches/{id}/cancel"), &Value::Null).await.0, 200, "again");
    let batch = fixture.ended(&begun).await;
    assert!(batch["status"] == "cancelled" && batch["cancelling_at"].is_i64() && batch["cancelled_at"].is_i64());
    let rows = fixture.rows(&batch).await;
    let undone = rows.values().filter(|row| row["error"]["code"] == "batch_cancelled" && row["response"].is_null());
    let (undone, done) = (undone.count(), fixture.billing(id).len());
    assert!(done > 0 && undone > 0 && done + undone == 200 && rows.len() == 200, "{done} and {undone}");
    assert_eq!(batch["request_counts"], json!({"total": 200, "completed": done, "failed": undone}));
    let (status, refused) = fixture.post(&format!("/batches/{id}/cancel"), &Value::Null).await;
    assert_eq!((status, refused["error"]["message"].is_string()), (409, true));
}

#[tokio::test]
async fn a_window_that_is_over_ends_a_batch_with_what_is_done() {
    let fixture = start(Duration::from_secs(4)).await;
    let begun = fixture.begin(requests(200).1, json!({"completion_window": "2s"})).await;
    let batch = fixture.ended(&begun).await;
    assert!(batch["status"] == "expired" && batch["expired_at"].is_i64() && batch["completed_at"].is_null(), "{batch}");
    let rows = fixture.rows(&batch).await;
    let expired = rows.values().filter(|row| row["error"]["code"] == "batch_expired").count();
    let done = fixture.billing(begun["id"].as_str().unwrap()).len();
    assert!(done > 0 && expired > 0 && done + expired == 200 && rows.len() == 200, "{done} and {expired}");
}

#[tokio::test]
async fn a_window_ends_also_while_no_server_runs() {
    let fixture = start(Duration::from_secs(60)).await;
    let begun = fixture.begin(requests(5).1, json!({"completion_window": "1s"})).await;
    let fixture = fixture.restart(|_, options| options.batch_time = Duration::from_secs(1)).await;
    let batch = fixture.ended(&begun).await;
    assert_eq!(batch["status"], "expired", "{batch}");
}

#[tokio::test]
async fn a_key_may_come_in_a_header_of_its_own() {
    let fixture = start(Duration::ZERO).await;
    let url = format!("{}/batches", fixture.server.base_url());
    let ask = |header: &'static str, value: &'static str| fixture.client.get(&url).header(header, value).send();
    assert_eq!(ask("api-key", "k").await.unwrap().status(), 200);
    for (header, value) in [("api-key", " "), ("authorization", "Basic x"), ("x-nothing", "k")] {
        let response = ask(header, value).await.unwrap();
        let (status, refused) = read(response).await;
        assert_eq!((status, refused["error"]["message"].is_string()), (401, true), "{header}");
    }
}
