"""What the tests of remote stores share."""

from __future__ import annotations

import obstore
from obstore.store import S3Store


def bucket_of(server, name):
    """A bucket, looked at by the server's own address and not through labelstore."""
    return S3Store(
        name,
        endpoint=server.address,
        region="us-east-1",
        access_key_id="test",
        secret_access_key="test",
        client_options={"allow_http": True},
    )


def send(folder, bucket, prefix):
    """Put a store's files, as they are, below a prefix of a bucket."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            name = f"{prefix}/{file.relative_to(folder).as_posix()}"
            obstore.put(bucket, name, file.read_bytes())


def objects_of(bucket, prefix):
    """Names and bytes of all objects below a prefix of a bucket."""
    return {
        entry["path"].removeprefix(f"{prefix}/"): obstore.get(bucket, entry["path"])
        .bytes()
        .to_bytes()
        for entry in obstore.list(bucket, prefix).collect()
    }


def count_of(bucket, prefix):
    """How many objects there are."""
    return len(obstore.list(bucket, prefix).collect())
