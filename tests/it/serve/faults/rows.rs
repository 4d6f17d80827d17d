//! Faults in what batches give back.

use batchline::serve::{echo_reply, request_digest};

use super::*;

/// A server with one fault in rows, after a batch of `count` requests.
async fn ran(fault: &str, count: usize) -> (Fixture, Value) {
    let fixture = faulty(&format!("[[fault]]\n{fault}")).await;
    let job = fixture.run(requests(count)).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    (fixture, job)
}

/// The bytes of a file, which need not be UTF-8.
async fn bytes(fixture: &Fixture, id: &Value) -> Vec<u8> {
    let path = format!("/files/{}/content", id.as_str().unwrap());
    fixture.call(Method::GET, &path).send().await.unwrap().bytes().await.unwrap().to_vec()
}

fn echoes(count: usize) -> Vec<String> {
    let mut rows: Vec<_> =
        requests(count).lines().map(|line| String::from_utf8(echo_reply(line.as_bytes())).unwrap()).collect();
    rows.sort_unstable();
    rows
}

fn bills(fixture: &Fixture, job: &Value) -> usize {
    fixture.billing(job["id"].as_str().unwrap()).len()
}

#[tokio::test]
async fn dropped_rows_are_missing_and_billed() {
    let (fixture, job) = ran("do = 'drop_rows'\nrows = [2, 4]", 5).await;
    let output = fixture.content(&job["output_file_id"]).await;
    assert_eq!(output.lines().count(), 3);
    assert!(!output.contains("\"request-1\"") && !output.contains("\"request-3\""), "{output}");
    assert_eq!(bills(&fixture, &job), 5);
    assert_eq!(fixture.acted_on_batches(), ["drop_rows 2"]);
}

#[tokio::test]
async fn a_share_of_rows_is_the_same_each_time() {
    let (fixture, job) = ran("do = 'drop_rows'\nshare = 0.25", 1000).await;
    let first = fixture.content(&job["output_file_id"]).await;
    assert!((700..800).contains(&first.lines().count()), "{}", first.lines().count());
    let again = fixture.run_again(job["input_file_id"].as_str().unwrap()).await;
    let again = fixture.content(&again["output_file_id"]).await;
    assert_eq!(sorted(&again), sorted(&first));
}

#[tokio::test]
async fn duplicates_say_the_same_or_something_else_and_are_billed_once() {
    let (fixture, job) = ran("do = 'duplicate_rows'\nrows = 1", 2).await;
    let output = fixture.content(&job["output_file_id"]).await;
    let rows = sorted(&output);
    assert_eq!(rows.len(), 3);
    let repeated: Vec<_> = rows.iter().filter(|row| row.contains("\"request-0\"")).collect();
    assert_eq!(repeated[0], repeated[1]);
    assert_eq!(bills(&fixture, &job), 2);

    let (fixture, job) = ran("do = 'duplicate_rows'\ndifferent = true", 1).await;
    let output = fixture.content(&job["output_file_id"]).await;
    let rows: Vec<Value> = output.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["custom_id"], rows[1]["custom_id"]);
    assert_ne!(rows[0], rows[1]);
    assert_eq!(bills(&fixture, &job), 1);
}

#[tokio::test]
async fn rows_name_requests_that_nobody_sent() {
    let line = requests(1);
    for (id, expected) in [
        ("unknown", format!("nobody-sent-{}", request_digest(line.trim_end().as_bytes()))),
        ("case", "REQUEST-0".to_owned()),
        ("space", "request-0 ".to_owned()),
    ] {
        let (fixture, job) = ran(&format!("do = 'unknown_ids'\nid = '{id}'"), 1).await;
        let row: Value = serde_json::from_str(&fixture.content(&job["output_file_id"]).await).unwrap();
        assert_eq!(row["custom_id"], expected);
        assert!(row["response"].is_object());
        assert_eq!(fixture.billing(job["id"].as_str().unwrap())[0]["custom_id"], "request-0");
    }
    for (kind, id, expected) in [
        ("number", "7", json!(7)),
        ("number", "07", json!("07")),
        ("decomposed", "é", json!("e\u{301}")),
        ("escapes", "A%C3%A9%", json!("A%c3%a9%")),
    ] {
        let fixture = faulty(&format!("[[fault]]\ndo = 'unknown_ids'\nid = '{kind}'")).await;
        let job = fixture.run(requests(1).replace("request-0", id)).await;
        let row: Value = serde_json::from_str(&fixture.content(&job["output_file_id"]).await).unwrap();
        assert_eq!(row["custom_id"], expected);
    }
}

#[tokio::test]
async fn a_request_may_be_in_both_files() {
    let (fixture, job) = ran("do = 'both_files'\nrows = 1\nmessage = 'too late'", 2).await;
    let output = fixture.content(&job["output_file_id"]).await;
    assert_eq!(sorted(&output), echoes(2));
    let error: Value = serde_json::from_str(&fixture.content(&job["error_file_id"]).await).unwrap();
    assert_eq!((&error["custom_id"], &error["error"]["message"]), (&json!("request-0"), &json!("too late")));
    assert_eq!(bills(&fixture, &job), 2);
}

#[tokio::test]
async fn failed_requests_succeed_in_the_second_batch_also_after_a_restart() {
    let script = "[[fault]]\ndo = 'error_rows'\nshare = 0.88\nonce = true\ncode = 'overloaded'\nmessage = 'try again'";
    let fixture = faulty(script).await;
    let first = fixture.run(requests(200)).await;
    let errors = fixture.content(&first["error_file_id"]).await;
    let failed = errors.lines().count();
    assert!((160..190).contains(&failed), "{failed}");
    let row: Value = serde_json::from_str(errors.lines().next().unwrap()).unwrap();
    assert_eq!(row["error"], json!({"code": "overloaded", "message": "try again"}));
    assert_eq!(bills(&fixture, &first), 200 - failed);
    let fixture = fixture.restart(|_, _| {}).await;
    let second = fixture.run_again(first["input_file_id"].as_str().unwrap()).await;
    assert!(second.get("error_file_id").is_none(), "{second}");
    assert_eq!(bills(&fixture, &second), 200);
    assert_eq!(fixture.acted_on_batches(), [format!("error_rows {failed}")]);
}

#[tokio::test]
async fn a_batch_executed_again_fails_the_same_requests() {
    let fixture = faulty("[[fault]]\ndo = 'error_rows'\nshare = 0.5\nonce = true").await;
    let job = fixture.run(requests(50)).await;
    let batch = job["id"].as_str().unwrap().to_owned();
    let errors = fixture.content(&job["error_file_id"]).await;
    let fixture = fixture.restart(|directory, _| restart::forget_end(directory, &batch)).await;
    let again = fixture.until_ended(&batch).await;
    assert_eq!(fixture.content(&again["error_file_id"]).await, errors);
}

#[tokio::test]
async fn rows_are_ugly_in_every_way() {
    for (fault, expected) in [
        ("do = 'nul'", &b"\"fault\":\"\0\","[..]),
        ("do = 'bad_utf8'", b"\"fault\":\"\xff\xc3\","),
        ("do = 'lone_surrogate'", br#""fault":"\ud83d","#),
        ("do = 'bigints'", b"123456789012345678901234567890"),
        ("do = 'deep'\ndepth = 5000", &[b"[".repeat(5000), b"]".repeat(5000)].concat()),
        ("do = 'duplicate_keys'", br#"{"custom_id":"request-0","#),
    ] {
        let (fixture, job) = ran(fault, 1).await;
        let output = bytes(&fixture, &job["output_file_id"]).await;
        assert!(memchr::memmem::find(&output, expected).is_some(), "{fault}: {}", String::from_utf8_lossy(&output));
        // But for what was put into it, it is the row.
        let echo = &echoes(1)[0];
        assert!(output.ends_with(format!("{}\n", &echo[1..]).as_bytes()), "{fault}");
        assert_eq!(fixture.acted_on_batches().len(), 1);
    }
}

#[tokio::test]
async fn a_huge_line_is_as_long_as_asked_for() {
    for last in [false, true] {
        let (fixture, job) = ran(&format!("do = 'huge_line'\nbytes = 5_000_000\nrows = 2\nlast = {last}"), 2).await;
        let output = fixture.content(&job["output_file_id"]).await;
        let longest = output.lines().max_by_key(|line| line.len()).unwrap();
        let row: Value = serde_json::from_str(longest).unwrap();
        assert_eq!((row["fault"].as_str().unwrap().len(), &row["custom_id"]), (5_000_000, &json!("request-1")));
        assert_eq!((longest.starts_with("{\"fault\""), longest.ends_with("xx\"}")), (!last, last));
        assert_eq!(output.lines().count(), 2);
    }
}

#[tokio::test]
async fn rows_are_joined_two_on_a_line() {
    let (fixture, job) = ran("do = 'joined'", 5).await;
    let output = fixture.content(&job["output_file_id"]).await;
    assert_eq!(output.lines().map(|line| line.matches("\"custom_id\"").count()).collect::<Vec<_>>(), [2, 2, 1]);
    let rows = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
    assert_eq!(rows.map(Result::unwrap).count(), 5);
}

#[tokio::test]
async fn files_are_written_in_odd_forms() {
    let expected = echoes(3);
    for (fault, begin, between, end) in [
        ("no_final_newline", "", "\n", ""),
        ("crlf", "", "\r\n", "\r\n"),
        ("bom", "\u{feff}", "\n", "\n"),
        ("blank_lines", "", "\n\n \t \n", "\n\n \t \n"),
    ] {
        let (fixture, job) = ran(&format!("do = '{fault}'"), 3).await;
        let output = fixture.content(&job["output_file_id"]).await;
        let inner = output.strip_prefix(begin).unwrap().strip_suffix(end).unwrap();
        let mut rows: Vec<_> = inner.split(between).collect();
        rows.sort_unstable();
        assert_eq!(rows, expected, "{fault}");
    }
}

#[tokio::test]
async fn faults_in_rows_pick_batches_by_their_number() {
    let fixture = faulty("[[fault]]\ndo = 'drop_rows'\nevery = 2\n[[fault]]\ndo = 'crlf'\nbatch = 3").await;
    let file = fixture.upload(requests(1)).await;
    let mut rows = Vec::new();
    for _ in 0..4 {
        let job = fixture.run_again(&file).await;
        rows.push(fixture.content(&job["output_file_id"]).await.len());
    }
    let row = echoes(1)[0].len();
    assert_eq!(rows, [row + 1, 0, row + 2, 0]);
    assert_eq!(fixture.acted_on_batches(), ["drop_rows 1", "crlf null", "drop_rows 1"]);
}
