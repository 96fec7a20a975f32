"""An S3 in memory: moto's. The buckets that S3_BUCKETS names are there before it listens, so that one who reaches it finds them."""

import os

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import main

if __name__ == "__main__":
    for bucket in os.environ.get("S3_BUCKETS", "").split():
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
    main(["--host", "0.0.0.0", "--port", "4566"])
