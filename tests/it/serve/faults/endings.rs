//! Faults in how batches end.

use batchline::serve::QuotaChoice;

use super::*;

impl Fixture {
    async fn until_over(&self, batch: &str) -> Value {
        self.until(batch, |job| !["VALIDATING", "IN_PROGRESS"].contains(&job["status"].as_str().unwrap())).await
    }
}

#[tokio::test]
async fn an_expired_batch_has_and_bills_a_part() {
    let fixture = faulty("[[fault]]\ndo = 'expire'\nnth = 1\nshare = 0.3").await;
    let file = fixture.upload(requests(10)).await;
    let batch = fixture.create(&file).await;
    let job = fixture.until_over(&batch).await;
    assert_eq!((&job["status"], &job["progress"]), (&json!("EXPIRED"), &json!(30.0)));
    assert_eq!(fixture.content(&job["output_file_id"]).await.lines().count(), 3);
    assert_eq!(fixture.billing(&batch).len(), 3);
    assert_eq!(fixture.acted_on_batches(), ["expire null"]);
    let (status, error) = fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await;
    assert_eq!((status, &error["error"]), (409, &json!("Cannot cancel job - already in terminal state: EXPIRED")));
    let next = fixture.create(&file).await;
    assert_eq!(fixture.until_over(&next).await["status"], "COMPLETED");
    // It stays so in the next server.
    let fixture = fixture.restart(|_, _| {}).await;
    assert_eq!(fixture.get(&format!("/batches/{batch}")).await.1, job);
}

#[tokio::test]
async fn a_failed_batch_says_why_and_may_have_a_part() {
    let fixture =
        faulty("[[fault]]\ndo = 'fail'\nnth = 1\nmessage = 'no capacity'\n[[fault]]\ndo = 'fail'\nshare = 1").await;
    let file = fixture.upload(requests(4)).await;
    let (one, other) = (fixture.create(&file).await, fixture.create(&file).await);
    let job = fixture.until_over(&one).await;
    assert_eq!((&job["status"], &job["error"]), (&json!("FAILED"), &json!("no capacity")));
    assert!(job.get("output_file_id").is_none() && fixture.billing(&one).is_empty(), "{job}");
    let job = fixture.until_over(&other).await;
    assert_eq!(job["status"], "FAILED");
    assert_eq!(fixture.billing(&other).len(), 4);
}

#[tokio::test]
async fn a_stuck_batch_goes_on_until_it_is_cancelled() {
    let fixture = faulty("[[fault]]\ndo = 'never'").await;
    let file = fixture.upload(requests(4)).await;
    let batch = fixture.create(&file).await;
    fixture.until(&batch, |job| job["status"] == "IN_PROGRESS").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // A server can be stopped, and the next one does not end the batch either.
    let fixture = fixture.restart(|_, _| {}).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.get(&format!("/batches/{batch}")).await.1["status"], "IN_PROGRESS");
    let (status, _) = fixture.post(&format!("/batches/{batch}/cancel"), &Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(fixture.until_ended(&batch).await["status"], "CANCELLED");
    assert_eq!(fixture.acted_on_batches(), ["never null", "never null"]);
}

#[tokio::test]
async fn where_there_is_no_room_a_batch_fails_unbilled_until_there_is() {
    // The first never ends, and fills the queue.
    let fixture = faulty("[[fault]]\ndo = 'never'\nbatch = 1\n[[fault]]\ndo = 'no_room'").await;
    let file = fixture.upload(requests(4)).await;
    let first = fixture.create(&file).await;
    let job = fixture.run_again(&file).await;
    assert_eq!(job["status"], "FAILED");
    assert!(job["error"].as_str().unwrap().starts_with("Enqueued token limit reached"), "{job}");
    assert!(job.get("output_file_id").is_none() && fixture.billing(job["id"].as_str().unwrap()).is_empty(), "{job}");
    // The first may be recorded later: it is validated meanwhile.
    assert!(fixture.acted_on_batches().iter().any(|acted| acted == "no_room null"));
    fixture.post(&format!("/batches/{first}/cancel"), &Value::Null).await;
    fixture.until_ended(&first).await;
    assert_eq!(fixture.run_again(&file).await["status"], "COMPLETED");
}

#[tokio::test]
async fn a_batch_that_found_no_room_gives_its_quota_back() {
    let fixture = Fixture::start_with(|options| {
        options.batch_time = Duration::ZERO;
        options.faults = faults("[[fault]]\ndo = 'never'\nbatch = 1\n[[fault]]\ndo = 'no_room'");
        options.quota = QuotaChoice::Bytes(400_000);
    })
    .await;
    let content = requests(200);
    assert!(30 * content.len() > 400_000, "together they would exceed the quota");
    let file = fixture.upload(content).await;
    fixture.create(&file).await;
    for _ in 0..30 {
        assert_eq!(fixture.run_again(&file).await["status"], "FAILED");
    }
}
