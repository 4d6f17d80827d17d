"""Together's batch tutorial, start to finish, with the official SDK against a local server.

usage: tutorial.py http://HOST:PORT

Runs unchanged with versions 1.x, 2.x and 3.x of the `together` package. Exit code 0: every step gave what it should.
"""

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version

os.environ["TOGETHER_NO_BANNER"] = "1"

import together

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
ENDPOINT = "/v1/chat/completions"
TERMINAL = ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED")
VERSION = version("together")  # 1.x has no together.__version__
MAJOR = int(VERSION.split(".")[0])
SECONDS = 30


def request(custom_id, **body):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Hello from {custom_id}!"}], **body}
    return json.dumps({"custom_id": custom_id, "body": body})


def upload(client, path):
    return client.files.upload(file=path, purpose="batch-api", check=False)


def create(client, file_id):
    if MAJOR == 1:
        return client.batches.create_batch(file_id, ENDPOINT)
    return client.batches.create(input_file_id=file_id, endpoint=ENDPOINT).job


def retrieve(client, batch_id):
    return client.batches.get_batch(batch_id) if MAJOR == 1 else client.batches.retrieve(batch_id)


def list_batches(client):
    return client.batches.list_batches() if MAJOR == 1 else client.batches.list()


def cancel(client, batch_id):
    return client.batches.cancel_batch(batch_id) if MAJOR == 1 else client.batches.cancel(batch_id)


def status(batch):
    return getattr(batch.status, "value", batch.status)


def wait(client, batch_id, wanted):
    deadline = time.monotonic() + SECONDS
    while True:
        batch = retrieve(client, batch_id)
        if wanted(batch):
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)


def rows(client, file_id, directory):
    path = os.path.join(directory, "downloaded.jsonl")
    if MAJOR == 1:
        client.files.retrieve_content(file_id, output=path)
    else:
        with client.files.with_streaming_response.content(id=file_id) as response:
            with open(path, "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
    with open(path) as file:
        parsed = [json.loads(line) for line in file]
    os.remove(path)
    return {row["custom_id"]: row for row in parsed}


def tutorial(client, directory):
    path = os.path.join(directory, "batch_input.jsonl")
    with open(path, "w") as file:
        file.write(request("request-1") + "\n" + request("request-2") + "\n" + request("bad", stop=list("abcde")) + "\n")

    assert not list_batches(client), "a new account has no batches"
    uploaded = upload(client, path)
    assert uploaded.bytes == os.path.getsize(path), uploaded
    assert uploaded.filename == "batch_input.jsonl", uploaded
    if MAJOR > 1:
        assert upload(client, path).id == uploaded.id, "the same content is the same file"

    batch = create(client, uploaded.id)
    assert status(batch) == "VALIDATING", batch
    seen = set()

    def ended(batch):
        seen.add(status(batch))
        return status(batch) in TERMINAL

    batch = wait(client, batch.id, ended)
    assert status(batch) == "COMPLETED" and batch.progress == 100, batch
    assert "IN_PROGRESS" in seen, seen
    assert batch.model_id == MODEL and batch.input_file_id == uploaded.id, batch
    assert [listed.id for listed in list_batches(client)] == [batch.id]

    outputs = rows(client, batch.output_file_id, directory)
    assert set(outputs) == {"request-1", "request-2"}, outputs
    for custom_id, row in outputs.items():
        body = row["response"]["body"]
        assert row["response"]["status_code"] == 200, row
        assert "echo" in body["choices"][0]["message"]["content"], row
        assert f"Hello from {custom_id}!" in body["choices"][0]["message"]["content"], row
        assert body["usage"]["total_tokens"] > 0, row
    errors = rows(client, batch.error_file_id, directory)
    assert errors["bad"]["error"]["message"] == "Maximum four stop sequences allowed", errors
    return uploaded


def cancelling(client, directory):
    path = os.path.join(directory, "cancelled.jsonl")
    with open(path, "w") as file:
        file.writelines(request(f"request-{number}") + "\n" for number in range(500))
    batch = create(client, upload(client, path).id)
    wait(client, batch.id, lambda batch: (batch.progress or 0) > 1)
    assert status(cancel(client, batch.id)) == "CANCELING"
    batch = wait(client, batch.id, lambda batch: status(batch) in TERMINAL)
    assert status(batch) == "CANCELLED", batch
    assert 0 < len(rows(client, batch.output_file_id, directory)) < 500
    try:
        cancel(client, batch.id)
    except Exception as error:
        assert MAJOR == 1 or error.status_code == 409, error
    else:
        raise AssertionError("a cancelled batch was cancelled again")


def deleting(client, file_id):
    names = sorted(file.filename for file in client.files.list().data)
    assert names == ["batch_input.jsonl", "cancelled.jsonl", "errors.jsonl", "output.jsonl", "output.jsonl"], names
    assert client.files.delete(file_id).deleted
    assert file_id not in [file.id for file in client.files.list().data]
    try:
        client.files.retrieve(file_id)
    except Exception as error:
        assert MAJOR == 1 or error.status_code == 404, error
    else:
        raise AssertionError("a deleted file was retrieved")


def main():
    root = sys.argv[1].rstrip("/")
    client = together.Together(api_key="any", base_url=root if MAJOR >= 3 else root + "/v1")
    with tempfile.TemporaryDirectory() as directory:
        uploaded = tutorial(client, directory)
        cancelling(client, directory)
        deleting(client, uploaded.id)
    print(f"together {VERSION}: the tutorial works")


if __name__ == "__main__":
    main()
