//! Files: in three steps or one, listed, downloaded, deleted.

use super::*;

#[tokio::test]
async fn a_file_goes_up_in_three_steps_and_comes_down_again() {
    let fixture = Fixture::start().await;
    let content = requests(3);
    let id = fixture.upload(content.clone()).await;
    let (status, file) = fixture.get(&format!("/files/{id}")).await;
    assert_eq!(status, 200);
    assert!(file["created_at"].is_u64());
    let mut file = file;
    file["created_at"] = Value::Null;
    let expected = json!({
        "id": id, "object": "file", "created_at": null, "filename": "requests.jsonl", "bytes": content.len(),
        "purpose": "batch-api", "FileType": "jsonl", "Processed": true, "LineCount": 3,
        "processing_status": "COMPLETED",
    });
    assert_eq!(file, expected);
    assert_eq!(fixture.content(&json!(id)).await, content);
    let (_, listed) = fixture.get("/files").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["id"], json!(id));
}

#[tokio::test]
async fn any_number_of_v1_stands_before_a_path() {
    let fixture = Fixture::start().await;
    let root = format!("http://{}", fixture.server.address());
    for path in ["/files", "/v1/files", "/v1/v1/files", "/v3/whoami", "/v1/v3/whoami"] {
        let response = fixture.client.get(format!("{root}{path}")).bearer_auth("t").send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_form_may_be_url_encoded_or_in_the_query() {
    let fixture = Fixture::start().await;
    let fields = "purpose=batch-api&file_name=some%2Fdirectory%2Fa%20b.jsonl&file_type=jsonl";
    let encoded =
        fixture.call(Method::POST, "/files").header("content-type", "application/x-www-form-urlencoded").body(fields);
    let in_query = fixture.call(Method::POST, &format!("/files?{fields}"));
    for call in [encoded, in_query] {
        let announced = call.send().await.unwrap();
        assert_eq!(announced.status(), 302);
        let (_, file) = fixture.get(&format!("/files/{}", header(&announced, "x-together-file-id"))).await;
        assert_eq!(file["filename"], "a b.jsonl");
        assert_eq!((&file["Processed"], &file["bytes"]), (&json!(false), &json!(0)));
        assert_eq!(file["processing_status"], "PENDING");
    }
    for (fields, missing) in [("file_name=a.jsonl", "purpose"), ("purpose=batch-api", "file_name")] {
        let (status, error) = fixture.post(&format!("/files?{fields}"), &Value::Null).await;
        assert_eq!(status, 400);
        assert_eq!(error["error"]["message"], format!("missing form field: {missing}"));
    }
}

#[tokio::test]
async fn the_same_content_is_told_by_its_checksum_within_one_account() {
    let mut fixture = Fixture::start().await;
    let content = requests(2);
    // Announced is not stored: only content that came earns the 409.
    assert_eq!(fixture.announce(content.as_bytes()).await.status(), 302);
    let id = fixture.upload(content.clone()).await;
    let again = read(fixture.announce(content.as_bytes()).await).await;
    assert_eq!(again, (409, json!({"file_id": id})));
    fixture.token = "another account";
    assert_eq!(fixture.announce(content.as_bytes()).await.status(), 302);
    assert_eq!(fixture.get(&format!("/files/{id}")).await.0, 404);
    fixture.token = "test-token";
    fixture.call(Method::DELETE, &format!("/files/{id}")).send().await.unwrap();
    assert_eq!(fixture.announce(content.as_bytes()).await.status(), 302);
}

#[tokio::test]
async fn content_that_is_not_what_was_declared_is_refused() {
    let fixture = Fixture::start().await;
    let announced = fixture.announce(b"declared").await;
    let (id, location) = (header(&announced, "x-together-file-id"), header(&announced, "location"));
    let put = |url: String, body: &'static str| fixture.client.put(url).body(body).send();
    let refused = put(location.clone(), "something else").await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("not the checksum declared"));
    assert_eq!(put(location.replace("signature=", "signature=0"), "declared").await.unwrap().status(), 403);
    assert_eq!(put(location.split('?').next().unwrap().to_owned(), "declared").await.unwrap().status(), 403);
    let (status, error) = fixture.post(&format!("/files/{id}/preprocess"), &Value::Null).await;
    assert_eq!((status, &error["error"]["type"]), (400, &json!("invalid_request_error")));
    assert_eq!(fixture.get(&format!("/files/{id}/content")).await.0, 404);
    // Sent right, and sent again as after a lost answer.
    for _ in 0..2 {
        let taken = put(location.clone(), "declared").await.unwrap();
        assert_eq!(taken.status(), 200);
        assert_eq!(header(&taken, "etag"), format!("\"{}\"", sha256(b"declared")));
    }
    assert_eq!(fixture.content(&json!(id)).await, "declared");
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_no_file() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fixture = Fixture::start().await;
    let announced = fixture.announce(b"0123456789").await;
    let (id, location) = (header(&announced, "x-together-file-id"), header(&announced, "location"));
    let path = location.split_once(&fixture.server.address().to_string()).unwrap().1;
    let mut stream = tokio::net::TcpStream::connect(fixture.server.address()).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(fixture.get(&format!("/files/{id}")).await.1["Processed"], false);
    let left: Vec<_> = fs::read_dir(fixture.directory.path().join("files")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_file_goes_up_in_one_call() {
    let fixture = Fixture::start_with(|options| options.limits.upload_bytes = 3_000_000).await;
    let content = "x".repeat(2_500_000);
    let form = |content: &str| {
        let part = reqwest::multipart::Part::text(content.to_owned()).file_name("ignored.jsonl");
        reqwest::multipart::Form::new().text("purpose", "batch-api").part("file", part).text("file_name", "a.jsonl")
    };
    let send = |form| fixture.call(Method::POST, "/files/upload").multipart(form).send();
    let (status, file) = read(send(form(&content)).await.unwrap()).await;
    assert_eq!((status, &file["filename"], &file["bytes"]), (200, &json!("a.jsonl"), &json!(2_500_000)));
    assert_eq!(fixture.content(&file["id"]).await, content);
    let (status, error) = read(send(form(&"x".repeat(3_000_001))).await.unwrap()).await;
    assert_eq!((status, &error["error"]["message"]), (413, &json!("the body has more than 3000000 bytes")));
    let (status, error) = read(send(reqwest::multipart::Form::new().text("purpose", "p")).await.unwrap()).await;
    assert_eq!((status, &error["error"]["message"]), (400, &json!("missing form field: file_name")));
}

#[tokio::test]
async fn a_download_may_be_of_a_range() {
    let fixture = Fixture::start().await;
    let id = fixture.upload("0123456789").await;
    let get = |range: &'static str, if_range: String| {
        let call = fixture.call(Method::GET, &format!("/files/{id}/content")).header("range", range);
        (if if_range.is_empty() { call } else { call.header("if-range", if_range) }).send()
    };
    let whole = fixture.call(Method::GET, &format!("/files/{id}/content")).send().await.unwrap();
    let etag = header(&whole, "etag");
    assert_eq!((whole.status().as_u16(), header(&whole, "content-length")), (200, "10".to_owned()));

    let part = get("bytes=2-4", etag).await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-range"), "bytes 2-4/10");
    assert_eq!(header(&part, "content-length"), "3");
    assert_eq!(part.text().await.unwrap(), "234");
    assert_eq!(get("bytes=7-", String::new()).await.unwrap().text().await.unwrap(), "789");

    let changed = get("bytes=2-4", "\"other\"".to_owned()).await.unwrap();
    assert_eq!((changed.status().as_u16(), changed.text().await.unwrap()), (200, "0123456789".to_owned()));
    let beyond = get("bytes=10-", String::new()).await.unwrap();
    assert_eq!((beyond.status().as_u16(), header(&beyond, "content-range")), (416, "bytes */10".to_owned()));
}

#[tokio::test]
async fn a_deleted_file_is_gone() {
    let fixture = Fixture::start().await;
    let id = fixture.upload("x").await;
    let delete = || fixture.call(Method::DELETE, &format!("/files/{id}")).send();
    let deleted = read(delete().await.unwrap()).await;
    assert_eq!(deleted, (200, json!({"id": id, "object": "file", "deleted": true})));
    let (status, error) = read(delete().await.unwrap()).await;
    let message = format!("File {id} not found");
    let expected = json!({"error": {"message": message, "type": "not_found", "param": null, "code": null}});
    assert_eq!((status, error), (404, expected));
    assert_eq!(fixture.get(&format!("/files/{id}/content")).await.0, 404);
    assert_eq!(fixture.get("/files").await, (200, json!({"data": []})));
    assert_eq!(fs::read_dir(fixture.directory.path().join("files")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_token_is_needed_everywhere_but_for_the_signed_put() {
    let fixture = Fixture::start_with(|options| options.token = Some("the-secret".into())).await;
    for (path, token) in [("/files", ""), ("/files", "wrong"), ("/batches", ""), ("/v3/whoami", "wrong")] {
        let call = fixture.client.get(format!("{}{path}", fixture.server.base_url()));
        let call = if token.is_empty() { call } else { call.bearer_auth(token) };
        let (status, body) = read(call.send().await.unwrap()).await;
        assert_eq!(status, 401);
        assert_eq!(body["error"].is_string(), path == "/batches", "{body}");
    }
    let call = fixture.client.get(format!("{}/files", fixture.server.base_url())).bearer_auth("the-secret");
    assert_eq!(call.send().await.unwrap().status(), 200);
    assert!(!format!("{:?}", fixture.options).contains("the-secret"));
}

#[tokio::test]
async fn unknown_routes_and_methods_are_refused_in_json() {
    let fixture = Fixture::start().await;
    let (status, body) = fixture.get("/no/such?q=1").await;
    assert_eq!((status, &body["error"]["message"]), (404, &json!("no such route: GET /no/such")));
    let (status, body) = read(fixture.call(Method::PATCH, "/batches").send().await.unwrap()).await;
    assert_eq!((status, &body["error"]["message"]), (405, &json!("method not allowed: PATCH /batches")));
}

#[tokio::test]
async fn each_call_leaves_one_line_in_the_access_log_and_no_secret() {
    let fixture = Fixture::start().await;
    fixture.upload("x").await;
    fixture.get("/batches/none").await;
    fixture.get("/batches/none").await;
    let path = fixture.directory.path().join("access.jsonl");
    let calls: Vec<_> = records(&path)
        .iter()
        .map(|call| format!("{} {} {} {}", call["endpoint"], call["nth"], call["method"], call["status"]))
        .collect();
    let expected = [
        r#""create_file" 1 "POST" 302"#,
        r#""put_content" 1 "PUT" 200"#,
        r#""preprocess" 1 "POST" 200"#,
        r#""get_batch" 1 "GET" 404"#,
        r#""get_batch" 2 "GET" 404"#,
    ];
    assert_eq!(calls, expected);
    let log = fs::read_to_string(path).unwrap();
    assert!(!log.contains("test-token") && !log.contains("signature"), "{log}");
}
