//! Faults in how calls are answered.

use super::*;

#[tokio::test]
async fn a_batch_is_made_although_its_answer_is_dropped() {
    for how in ["close", "reset"] {
        let fixture = faulty(&format!("[[fault]]\ndo = 'accept_then_drop'\nnth = 1\nhow = '{how}'")).await;
        let file = fixture.upload(requests(1)).await;
        let error = fixture.creation(&file).send().await.unwrap_err();
        assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
        assert_eq!(format!("{error:?}").contains("ConnectionReset"), how == "reset", "{error:?}");
        assert_eq!(fixture.listed().await.len(), 1);
        fixture.create(&file).await;
        assert_eq!(fixture.acted(), ["create_batch 1 null accept_then_drop"]);
    }
}

#[tokio::test]
async fn nothing_is_made_when_the_connection_drops_before() {
    let fixture = faulty("[[fault]]\ndo = 'drop_before'\ncall = ['create', 'file']\nto = 2").await;
    let file = fixture.upload(requests(1)).await;
    for _ in 0..2 {
        fixture.creation(&file).send().await.unwrap_err();
    }
    assert_eq!(fixture.listed().await.len(), 0);
    fixture.create(&file).await;
    assert_eq!(fixture.get(&format!("/files/{file}")).await.0, 200);
    assert_eq!(fixture.acted(), ["create_batch 1 null drop_before", "create_batch 2 null drop_before"]);
}

#[tokio::test]
async fn an_accepted_batch_may_be_answered_with_anything() {
    let fixture = faulty(
        "[[fault]]\ndo = 'accept_then_status'\nnth = 1\n\
         [[fault]]\ndo = 'accept_then_status'\nnth = 2\nstatus = 409\n\
         [[fault]]\ndo = 'accept_then_status'\nnth = 3\nstatus = 201\nbody = '{\"job\":'",
    )
    .await;
    let file = fixture.upload(requests(1)).await;
    let (status, body) = read(fixture.creation(&file).send().await.unwrap()).await;
    assert_eq!((status, &body["error"]), (502, &json!("Bad Gateway (a scripted fault)")));
    assert_eq!(fixture.creation(&file).send().await.unwrap().status(), 409);
    let garbage = fixture.creation(&file).send().await.unwrap();
    assert_eq!((garbage.status().as_u16(), garbage.text().await.unwrap()), (201, "{\"job\":".to_owned()));
    assert_eq!(fixture.listed().await.len(), 3);
    assert_eq!(fixture.acted().len(), 3);
}

#[tokio::test]
async fn a_slow_answer_comes_too_late_for_a_client_with_a_timeout() {
    let fixture = faulty("[[fault]]\ndo = 'accept_slow'\ndelay = '1500ms'").await;
    let file = fixture.upload(requests(1)).await;
    let error = fixture.creation(&file).timeout(Duration::from_millis(500)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(fixture.listed().await.len(), 1);
    let start = Instant::now();
    fixture.create(&file).await;
    assert!(start.elapsed() >= Duration::from_millis(1500));
    assert_eq!(fixture.acted(), ["create_batch 1 null accept_slow", "create_batch 2 201 accept_slow"]);
}

#[tokio::test]
async fn a_late_batch_appears_after_its_error() {
    let fixture = faulty("[[fault]]\ndo = 'late_commit'\ndelay = '1s'\nnth = 1").await;
    let file = fixture.upload(requests(1)).await;
    let start = Instant::now();
    assert_eq!(fixture.creation(&file).send().await.unwrap().status(), 504);
    assert_eq!(fixture.listed().await.len(), 0);
    while fixture.listed().await.is_empty() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(1));
    let batch = fixture.listed().await.remove(0);
    assert_eq!(fixture.until_ended(&batch).await["status"], "COMPLETED");
    assert_eq!(fixture.acted(), ["create_batch 1 504 late_commit"]);
}

#[tokio::test]
async fn errors_come_with_any_retry_after_and_any_body() {
    let fixture = faulty(
        "[[fault]]\ndo = 'status'\ncall = 'list'\nnth = 1\nstatus = 429\nretry_after = 7\n\
         [[fault]]\ndo = 'status'\ncall = 'list'\nnth = 1\nstatus = 429\nretry_after = 'soon'\n\
         [[fault]]\ndo = 'status'\ncall = 'list'\nnth = 1\nstatus = 503\nretry_after_in = '1h'\n\
         [[fault]]\ndo = 'status'\ncall = 'list'\nstatus = 500\nbody = '<html>'\nheaders = { x-a = 'b' }\n\
         [[fault]]\ndo = 'status'\ncall = 'files'\nstatus = 500\nbody = 'oh'\ncontent_type = 'a/b'",
    )
    .await;
    let get = |path: &'static str| async { fixture.call(Method::GET, path).send().await.unwrap() };
    // Each rule counts for itself, but the first that picks a call answers it.
    let first = get("/batches").await;
    assert_eq!((first.status().as_u16(), header(&first, "retry-after")), (429, "7".to_owned()));
    let last = get("/batches").await;
    assert_eq!((last.status().as_u16(), header(&last, "x-a")), (500, "b".to_owned()));
    assert!(last.headers().get("retry-after").is_none());
    assert_eq!((header(&last, "content-type"), last.text().await.unwrap()), ("text/html".into(), "<html>".into()));
    let files = get("/files").await;
    assert_eq!((header(&files, "content-type"), files.text().await.unwrap()), ("a/b".into(), "oh".into()));

    let script = "[[fault]]\ndo = 'status'\ncall = 'any'\nstatus = 429\n";
    let garbage = faulty(&format!("{script}retry_after = 'soon'")).await;
    let garbage = garbage.call(Method::GET, "/files").send().await.unwrap();
    assert_eq!(header(&garbage, "retry-after"), "soon");
    let date = faulty(&format!("{script}retry_after_in = '1h'")).await;
    let (status, body) = date.get("/files").await;
    assert_eq!((status, &body["error"]["message"]), (429, &json!("Too Many Requests (a scripted fault)")));
    let date = date.call(Method::GET, "/files").send().await.unwrap();
    let date = httpdate::parse_http_date(&header(&date, "retry-after")).unwrap();
    let wait = date.duration_since(std::time::SystemTime::now()).unwrap();
    assert!((3_500..=3_600).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn redirects_lead_anywhere() {
    let fixture = faulty(
        "[[fault]]\ndo = 'redirect'\ncall = 'files'\nlocation = 'same'\n\
         [[fault]]\ndo = 'redirect'\ncall = 'list'\nlocation = 'loop'\nstatus = 307\n\
         [[fault]]\ndo = 'redirect'\ncall = 'file'\nlocation = 'file'\n\
         [[fault]]\ndo = 'redirect'\ncall = 'content'\nlocation = 'http://other.example{path}'",
    )
    .await;
    let base = fixture.server.base_url();
    for (path, status, location) in [
        ("/files?a=1", 302, format!("{base}/files?a=1")),
        ("/batches", 307, format!("{base}/batches?hop=1")),
        ("/batches?hop=1", 307, format!("{base}/batches?hop=1&hop=2")),
        ("/files/f", 302, "file:///etc/passwd".to_owned()),
        ("/files/f/content", 302, "http://other.example/files/f/content".to_owned()),
    ] {
        let sent = fixture.call(Method::GET, path).send().await.unwrap();
        assert_eq!((sent.status().as_u16(), header(&sent, "location")), (status, location));
    }
    assert_eq!(fixture.acted().len(), 5);
}

#[tokio::test]
async fn an_announced_upload_is_sent_elsewhere_but_stays_announced() {
    let fixture =
        faulty("[[fault]]\ndo = 'redirect'\ncall = 'upload'\nlocation = 'http://169.254.169.254/'\nnth = 1").await;
    let announced = fixture.announce(b"x").await;
    assert_eq!((announced.status().as_u16(), header(&announced, "location")), (302, "http://169.254.169.254/".into()));
    let id = header(&announced, "x-together-file-id");
    assert_eq!(fixture.get(&format!("/files/{id}")).await.0, 200);
    fixture.upload("x").await;
    assert_eq!(fixture.acted(), ["create_file 1 302 redirect"]);
}

#[tokio::test]
async fn each_file_is_invisible_for_a_while() {
    let fixture = faulty("[[fault]]\ndo = 'visibility_lag'\ncalls = 2\nstatus = 400").await;
    for content in ["a", "b"] {
        let file = fixture.upload(content).await;
        let (status, body) = read(fixture.creation(&file).send().await.unwrap()).await;
        assert_eq!((status, &body["error"]), (400, &json!(format!("Cannot find file {file}"))));
        let (status, body) = fixture.get(&format!("/files/{file}")).await;
        assert_eq!((status, &body["error"]["message"]), (400, &json!(format!("Cannot find file {file}"))));
        assert_eq!(fixture.get(&format!("/files/{file}")).await.0, 200);
        fixture.create(&file).await;
    }
    assert_eq!(fixture.acted().len(), 4);
}

#[tokio::test]
async fn faults_pick_the_calls_about_certain_batches_and_files() {
    let fixture = faulty(
        "[[fault]]\ndo = 'status'\ncall = 'retrieve'\nbatch = 2\nstatus = 418\n\
         [[fault]]\ndo = 'status'\ncall = 'content'\nfile = 'error'\nbatch = 1\nstatus = 419",
    )
    .await;
    let content = format!("{}{}", requests(1), request(1, "nonexistent/x"));
    let file = fixture.upload(content).await;
    let (one, other) = (fixture.create(&file).await, fixture.create(&file).await);
    let job = fixture.until_ended(&one).await;
    for _ in 0..2 {
        assert_eq!(fixture.get(&format!("/batches/{other}")).await.0, 418);
    }
    fixture.content(&job["output_file_id"]).await;
    let errors = format!("/files/{}/content", job["error_file_id"].as_str().unwrap());
    assert_eq!(fixture.call(Method::GET, &errors).send().await.unwrap().status(), 419);
    // Which batch is the second is known to the next server, too.
    let fixture = fixture.restart(|_, _| {}).await;
    assert_eq!(fixture.get(&format!("/batches/{other}")).await.0, 418);
    assert_eq!(fixture.get(&format!("/batches/{one}")).await.0, 200);
    assert_eq!(fixture.create(&file).await.len(), one.len());
    let third = fixture.listed().await.into_iter().find(|id| *id != one && *id != other).unwrap();
    fixture.until_ended(&third).await;
}

#[tokio::test]
async fn a_create_is_turned_away_while_the_queue_is_full() {
    let fixture = faulty("[[fault]]\ndo = 'never'\n[[fault]]\ndo = 'turn_away'\nbatches = 2\nstatus = 400").await;
    let file = fixture.upload(requests(1)).await;
    let batches = [fixture.create(&file).await, fixture.create(&file).await];
    let (status, body) = read(fixture.creation(&file).send().await.unwrap()).await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().starts_with("Enqueued token limit reached"), "{body}");
    assert_eq!(fixture.listed().await.len(), 2);
    fixture.post(&format!("/batches/{}/cancel", batches[0]), &Value::Null).await;
    fixture.until_ended(&batches[0]).await;
    fixture.create(&file).await;
    assert_eq!(fixture.acted(), ["create_batch 3 400 turn_away"]);
}
