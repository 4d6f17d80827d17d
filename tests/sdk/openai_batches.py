"""OpenAI's batches, start to finish, with the official SDK against a local server.

usage: openai_batches.py http://HOST:PORT/v1

Exit code 0: every step gave what it should.
"""

import json
import os
import sys
import tempfile
import time

import openai

MODEL = "gpt-4o-mini"
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
SECONDS = 30


def request(custom_id, **body):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Hello from {custom_id}!"}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body})


def upload(client, path):
    with open(path, "rb") as file:
        return client.files.create(file=file, purpose="batch")


def create(client, file_id, **more):
    return client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", **more)


def wait(client, batch_id, wanted):
    deadline = time.monotonic() + SECONDS
    while True:
        batch = client.batches.retrieve(batch_id)
        if wanted(batch):
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)


def rows(client, file_id):
    parsed = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    return {row["custom_id"]: row for row in parsed}


def whole_batch(client, directory):
    path = os.path.join(directory, "batch_input.jsonl")
    with open(path, "w") as file:
        file.write(request("request-1") + "\n" + request("request-2") + "\n" + request("bad", stop=list("abcde")) + "\n")
    assert not client.batches.list().data, "a new account has no batches"
    uploaded = upload(client, path)
    assert (uploaded.bytes, uploaded.filename) == (os.path.getsize(path), "batch_input.jsonl"), uploaded
    assert uploaded.purpose == "batch" and uploaded.object == "file", uploaded

    batch = create(client, uploaded.id, metadata={"for": "a test"})
    assert batch.status == "validating" and batch.metadata == {"for": "a test"}, batch
    seen = set()

    def ended(batch):
        seen.add(batch.status)
        return batch.status in ENDED

    batch = wait(client, batch.id, ended)
    assert batch.status == "completed" and "in_progress" in seen, (batch, seen)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1), batch
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at <= batch.expires_at, batch

    outputs = rows(client, batch.output_file_id)
    assert set(outputs) == {"request-1", "request-2"}, outputs
    for custom_id, row in outputs.items():
        assert row["response"]["status_code"] == 200 and row["error"] is None, row
        assert f"Hello from {custom_id}!" in row["response"]["body"]["choices"][0]["message"]["content"], row
    bad = rows(client, batch.error_file_id)["bad"]
    assert bad["response"]["status_code"] == 400, bad
    assert bad["response"]["body"]["error"]["message"] == "Maximum four stop sequences allowed", bad
    return uploaded


def pages(client, file_id):
    made = [create(client, file_id).id for _ in range(7)]
    listed = [batch.id for batch in client.batches.list(limit=3)]
    assert listed[:7] == made[::-1] and len(listed) == len(set(listed)) == 8, listed
    files = [file.id for file in client.files.list(limit=1, purpose="batch")]
    assert files == [file_id], files
    for batch_id in made:
        wait(client, batch_id, lambda batch: batch.status in ENDED)


def cancelling(client, directory):
    path = os.path.join(directory, "cancelled.jsonl")
    with open(path, "w") as file:
        file.writelines(request(f"request-{number}") + "\n" for number in range(500))
    batch = create(client, upload(client, path).id)
    wait(client, batch.id, lambda batch: batch.request_counts.completed > 5)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(client, batch.id, lambda batch: batch.status in ENDED)
    assert batch.status == "cancelled", batch
    done, undone = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
    assert 0 < len(done) < 500 and len(done) + len(undone) == 500, (len(done), len(undone))
    assert {row["error"]["code"] for row in undone.values()} == {"batch_cancelled"}, undone


def refusals(client, directory):
    path = os.path.join(directory, "bad.jsonl")
    with open(path, "w") as file:
        file.write(request("a") + "\n" + request("a") + "\n")
    batch = create(client, upload(client, path).id)
    batch = wait(client, batch.id, lambda batch: batch.status in ENDED)
    error = batch.errors.data[0]
    assert (batch.status, error.code, error.line) == ("failed", "duplicate_custom_id", 2), batch
    for call in (lambda: client.batches.retrieve("batch_nobody"), lambda: client.files.retrieve("file-nobody")):
        try:
            call()
        except openai.NotFoundError as error:
            assert error.body["message"], error
        else:
            raise AssertionError("what is not there was found")
    try:
        create(client, "file-nobody")
    except openai.BadRequestError:
        pass
    else:
        raise AssertionError("a batch of no file was created")


def deleting(client, file_id):
    assert client.files.delete(file_id).deleted
    assert file_id not in [file.id for file in client.files.list()]


def main():
    client = openai.OpenAI(api_key="any", base_url=sys.argv[1], max_retries=0)
    with tempfile.TemporaryDirectory() as directory:
        uploaded = whole_batch(client, directory)
        pages(client, uploaded.id)
        cancelling(client, directory)
        refusals(client, directory)
        deleting(client, uploaded.id)
    print(f"openai {openai.__version__}: batches work")


if __name__ == "__main__":
    main()
