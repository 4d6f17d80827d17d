//! The server of the library, started in the test and called over loopback.

mod batches;
mod echo;
mod faults;
mod files;
mod openai;
mod restart;
mod strangers;
mod upstream;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use batchline::serve::{ServeOptions, Server};
use reqwest::{Method, RequestBuilder, Response};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, its directory, and a client of it.
struct Fixture {
    directory: TempDir,
    options: ServeOptions,
    server: Server,
    client: reqwest::Client,
    token: &'static str,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with(|options| options.batch_time = Duration::ZERO).await
    }

    async fn start_with(change: impl FnOnce(&mut ServeOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = ServeOptions { directory: directory.path().to_owned(), seed: 7, ..ServeOptions::default() };
        change(&mut options);
        let server = Server::start(options.clone()).await.unwrap();
        // As the clients of `remote` do it, none of which may be there yet.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let no_redirects = reqwest::redirect::Policy::none();
        let client = reqwest::Client::builder().redirect(no_redirects).timeout(PATIENCE).no_proxy().build().unwrap();
        Self { directory, options, server, client, token: "test-token" }
    }

    /// Stops the server, lets `between` look at its directory, and starts another one on it.
    async fn restart(self, between: impl FnOnce(&Path, &mut ServeOptions)) -> Self {
        let Self { directory, mut options, server, client, token } = self;
        server.stop().await.unwrap();
        between(directory.path(), &mut options);
        let server = Server::start(options.clone()).await.unwrap();
        Self { directory, options, server, client, token }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.server.base_url())).bearer_auth(self.token)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.call(Method::GET, path).send().await.unwrap()).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.call(Method::POST, path).json(body).send().await.unwrap()).await
    }

    /// Announces a file as the current SDKs do.
    async fn announce(&self, content: &[u8]) -> Response {
        let form = reqwest::multipart::Form::new()
            .text("purpose", "batch-api")
            .text("file_name", "requests.jsonl")
            .text("file_type", "jsonl")
            .text("checksum", sha256(content));
        self.call(Method::POST, "/files").multipart(form).send().await.unwrap()
    }

    /// Uploads in three steps and gives the file's id.
    async fn upload(&self, content: impl Into<Vec<u8>>) -> String {
        let content = content.into();
        let announced = self.announce(&content).await;
        assert_eq!(announced.status(), 302);
        let id = header(&announced, "x-together-file-id");
        let put = self.client.put(header(&announced, "location")).body(content).send().await.unwrap();
        assert_eq!(put.status(), 200);
        let (status, file) = self.post(&format!("/files/{id}/preprocess"), &Value::Null).await;
        assert_eq!((status, &file["id"]), (200, &json!(id)));
        id
    }

    /// Creates a batch and gives its id.
    async fn create(&self, file: &str) -> String {
        let (status, created) =
            self.post("/batches", &json!({"input_file_id": file, "endpoint": "/v1/chat/completions"})).await;
        assert_eq!(status, 201, "{created}");
        created["job"]["id"].as_str().unwrap().to_owned()
    }

    /// Polls the batch until `wanted`, and gives it as it was then.
    async fn until(&self, batch: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let (status, job) = self.get(&format!("/batches/{batch}")).await;
            assert_eq!(status, 200, "{job}");
            if wanted(&job) {
                return job;
            }
            assert!(start.elapsed() < PATIENCE, "still {job}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_ended(&self, batch: &str) -> Value {
        self.until(batch, |job| ["COMPLETED", "FAILED", "CANCELLED"].contains(&job["status"].as_str().unwrap())).await
    }

    /// Uploads, creates, and gives the batch once it has ended.
    async fn run(&self, content: impl Into<Vec<u8>>) -> Value {
        let file = self.upload(content).await;
        let batch = self.create(&file).await;
        self.until_ended(&batch).await
    }

    /// The content of the file whose id is `id`, or nothing when it is `null`.
    async fn content(&self, id: &Value) -> String {
        let Some(id) = id.as_str() else { return String::new() };
        let response = self.call(Method::GET, &format!("/files/{id}/content")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    }

    /// The billing records of a batch.
    fn billing(&self, batch: &str) -> Vec<Value> {
        records(&self.directory.path().join("billing").join(format!("{batch}.jsonl")))
    }
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|_| String::new());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn header(response: &Response, name: &str) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

/// A SHA-256 in lowercase hex.
fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}, not JSON: {text:?}")))
}

/// `count` good requests, one per line.
fn requests(count: usize) -> String {
    (0..count).map(|number| request(number, "m/x")).collect()
}

fn request(number: usize, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": format!("question {number}")}]});
    format!("{}\n", json!({"custom_id": format!("request-{number}"), "body": body}))
}

/// The lines of `text`, sorted.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}
