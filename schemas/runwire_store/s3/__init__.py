"""The object store in a bucket of S3, through the `minio` client."""
