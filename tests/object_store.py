"""An object store for tests: moto's server, which speaks S3 and honours conditional writes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import boto3
from botocore.exceptions import EndpointConnectionError

from tests.kafka_broker import free_port
from tests.running import wait_until

BUCKET = "models"


@contextmanager
def object_store() -> Iterator[str]:
    """Start a server with an empty bucket and yield the bucket's URL; the AWS_ variables lead to it meanwhile."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    access = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with mock.patch.dict(os.environ, access):
            wait_until(_make_bucket)
            yield f"s3://{BUCKET}"
    finally:
        server.kill()
        server.wait()


def _make_bucket() -> bool:
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
    except EndpointConnectionError:
        return False
    return True
