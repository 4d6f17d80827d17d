"""AIBrix's Batch API server, with a real upstream, on this machine alone and without Kubernetes, Redis or object storage.

usage: launch.py UPSTREAM_URL PORT CONCURRENCY

Its state goes to the working directory. In its mode for one machine (`--dry-run`) AIBrix would echo each request; the source of its
echoes is replaced by its own gateway client, which calls UPSTREAM_URL + the batch's endpoint. The name that is replaced is an internal
one of AIBrix 0.8.0: another version may need another launcher.
"""

import sys

import aibrix.metadata.app as app
from aibrix.batch.client.sources.static import GatewayEndpointSource


def main():
    upstream, port, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3])
    assert hasattr(app, "NoopEndpointSource"), "this AIBrix makes its echoes elsewhere"
    app.NoopEndpointSource = lambda: GatewayEndpointSource(upstream, capacity=concurrency)
    sys.argv = ["aibrix_metadata", "--host", "127.0.0.1", "--port", port, "--dry-run"]
    app.main()


if __name__ == "__main__":
    main()
