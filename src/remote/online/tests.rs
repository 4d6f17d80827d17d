//! Batches that are answered request by request, as a run sees them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{OnlineApi, Upstream, UpstreamOptions};
use crate::dialect::address::Address;
use crate::model::batch::{Batch, BatchStatus, CreateBatch};
use crate::remote::error::ErrorKind;
use crate::remote::http::testing::{Act, Memory, Server, answer};
use crate::remote::service::{Again, Api, Progress, Submission};
use crate::storage::durable;

/// So many requests.
fn requests(count: usize) -> Arc<Memory> {
    let line = |number| format!("{{\"custom_id\":\"r-{number}\",\"body\":{{\"model\":\"m\"}}}}\n");
    Arc::new(Memory::with((0..count).map(line).collect::<Vec<_>>().concat().into_bytes()))
}

/// The batches in `directory`, answered by what is at `url`.
async fn open(directory: &Path, url: &str) -> OnlineApi {
    let give_up_after = Some(Duration::from_secs(60));
    let options = UpstreamOptions { give_up_after, ..UpstreamOptions::new(Address::parse(url).unwrap(), None) };
    OnlineApi::open(Upstream::new(options).unwrap(), directory.to_owned()).await.unwrap()
}

async fn server(act: Act) -> Server {
    Server::start(move |_, _| act.clone()).await
}

async fn create(api: &OnlineApi, file_id: &str, lines: Arc<Memory>) -> Batch {
    let request = CreateBatch {
        input_file_id: file_id.to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        completion_window: None,
        model: "m".to_owned(),
        tag: None,
    };
    match api.create(&request, lines).await {
        Submission::Accepted(batch) => batch,
        other => panic!("{other:?}"),
    }
}

async fn completed(api: &OnlineApi, id: &str) -> Batch {
    loop {
        let batch = api.batch(id).await.unwrap();
        if batch.status == BatchStatus::Completed {
            return batch;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_file_has_one_batch_and_its_replies_are_on_disk_once() {
    let (directory, server) = (tempfile::tempdir().unwrap(), server(answer(200, "", "{\"a\":1}")).await);
    let api = open(directory.path(), &server.url).await;
    let lines = requests(30);
    let file = api.upload(lines.clone(), Progress::default()).await.unwrap();
    let [first, second] = [create(&api, &file.id, lines.clone()).await, create(&api, &file.id, lines).await];
    assert_eq!((first.id.as_str(), first.input_file_id), (second.id.as_str(), Some(file.id)));
    let batch = completed(&api, &first.id).await;
    let id = batch.output_file_id.unwrap();
    assert_eq!((batch.error_file_id, server.seen().len()), (None, 30));
    let target = directory.path().join("kept");
    let bytes = api.download(&id, &target, Progress::default()).await.unwrap().bytes;
    assert_eq!(
        (std::fs::read_to_string(&target).unwrap().lines().count(), bytes),
        (30, target.metadata().unwrap().len())
    );
    assert_eq!(target.metadata().unwrap().nlink(), 2, "another name of the same file");
    api.download(&id, &target, Progress::default()).await.unwrap();
    api.close().await;

    // What a kill leaves behind.
    let left =
        [format!("{}.journal", first.id), ".x.jsonl.0123abcd.part".to_owned()].map(|name| directory.path().join(name));
    for path in &left {
        durable::open_or_create(path).unwrap();
    }
    let api = open(directory.path(), &server.url).await;
    assert!(left.iter().all(|path| !path.exists()));
    assert_eq!(completed(&api, &first.id).await.output_file_id, Some(id.clone()));
    assert_eq!((api.file_bytes(&id).await.unwrap(), api.sent_again()), (Some(bytes), Again::default()));
    api.delete_file(&id).await.unwrap();
    assert_eq!((server.seen().len(), target.is_file()), (30, true));
    for unknown in ["../kept", "batch-1.output.jsonl", ""] {
        assert!(api.download(unknown, &target, Progress::default()).await.unwrap_err().is_gone(), "{unknown}");
    }
}

#[tokio::test]
async fn a_batch_of_an_earlier_process_goes_on_when_its_lines_are_attached() {
    let (directory, server) = (tempfile::tempdir().unwrap(), server(answer(200, "", "{\"a\":1}")).await);
    // Nobody listens there.
    let api = open(directory.path(), "http://127.0.0.1:1/v1").await;
    let batch = create(&api, "file-1", requests(5)).await;
    api.close().await;
    let api = open(directory.path(), &server.url).await;
    assert_eq!(api.batches().await.unwrap().batches.len(), 1);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((api.batch(&batch.id).await.unwrap().status, server.seen().len()), (BatchStatus::Queued, 0));
    api.attach("file-2", requests(5));
    api.attach("file-1", requests(5));
    completed(&api, &batch.id).await;
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn lines_that_are_not_those_that_were_promised_are_not_sent() {
    let (directory, server) = (tempfile::tempdir().unwrap(), server(answer(200, "", "{}")).await);
    let api = open(directory.path(), &server.url).await;
    let mut changed = Memory::clone(&requests(5));
    changed.fails_at_end = Some(std::io::ErrorKind::InvalidData);
    let changed = Arc::new(changed);
    let error = api.upload(changed.clone(), Progress::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InputChanged);
    create(&api, "file-1", changed).await;
    assert_eq!((api.failed().await.kind(), server.seen().len()), (ErrorKind::InputChanged, 0));
}

#[tokio::test]
async fn a_service_that_is_none_is_given_up_and_nothing_is_recorded() {
    let (directory, server) = (tempfile::tempdir().unwrap(), server(answer(404, "", "<html>")).await);
    let api = open(directory.path(), &server.url).await;
    let batch = create(&api, "file-1", requests(5)).await;
    let error = api.failed().await;
    assert_eq!((error.kind(), error.hint().unwrap().contains("check the base URL")), (ErrorKind::GivenUp, true));
    api.close().await;
    assert_eq!(api.batch(&batch.id).await.unwrap().status, BatchStatus::InProgress);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("HTTP 404"), "{error:?}");
}
