"""Blobs as objects in a bucket of Amazon S3 or a compatible server.

Credentials, region and endpoint come from the standard variables of AWS:
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`;
without keys, from the machine's role. S3 makes an object visible only when its upload is complete,
multipart uploads included.

A store may be created before a fork but not used before it: the client runs threads.
"""

import hashlib
import hmac
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from workers.contract import errors
from workers.contract.blobs.base import (
    CHUNK,
    BlobEntry,
    BlobStore,
    StoredBlob,
    checked_key,
    is_key,
    translated_disk_errors,
)

try:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store
except ImportError:
    raise errors.ConfigurationInvalid(
        "GDSR_BLOB_URL: s3:// needs the package obstore; run pip install '.[s3]' in the checkout"
    ) from None

#: Connect timeout in seconds.
_CONNECT = timedelta(seconds=2)
#: Retries within the patience; obstore backs off exponentially.
_RETRIES = 3
#: Larger blobs use multipart uploads with this part size and concurrency.
_PART, _PARTS = 8 * 1024 * 1024, 4
#: Statuses and codes that servers use for a full disk or an exceeded quota.
_NO_ROOM = (
    "507 Insufficient Storage",
    "InsufficientStorage",
    "QuotaExceeded",
    "StorageFull",
    "XMinioAdminBucketQuota",
)

_ALGORITHM = "AWS4-HMAC-SHA256"

log = logging.getLogger(__name__)


class S3BlobStore(BlobStore):
    """`BlobStore` for a bucket; each response may take `patience`, a connection two seconds."""

    def __init__(self, bucket: str, *, prefix: str, patience: timedelta) -> None:
        self._bucket, self._prefix = bucket, prefix
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL")
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={
                    "allow_http": (self.endpoint or "").startswith("http://"),
                    "connect_timeout": _CONNECT,
                    "read_timeout": patience,  # between two chunks; a slow client does not count
                    "timeout": timedelta(hours=1),
                },
                retry_config={"max_retries": _RETRIES, "retry_timeout": patience},
            )
        except (BaseError, ValueError) as failure:
            raise errors.ConfigurationInvalid(f"GDSR_BLOB_URL: {_first_line(failure)}") from None

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        with translated_disk_errors():
            file = tempfile.TemporaryFile()  # noqa: SIM115 - unnamed: a killed process leaves none
        try:
            yield file
        finally:
            file.close()

    def keep(self, file: BinaryIO, key: str) -> None:
        with translated_disk_errors():
            file.flush()
        file.seek(0)
        self._put(key, file)

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        data = b"".join(chunks)
        self._put(key, data)
        return StoredBlob(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def _put(self, key: str, data: BinaryIO | bytes) -> None:
        with _translated_errors():
            obstore.put(
                self._store, checked_key(key), data, chunk_size=_PART, max_concurrency=_PARTS
            )

    def read(self, key: str) -> bytes:
        with _translated_errors(key):
            return obstore.get(self._store, checked_key(key)).bytes().to_bytes()

    def stream(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        options: obstore.GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        with _translated_errors(key):
            pieces = obstore.get(self._store, checked_key(key), options=options).stream(CHUNK)
        return _pieces(pieces)

    def exists(self, key: str) -> bool:
        try:
            with _translated_errors(key):
                obstore.head(self._store, checked_key(key))
        except errors.BlobMissing:
            return False
        return True

    def copy(self, source: str, target: str) -> None:
        with _translated_errors(source):
            obstore.copy(self._store, checked_key(source), checked_key(target))

    def delete(self, *keys: str) -> None:
        with _translated_errors():
            obstore.delete(self._store, [checked_key(key) for key in keys])

    def entries(self, folder: str) -> Iterator[BlobEntry]:
        with _translated_errors():
            for page in obstore.list(self._store, f"{folder}/", chunk_size=1000):
                for found in page:
                    if is_key(found["path"]):
                        yield BlobEntry(
                            key=found["path"], size=found["size"], written_at=found["last_modified"]
                        )

    def signed_url(
        self, key: str, *, lifetime: timedelta, media_type: str, disposition: str
    ) -> str | None:
        return signed_get(
            self._bucket,
            f"{self._prefix}/{checked_key(key)}".lstrip("/"),
            endpoint=self.endpoint,
            lifetime=lifetime,
            answer={"content-type": media_type, "content-disposition": disposition},
        )

    def check(self) -> None:
        with _translated_errors():
            next(iter(obstore.list(self._store, "results/", chunk_size=1)), None)


def _pieces(pieces: Iterable[object]) -> Iterator[bytes]:
    with _translated_errors():
        for piece in pieces:
            yield bytes(piece)  # type: ignore[call-overload]


@contextmanager
def _translated_errors(key: str | None = None) -> Iterator[None]:
    """Convert the client's errors to ours; a missing object raises BlobMissing for `key`."""
    try:
        yield
    except (BaseError, FileNotFoundError) as failure:
        message = str(failure)
        if isinstance(failure, FileNotFoundError) and key and "NoSuchBucket" not in message:
            raise errors.BlobMissing(key) from None
        log.warning("the picture store: %s", _first_line(failure))
        if any(f" {word}" in message or f"<Code>{word}" in message for word in _NO_ROOM):
            raise errors.StorageFull from failure
        if isinstance(failure, PermissionDeniedError | UnauthenticatedError):
            raise errors.StorageUnavailable("access was denied") from failure
        if "NoSuchBucket" in message or isinstance(failure, FileNotFoundError):
            raise errors.StorageUnavailable("the bucket does not exist") from failure
        raise errors.StorageUnavailable("it does not respond correctly") from failure


def _first_line(failure: BaseException) -> str:
    return (str(failure).splitlines() or [type(failure).__name__])[0][:300]


def signed_get(
    bucket: str,
    key: str,
    *,
    endpoint: str | None,
    lifetime: timedelta,
    answer: Mapping[str, str],
    now: datetime | None = None,
) -> str:
    """A presigned GET URL with the bucket in its path; `answer`: response headers.

    Signature Version 4 in the query (Amazon S3 API Reference, "Authenticating Requests: Using Query
    Parameters"). We sign ourselves because obstore cannot sign overrides of response headers.

    Raises:
        ConfigurationInvalid: the environment holds no access key.
    """
    try:
        access_key = os.environ["AWS_ACCESS_KEY_ID"]
        secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as missing:
        raise errors.ConfigurationInvalid(f"signed URLs need {missing.args[0]}") from None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    base = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    moment = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(int(lifetime.total_seconds())),
        "X-Amz-SignedHeaders": "host",
        **{f"response-{name}": value for name, value in answer.items()},
    }
    if token := os.environ.get("AWS_SESSION_TOKEN"):
        query["X-Amz-Security-Token"] = token
    query_string = "&".join(
        f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in sorted(query.items())
    )
    path = quote(f"{urlsplit(base).path}/{bucket}/{key}")
    request = f"GET\n{path}\n{query_string}\nhost:{urlsplit(base).netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing = _mac(signing, part)
    signature = _mac(signing, f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}").hex()
    host = f"{urlsplit(base).scheme}://{urlsplit(base).netloc}"
    return f"{host}{path}?{query_string}&X-Amz-Signature={signature}"


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
