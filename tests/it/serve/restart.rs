//! What survives a restart: everything, and nothing twice.

use batchline::serve::ServeError;

use super::*;

/// Puts a batch's record back to how it was before its result files were recorded in it: as after a kill between the
/// two.
pub(super) fn forget_end(directory: &Path, batch: &str) {
    let path = directory.join("batches").join(format!("{batch}.json"));
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["status"] = json!("IN_PROGRESS");
    for name in ["completed_at", "output_file_id", "error_file_id"] {
        record[name] = Value::Null;
    }
    fs::write(&path, record.to_string()).unwrap();
}

#[tokio::test]
async fn files_and_ended_batches_are_there_after_a_restart() {
    let fixture = Fixture::start().await;
    let announced = fixture.announce(b"later").await;
    let id = fixture.upload(requests(10)).await;
    let batch = fixture.create(&id).await;
    let job = fixture.until_ended(&batch).await;
    let output = fixture.content(&job["output_file_id"]).await;

    let fixture = fixture.restart(|_, _| {}).await;
    assert_eq!(fixture.get(&format!("/batches/{batch}")).await.1, job);
    assert_eq!(fixture.content(&job["output_file_id"]).await, output);
    assert_eq!(fixture.content(&json!(id)).await, requests(10));
    assert_eq!(read(fixture.announce(requests(10).as_bytes()).await).await, (409, json!({"file_id": id})));
    // An upload URL is good for longer than the server that gave it out; the port alone is another one.
    let location = header(&announced, "location");
    let path = &location[location.find("/storage/").unwrap()..];
    let put = fixture.client.put(format!("http://{}{path}", fixture.server.address())).body("later");
    assert_eq!(put.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_batch_broken_off_in_any_stage_goes_on_with_the_next_server() {
    for stage in ["VALIDATING", "IN_PROGRESS"] {
        let fixture = Fixture::start_with(|options| options.batch_time = Duration::from_millis(200)).await;
        let file = fixture.upload(requests(30)).await;
        let batch = fixture.create(&file).await;
        fixture.until(&batch, |job| job["status"] == stage).await;
        let fixture = fixture.restart(|directory, options| {
            assert!(!directory.join("billing").join(format!("{batch}.jsonl")).exists());
            options.batch_time = Duration::ZERO;
        });
        let fixture = fixture.await;
        let job = fixture.until_ended(&batch).await;
        assert_eq!((&job["status"], &job["model_id"]), (&json!("COMPLETED"), &json!("m/x")));
        assert_eq!(fixture.billing(&batch).len(), 30);
    }
}

#[tokio::test]
async fn a_batch_executed_again_gives_the_same_bytes_and_bills_once() {
    let fixture = Fixture::start().await;
    let content = format!("{}{}", requests(40), request(40, "nonexistent/x"));
    let job = fixture.run(content).await;
    let batch = job["id"].as_str().unwrap().to_owned();
    let (output, errors) =
        (fixture.content(&job["output_file_id"]).await, fixture.content(&job["error_file_id"]).await);
    let billing = fixture.billing(&batch);
    assert_eq!((output.lines().count(), errors.lines().count(), billing.len()), (40, 1, 40));

    let fixture = fixture.restart(|directory, _| forget_end(directory, &batch)).await;
    let again = fixture.until_ended(&batch).await;
    for name in ["status", "output_file_id", "error_file_id", "model_id", "created_at"] {
        assert_eq!(again[name], job[name]);
    }
    assert_eq!(fixture.content(&again["output_file_id"]).await, output);
    assert_eq!(fixture.content(&again["error_file_id"]).await, errors);
    assert_eq!(fixture.billing(&batch), billing);
    // Three files, no more: the input, the output, the errors.
    assert_eq!(fixture.get("/files").await.1["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_batch_cancelled_before_a_restart_ends_with_the_same_share() {
    let fixture = Fixture::start_with(|options| options.batch_time = Duration::from_secs(10)).await;
    let file = fixture.upload(requests(2000)).await;
    let batch = fixture.create(&file).await;
    fixture.until(&batch, |job| job["progress"].as_f64().unwrap() > 1.0).await;
    let (_, cancelled) = fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await;
    let fixture = fixture.restart(|_, options| options.batch_time = Duration::ZERO).await;
    let job = fixture.until_ended(&batch).await;
    assert_eq!((&job["status"], &job["progress"]), (&json!("CANCELLED"), &cancelled["progress"]));
    let rows = fixture.billing(&batch).len();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand rows")]
    let percent = rows as f64 / 20.0;
    assert!(rows > 0 && (percent - job["progress"].as_f64().unwrap()).abs() < 0.1, "{rows} rows, {job}");
}

#[tokio::test]
async fn rows_left_by_an_execution_that_a_kill_cut_short_do_not_stay() {
    let fixture = Fixture::start().await;
    let job = fixture.run(format!("{}{}", requests(1), request(1, "nonexistent/x"))).await;
    let batch = job["id"].as_str().unwrap().to_owned();
    let files = |fixture: &Fixture| fs::read_dir(fixture.directory.path().join("files")).unwrap().count();
    assert_eq!(files(&fixture), 6);
    // The second execution is cancelled at half: one row, so that one of the two files must go again.
    let fixture = fixture
        .restart(|directory, _| {
            forget_end(directory, &batch);
            let path = directory.join("batches").join(format!("{batch}.json"));
            let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            (record["status"], record["cancelled_at"]) = (json!("CANCELING"), json!(0.5));
            fs::write(&path, record.to_string()).unwrap();
        })
        .await;
    let job = fixture.until_ended(&batch).await;
    assert_eq!(job["status"], "CANCELLED");
    let ids = [&job["output_file_id"], &job["error_file_id"]];
    assert_eq!(ids.iter().filter(|id| id.is_string()).count(), 1, "{job}");
    assert_eq!(files(&fixture), 4);
    assert_eq!(fixture.billing(&batch).len(), usize::from(job["output_file_id"].is_string()));
}

#[tokio::test]
async fn the_same_seed_shuffles_the_same_batch_the_same_way() {
    let fixture = Fixture::start().await;
    let job = fixture.run(requests(50)).await;
    let batch = job["id"].as_str().unwrap().to_owned();
    let output = fixture.content(&job["output_file_id"]).await;
    let fixture = fixture
        .restart(|directory, options| {
            forget_end(directory, &batch);
            options.seed += 1;
        })
        .await;
    let job = fixture.until_ended(&batch).await;
    let other = fixture.content(&job["output_file_id"]).await;
    assert_ne!(other, output);
    assert_eq!(sorted(&other), sorted(&output));
}

#[tokio::test]
async fn a_second_server_is_kept_out_of_the_directory() {
    let fixture = Fixture::start().await;
    let second = Server::start(fixture.options.clone()).await;
    assert!(matches!(second, Err(ServeError::Locked { .. })), "{second:?}");
    // Until the first one is gone.
    fixture.restart(|_, _| {}).await;
}

#[tokio::test]
async fn content_without_a_record_is_removed_at_the_next_start() {
    let fixture = Fixture::start().await;
    let id = fixture.upload(requests(1)).await;
    let place = |directory: &Path, id: &str| directory.join("files").join(format!("{id}.bytes"));
    let fixture = fixture.restart(|directory, _| fs::write(place(directory, "file-orphan"), "x").unwrap()).await;
    let is_there = |id: &str| place(fixture.directory.path(), id).exists();
    assert!(is_there(&id) && !is_there("file-orphan"));
}
