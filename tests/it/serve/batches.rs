//! Batches: their life, their rows, their failures, and their end by cancelling.

use std::collections::HashSet;

use batchline::serve::{echo_reply, request_digest};

use super::*;

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_batch_answers_each_line_with_its_echo_in_another_order() {
    let fixture = Fixture::start().await;
    let content = requests(100);
    let job = fixture.run(content.clone()).await;
    assert_eq!(job["status"], "COMPLETED");
    assert_eq!((&job["progress"], &job["model_id"]), (&json!(100.0), &json!("m/x")));
    assert!(job.get("error_file_id").is_none() && job.get("error").is_none(), "{job}");

    let output = fixture.content(&job["output_file_id"]).await;
    let expected: Vec<_> =
        content.lines().map(|line| String::from_utf8(echo_reply(line.as_bytes())).unwrap()).collect();
    assert_ne!(output.lines().collect::<Vec<_>>(), expected, "the rows are in input order");
    assert_eq!(sorted(&output), sorted(&expected.join("\n")));
    let (_, file) = fixture.get(&format!("/files/{}", job["output_file_id"].as_str().unwrap())).await;
    assert_eq!((&file["filename"], &file["LineCount"]), (&json!("output.jsonl"), &json!(100)));
    assert_eq!(file["bytes"], json!(output.len()));
}

#[tokio::test]
async fn requests_that_fail_go_to_the_error_file_and_are_not_billed() {
    let fixture = Fixture::start().await;
    let no_model = r#"{"custom_id":"no-model","body":{}}"#;
    let stops = r#"{"custom_id":"stops","body":{"model":"m/x","stop":["1","2","3","4","5"]}}"#;
    let content = format!("{}{}{no_model}\n{stops}", request(0, "m/x"), request(1, "nonexistent/model"));
    let job = fixture.run(content.clone()).await;
    assert_eq!(job["status"], "COMPLETED");

    let rows =
        |text: &str| -> Vec<Value> { sorted(text).iter().map(|row| serde_json::from_str(row).unwrap()).collect() };
    let errors = rows(&fixture.content(&job["error_file_id"]).await);
    let ids: HashSet<_> = errors.iter().map(|row| row["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, HashSet::from(["request-1", "no-model", "stops"]));
    assert!(errors.iter().all(|row| row["error"]["code"] == "batch_client_error"));
    assert_eq!(rows(&fixture.content(&job["output_file_id"]).await).len(), 1);

    let line = content.lines().next().unwrap();
    let batch = &job["id"];
    let record = json!({"batch_id": batch, "custom_id": "request-0", "digest": request_digest(line.as_bytes())});
    assert_eq!(fixture.billing(batch.as_str().unwrap()), [record]);
}

#[tokio::test]
async fn a_batch_of_failing_requests_alone_has_no_output_file() {
    let fixture = Fixture::start().await;
    let job = fixture.run(r#"{"custom_id":"a","body":{}}"#).await;
    assert_eq!(job["status"], "COMPLETED");
    assert!(job.get("output_file_id").is_none() && job.get("model_id").is_none(), "{job}");
    assert!(job["error_file_id"].is_string());
}

#[tokio::test]
async fn a_new_batch_has_the_shape_of_the_service() {
    let fixture = Fixture::start_with(|options| options.batch_time = PATIENCE).await;
    let file = fixture.upload(requests(1)).await;
    let body = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "priority": 1});
    let (status, created) = fixture.post("/batches", &body).await;
    assert_eq!(status, 201);
    let job = &created["job"];
    let mut names: Vec<_> = job.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = "created_at endpoint file_size_bytes id input_file_id job_deadline organization_id progress \
                    project_id status user_id";
    assert_eq!(names.join(" "), expected);
    assert_eq!((&job["status"], &job["progress"]), (&json!("VALIDATING"), &json!(0.0)));
    assert_eq!(job["user_id"].as_str().unwrap().len(), 24);
    let time = |name: &str| job[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time("job_deadline").duration_since(time("created_at")), jiff::SignedDuration::from_hours(24));
    assert_eq!(job["created_at"].as_str().unwrap().len(), "2026-11-22T09:14:59.428336Z".len());
    assert_eq!(fixture.get(&format!("/batches/{}", job["id"].as_str().unwrap())).await.1, *job);
}

#[tokio::test]
async fn batches_are_listed_as_a_bare_array_or_null() {
    let mut fixture = Fixture::start().await;
    assert_eq!(fixture.get("/batches").await, (200, Value::Null));
    let file = fixture.upload(requests(1)).await;
    let (first, second) = (fixture.create(&file).await, fixture.create(&file).await);
    fixture.until_ended(&first).await;
    fixture.until_ended(&second).await;
    let (_, list) = fixture.get("/batches").await;
    let ids: HashSet<_> = list.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, HashSet::from([first.as_str(), &second]));
    fixture.token = "another account";
    assert_eq!(fixture.get("/batches").await, (200, Value::Null));
    assert_eq!(fixture.get(&format!("/batches/{first}")).await.0, 404);
}

#[tokio::test]
async fn the_progress_rises_through_all_stages() {
    let fixture = Fixture::start_with(|options| options.batch_time = Duration::from_millis(500)).await;
    let file = fixture.upload(requests(20)).await;
    let batch = fixture.create(&file).await;
    let (mut stages, mut progress) = (Vec::new(), Vec::new());
    loop {
        let job = fixture.get(&format!("/batches/{batch}")).await.1;
        stages.push(job["status"].as_str().unwrap().to_owned());
        progress.push(job["progress"].as_f64().unwrap());
        if stages.last().unwrap() == "COMPLETED" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stages.dedup();
    assert_eq!(stages, ["VALIDATING", "IN_PROGRESS", "COMPLETED"]);
    assert!(progress.is_sorted(), "{progress:?}");
    assert!(progress.iter().filter(|percent| **percent > 0.0 && **percent < 100.0).count() >= 3, "{progress:?}");
}

#[tokio::test]
async fn unfit_files_fail_the_batch_with_the_sentences_of_the_service() {
    let fixture = Fixture::start_with(|options| {
        options.batch_time = Duration::ZERO;
        options.limits.requests = 2;
    })
    .await;
    let bad_json = format!("{}{{\n", request(0, "m/x"));
    for (content, start) in [
        (bad_json, "Failed to calculate tokens: input format error: Line 2 (within chunk): Invalid JSON format - "),
        (requests(3), "Input file has too many requests: at most 2 are allowed"),
        (String::new(), "Failed to calculate tokens: input format error: the input file is empty"),
        (request(0, "nonexistent/x"), "Invalid model ID: Unable to access non-serverless model nonexistent/x. "),
    ] {
        let job = fixture.run(content).await;
        assert_eq!(job["status"], "FAILED");
        assert!(job["error"].as_str().unwrap().starts_with(start), "{job}");
        assert!(job.get("output_file_id").is_none() && job.get("error_file_id").is_none(), "{job}");
        assert!(fixture.billing(job["id"].as_str().unwrap()).is_empty());
    }
    let batch = fixture.create("file-none").await;
    let job = fixture.until_ended(&batch).await;
    assert_eq!(job["error"], "Failed to download input file: file file-none: 404 Not Found");
}

#[tokio::test]
async fn requests_about_batches_are_refused_with_a_string() {
    let fixture = Fixture::start().await;
    let (status, error) = fixture.get("/batches/none").await;
    assert_eq!((status, &error["error"]), (404, &json!("Job not found")));
    assert!(error["request_id"].is_string());
    for body in [json!({}), json!([]), json!({"input_file_id": 1, "endpoint": CHAT})] {
        let (status, error) = fixture.post("/batches", &body).await;
        assert_eq!(status, 400);
        assert!(error["error"].as_str().unwrap().starts_with("Invalid request body: "), "{error}");
    }
    assert_eq!(fixture.post("/batches/none/cancel", &Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_batch_cancelled_in_progress_keeps_what_was_done() {
    let fixture = Fixture::start_with(|options| options.batch_time = Duration::from_secs(2)).await;
    let content = requests(200);
    let file = fixture.upload(content.clone()).await;
    let batch = fixture.create(&file).await;
    fixture.until(&batch, |job| job["progress"].as_f64().unwrap() > 5.0).await;
    let (status, job) = fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await;
    assert_eq!((status, &job["status"]), (200, &json!("CANCELING")));
    let again = fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await;
    assert_eq!((again.0, &again.1["status"]), (200, &json!("CANCELING")));
    let percent = job["progress"].as_f64().unwrap();

    let job = fixture.until_ended(&batch).await;
    assert_eq!((&job["status"], job["progress"].as_f64().unwrap()), (&json!("CANCELLED"), percent));
    let output = fixture.content(&job["output_file_id"]).await;
    let rows = output.lines().count();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred rows")]
    let done = rows as f64 / 2.0;
    assert!(rows > 0 && rows < 200 && (done - percent).abs() <= 0.51, "{rows} rows at {percent} %");
    let expected: HashSet<_> = content.lines().map(|line| echo_reply(line.as_bytes())).collect();
    assert!(output.lines().all(|row| expected.contains(row.as_bytes())));
    assert_eq!(fixture.billing(&batch).len(), rows);

    let (status, error) = fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await;
    let message = "Cannot cancel job - already in terminal state: CANCELLED";
    assert_eq!((status, &error["error"]), (409, &json!(message)));
}

#[tokio::test]
async fn a_batch_cancelled_while_validating_has_no_files() {
    let fixture = Fixture::start_with(|options| options.batch_time = Duration::from_secs(2)).await;
    let file = fixture.upload(requests(5)).await;
    let batch = fixture.create(&file).await;
    assert_eq!(fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await.0, 200);
    let job = fixture.until_ended(&batch).await;
    assert_eq!(job["status"], "CANCELLED");
    assert!(job.get("output_file_id").is_none() && job.get("error_file_id").is_none(), "{job}");
    assert!(fixture.billing(&batch).is_empty());
}

#[tokio::test]
async fn more_batches_than_workers_all_end() {
    let fixture = Fixture::start_with(|options| {
        options.batch_time = Duration::from_millis(20);
        options.workers = 1;
    })
    .await;
    let file = fixture.upload(requests(50)).await;
    let mut batches = Vec::new();
    for _ in 0..20 {
        batches.push(fixture.create(&file).await);
    }
    for batch in batches {
        assert_eq!(fixture.until_ended(&batch).await["status"], "COMPLETED");
        assert_eq!(fixture.billing(&batch).len(), 50);
    }
}
