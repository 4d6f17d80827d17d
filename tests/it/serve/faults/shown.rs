//! Faults in what is shown of batches.

use super::*;

#[tokio::test]
async fn young_batches_are_not_listed_yet() {
    let fixture = faulty("[[fault]]\ndo = 'list_lag'\ndelay = '1s'").await;
    let start = Instant::now();
    let batch = fixture.create("file-none").await;
    assert_eq!(fixture.get("/batches").await, (200, Value::Null));
    assert_eq!(fixture.get(&format!("/batches/{batch}")).await.0, 200);
    while fixture.listed().await != [batch.as_str()] {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(fixture.acted().iter().all(|call| call.ends_with("200 list_lag")));
    let calls = records(&fixture.directory.path().join("access.jsonl"));
    assert!(calls.last().unwrap().get("fault").is_none(), "a fault without effect is recorded");
}

#[tokio::test]
async fn lists_omit_repeat_and_deny() {
    let script = |fault: &str| format!("[[fault]]\ndo = '{fault}'\nfrom = 2");
    for (fault, expected) in [("list_omit", vec![0]), ("list_duplicate", vec![1, 1, 0, 0]), ("list_null", Vec::new())] {
        let fixture = faulty(&script(fault)).await;
        let batches = [fixture.create("file-a").await, fixture.create("file-b").await];
        assert_eq!(fixture.listed().await.len(), 2);
        let expected: Vec<_> = expected.into_iter().map(|place: usize| batches[place].clone()).collect();
        assert_eq!(fixture.listed().await, expected, "{fault}");
        assert_eq!(fixture.acted(), [format!("list_batches 2 200 {fault}")]);
    }
}

#[tokio::test]
async fn a_huge_list_has_the_batches_and_many_more() {
    let fixture = faulty("[[fault]]\ndo = 'list_huge'\nentries = 1000").await;
    assert_eq!(fixture.listed().await.len(), 1000);
    let batch = fixture.create("file-none").await;
    let listed = fixture.listed().await;
    assert_eq!((listed.len(), &listed[0]), (1001, &batch));
    let distinct: std::collections::HashSet<_> = listed.iter().collect();
    assert_eq!(distinct.len(), 1001);
}

#[tokio::test]
async fn any_member_may_be_shown_as_it_is_not() {
    let fixture = faulty(
        "[[fault]]\ndo = 'show'\nset = { status = 'PAUSED' }\nlooks = 2\n\
         [[fault]]\ndo = 'show'\nset = { error_file_id = '' }\nunset = ['output_file_id']\nwhile = 'COMPLETED'\nlooks = 1",
    )
    .await;
    let file = fixture.upload(requests(1)).await;
    let batch = fixture.create(&file).await;
    let path = format!("/batches/{batch}");
    for _ in 0..2 {
        assert_eq!(fixture.get(&path).await.1["status"], "PAUSED");
    }
    let ended = fixture.until(&batch, |job| job["status"] == "COMPLETED").await;
    assert!(ended["error_file_id"] == "" && ended.get("output_file_id").is_none(), "{ended}");
    let truth = fixture.get(&path).await.1;
    assert!(truth["output_file_id"].is_string() && truth.get("error_file_id").is_none(), "{truth}");
    assert_eq!(fixture.acted().len(), 3);
}

#[tokio::test]
async fn ids_are_not_always_ids() {
    for (id, expected) in [
        ("dots", "../../../etc/passwd"),
        ("encoded_dots", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
        ("newline", "file-1\nX-Injected: 1"),
        ("nul", "file-\0-1"),
        ("empty", ""),
    ] {
        let fixture = faulty(&format!("[[fault]]\ndo = 'bad_id'\nid = '{id}'")).await;
        assert_eq!(fixture.run(requests(1)).await["output_file_id"], expected);
    }
    let fixture = faulty("[[fault]]\ndo = 'bad_id'\nid = 'long'\nfield = 'id'\ncall = 'create'").await;
    assert_eq!(fixture.create("file-none").await.len(), 10_000);
}

#[tokio::test]
async fn a_completed_batch_goes_on_for_a_while() {
    let fixture = faulty("[[fault]]\ndo = 'regress'\nlooks = 2").await;
    let job = fixture.run(requests(1)).await;
    let path = format!("/batches/{}", job["id"].as_str().unwrap());
    for _ in 0..2 {
        let again = fixture.get(&path).await.1;
        assert_eq!(again["status"], "IN_PROGRESS");
        assert!(again.get("output_file_id").is_none() && again.get("completed_at").is_none(), "{again}");
    }
    assert_eq!(fixture.get(&path).await.1, job);
    assert_eq!(fixture.acted().len(), 2);
}

#[tokio::test]
async fn only_the_batch_that_is_meant_is_shown_otherwise() {
    let fixture = faulty("[[fault]]\ndo = 'show'\nbatch = 2\nset = { status = 'PAUSED' }").await;
    let (one, other) = (fixture.create("file-a").await, fixture.create("file-b").await);
    fixture.until_ended(&one).await;
    assert_eq!(fixture.get(&format!("/batches/{other}")).await.1["status"], "PAUSED");
    let list = fixture.get("/batches").await.1;
    assert_eq!([&list[0]["status"], &list[1]["status"]], ["PAUSED", "FAILED"]);
}

#[tokio::test]
async fn entries_of_others_stand_around_ours() {
    let fixture = faulty("[[fault]]\ndo = 'list_foreign'\nentries = ['null', '{\"id\":\"s3://x\"}']").await;
    let others = [Value::Null, json!({"id": "s3://x"})];
    assert_eq!(fixture.get("/batches").await.1, json!([others.clone(), others.clone()].concat()));
    let batch = fixture.create("file-none").await;
    let list = fixture.get("/batches").await.1;
    assert_eq!((&list[0], &list[2]["id"], &list[3]), (&others[0], &json!(batch), &others[0]));
    let fixture = faulty("[[fault]]\ndo = 'list_foreign'").await;
    assert!(fixture.get("/batches").await.1.as_array().unwrap().len() > 60);
    let told = Faults::parse(Path::new("test.toml"), "[[fault]]\ndo = 'list_foreign'\nentries = ['{']").unwrap_err();
    assert!(told.to_string().starts_with("test.toml:3: `entries`: \"{\": EOF"), "{told}");
}

#[tokio::test]
async fn a_created_batch_may_be_named_like_the_first() {
    let fixture = faulty("[[fault]]\ndo = 'same_id'").await;
    let batches = [fixture.create("file-a").await, fixture.create("file-b").await];
    assert_eq!(batches[0], batches[1]);
    assert_eq!(fixture.listed().await.len(), 2);
    assert_eq!(fixture.acted(), ["create_batch 2 201 same_id"]);
}
