//! Scripted faults, against a started server.

mod calls;
mod endings;
mod rows;
mod scripts;
mod shown;
mod transfer;

use batchline::serve::Faults;

use super::*;

/// A server with a script.
async fn faulty(script: &str) -> Fixture {
    Fixture::start_with(|options| {
        options.batch_time = Duration::ZERO;
        options.faults = faults(script);
    })
    .await
}

fn faults(script: &str) -> Faults {
    Faults::parse(Path::new("test.toml"), script).unwrap_or_else(|error| panic!("{error}"))
}

impl Fixture {
    /// The calls on which faults acted, as `endpoint nth status fault`.
    fn acted(&self) -> Vec<String> {
        let calls = records(&self.directory.path().join("access.jsonl"));
        calls
            .iter()
            .filter(|call| call.get("fault").is_some())
            .map(|call| {
                let text = |name: &str| call[name].as_str().unwrap().to_owned();
                format!("{} {} {} {}", text("endpoint"), call["nth"], call["status"], text("fault"))
            })
            .collect()
    }

    /// The faults that acted on batches, as `fault rows`.
    fn acted_on_batches(&self) -> Vec<String> {
        let faults = records(&self.directory.path().join("faults.jsonl"));
        faults.iter().map(|record| format!("{} {}", record["fault"].as_str().unwrap(), record["rows"])).collect()
    }

    /// The ids of the batches in the list.
    async fn listed(&self) -> Vec<String> {
        let (status, list) = self.get("/batches").await;
        assert_eq!(status, 200);
        let ids = list.as_array().into_iter().flatten().map(|batch| batch["id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    /// Creates a batch of an uploaded file, and gives it once it has ended.
    async fn run_again(&self, file: &str) -> Value {
        let batch = self.create(file).await;
        self.until_ended(&batch).await
    }

    fn creation(&self, file: &str) -> RequestBuilder {
        self.call(Method::POST, "/batches").json(&json!({"input_file_id": file, "endpoint": "/v1/chat/completions"}))
    }
}
