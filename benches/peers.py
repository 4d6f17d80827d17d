"""What people write, or run, instead of batchline: one function a job, called as `peers.py NAME ARGUMENT…`.

Each reads and writes files; what it prints is compared with what the others print. They are written the way their libraries'
own documentation does it, and do no more than the job.
"""

import json
import sys


def unique_python(requests):
    ids = set()
    count = 0
    with open(requests, "rb") as file:
        for line in file:
            request = json.loads(line)
            if not isinstance(request["custom_id"], str) or len(request["custom_id"]) > 64:
                raise SystemExit(f"bad id {request['custom_id']!r}")
            ids.add(request["custom_id"])
            count += 1
    print(count, len(ids))


def unique_duckdb(requests):
    import duckdb

    columns = "columns = {custom_id: 'VARCHAR', body: 'JSON'}, format = 'newline_delimited', maximum_object_size = 20000000"
    query = f"select count(*), count(distinct custom_id), max(length(custom_id)) from read_json('{requests}', {columns})"
    count, ids, longest = duckdb.connect().execute(query).fetchone()
    assert longest <= 64
    print(count, ids)


def unique_polars(requests):
    import polars

    schema = {"custom_id": polars.String}
    frame = polars.scan_ndjson(requests, schema=schema, ignore_errors=True)
    columns = [polars.len(), polars.col("custom_id").n_unique().alias("ids"), polars.col("custom_id").str.len_chars().max().alias("max")]
    count, ids, longest = frame.select(columns).collect(engine="streaming").row(0)
    assert longest <= 64
    print(count, ids)


def reorder_python(requests, replies, output):
    by_id = {}
    with open(replies, "rb") as file:
        for line in file:
            by_id[json.loads(line)["custom_id"]] = line
    with open(requests, "rb") as file, open(output, "wb") as ordered:
        for line in file:
            ordered.write(by_id[json.loads(line)["custom_id"]])


def reorder_duckdb(requests, replies, output, memory=None):
    import duckdb

    raw = "columns = {line: 'VARCHAR'}, delim = '\\x01', quote = '', escape = '', header = false, max_line_size = 20000000"
    connection = duckdb.connect()
    if memory:
        connection.execute(f"set memory_limit = '{memory}'")
    connection.execute(f"""
        copy (
            select o.line
            from (select row_number() over () rn, json_extract_string(line, '$.custom_id') id from read_csv('{requests}', {raw})) i
            join (select json_extract_string(line, '$.custom_id') id, line from read_csv('{replies}', {raw})) o using (id)
            order by rn
        ) to '{output}' (format csv, header false, quote '', escape '', delimiter '\x01')
    """)


def reorder_polars(requests, replies, output):
    import polars

    wanted = polars.scan_ndjson(requests, schema={"custom_id": polars.String}, ignore_errors=True)
    given = polars.scan_ndjson(replies)
    wanted.join(given, on="custom_id", how="left", maintain_order="left").sink_ndjson(output)


def reorder_pandas(requests, replies, output):
    import pandas

    wanted = pandas.read_json(requests, lines=True, dtype=False)
    given = pandas.read_json(replies, lines=True, dtype=False)
    merged = pandas.merge(wanted[["custom_id"]], given, on="custom_id", how="inner")
    merged.to_json(output, orient="records", lines=True)


def tutorial(requests, output):
    """The whole job as Together's tutorial does it: upload, create, poll, fetch; then into input order."""
    import time

    from together import Together

    client = Together()
    file = client.files.upload(file=requests, purpose="batch-api", check=False)
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions").job
    while batch.status not in ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED"):
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    with client.files.with_streaming_response.content(id=batch.output_file_id) as content, open(output + ".raw", "wb") as raw:
        for piece in content.iter_bytes():
            raw.write(piece)
    reorder_python(requests, output + ".raw", output)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
