"""Blobs are stored whole or not at all, in a folder and in a bucket."""

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import obstore
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from buckets import S3Server, refusing_server
from full_disk import files_no_larger_than
from obstore.store import S3Store

from workers.contract.blobs.base import BlobStore
from workers.contract.blobs.file import FileBlobStore
from workers.contract.blobs.open import open_blobs
from workers.contract.blobs.s3 import S3BlobStore, signed_get
from workers.contract.errors import (
    BlobMissing,
    ConfigurationInvalid,
    StorageFull,
    StorageUnavailable,
)
from workers.contract.settings import SharedSettings

PATIENCE, IMPATIENCE = timedelta(seconds=60), timedelta(seconds=2)
#: More than one part of a multipart upload.
LARGE = bytes(range(256)) * 50_000


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.close()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3BlobStore:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return S3BlobStore(s3_server.bucket(), prefix="some/where", patience=PATIENCE)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest) -> BlobStore:
    found: BlobStore = request.getfixturevalue(
        {"folder": "blobs", "bucket": "bucket"}[request.param]
    )
    return found


def keys(store: BlobStore) -> list[str]:
    """Return all keys in the store, including temporary files."""
    found = [entry.key for folder in ("inputs", "results") for entry in store.entries(folder)]
    if isinstance(store, FileBlobStore):
        found += [f"incoming/{path.name}" for path in (store.root / "incoming").iterdir()]
    return sorted(found)


def test_a_written_blob_can_be_read_and_deleted(store: BlobStore) -> None:
    stored = store.write("inputs/a", [b"pic", b"ture"])

    assert store.exists("inputs/a")
    assert stored.size == 7
    assert stored.sha256 == hashlib.sha256(b"picture").hexdigest()
    assert store.read("inputs/a") == b"picture"
    store.delete("inputs/a")
    store.delete("inputs/a")
    assert not store.exists("inputs/a")


def test_a_second_write_replaces_the_first(store: BlobStore) -> None:
    store.write("inputs/a", [b"one"])
    store.write("inputs/a", [b"another"])

    assert store.read("inputs/a") == b"another"
    assert keys(store) == ["inputs/a"]


def test_a_blob_of_any_size_streams_whole_and_in_part(store: BlobStore) -> None:
    store.write("results/large", [LARGE])

    pieces = list(store.stream("results/large"))
    middle = store.stream("results/large", start=8_000_000, stop=12_000_001)
    assert len(pieces) > 1
    assert b"".join(pieces) == LARGE
    assert b"".join(middle) == LARGE[8_000_000:12_000_001]
    assert b"".join(store.stream("results/large", start=len(LARGE) - 3)) == LARGE[-3:]


def test_an_upload_gets_its_key_and_leaves_no_temporary_file(store: BlobStore) -> None:
    with store.incoming() as file:
        file.write(LARGE)
        file.seek(10)  # reading the header moves the offset
        store.keep(file, "inputs/a")
    with store.incoming() as file:
        file.write(b"refused")

    assert store.read("inputs/a") == LARGE
    assert keys(store) == ["inputs/a"]


def test_a_copy_outlives_what_it_was_made_of(store: BlobStore) -> None:
    store.write("results/a.png", [b"picture"])
    store.copy("results/a.png", "results/b.png")
    store.delete("results/a.png")

    assert store.read("results/b.png") == b"picture"
    assert keys(store) == ["results/b.png"]


@pytest.mark.parametrize("use", [
    lambda store: store.read("inputs/a"),
    lambda store: store.stream("inputs/a"),
    lambda store: store.stream("inputs/a", start=2, stop=3),
    lambda store: store.copy("inputs/a", "inputs/b"),
])  # fmt: skip
def test_reading_an_unknown_blob_fails_at_once(store: BlobStore, use: object) -> None:
    with pytest.raises(BlobMissing, match="inputs/a"):
        use(store)  # type: ignore[operator]


def test_a_write_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    def chunks() -> Iterator[bytes]:
        yield LARGE
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.write("inputs/a", chunks())

    assert keys(store) == []


def test_many_are_deleted_and_those_that_were_gone_are_no_error(store: BlobStore) -> None:
    for name in "abc":
        store.write(f"results/{name}", [b"x"])
    store.delete("results/a", "results/none", "results/c")

    assert keys(store) == ["results/b"]


def test_a_listing_tells_size_and_age(store: BlobStore) -> None:
    store.write("results/a.png", [b"picture"])
    store.write("inputs/b", [b"other"])

    (entry,) = store.entries("results")
    assert (entry.key, entry.size) == ("results/a.png", 7)
    assert abs(datetime.now(UTC) - entry.written_at) < timedelta(minutes=5)


@pytest.mark.parametrize("key", ["inputs/../a", "inputs/", "other/a", "inputs/.a", "/etc/passwd"])
def test_a_key_cannot_leave_the_store(store: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        store.read(key)


def test_a_store_that_can_be_used_says_so(store: BlobStore) -> None:
    store.check()

    assert keys(store) == []


# Folder


def test_a_full_disk_is_storage_full_and_leaves_nothing(blobs: FileBlobStore) -> None:
    with files_no_larger_than(5_000):
        with pytest.raises(StorageFull):
            blobs.write("results/a.png", [b"x" * 10_000])
        with pytest.raises(StorageFull):
            blobs.write("results/a.png", [b"x" * 6_000])  # found only at the flush

    assert keys(blobs) == []


def test_a_removed_folder_is_reported(blobs: FileBlobStore) -> None:
    shutil.rmtree(blobs.root)

    with pytest.raises(StorageUnavailable, match="folder is missing"):
        blobs.write("results/a.png", [b"x"])
    with pytest.raises(StorageUnavailable):
        blobs.check()
    with pytest.raises(StorageUnavailable):  # an unmounted share may come back
        blobs.read("results/a.png")


def test_a_picture_that_the_disk_cannot_read_is_unavailable(blobs: FileBlobStore) -> None:
    # reading this file of the kernel fails with an I/O error, as a broken disk does
    blobs.path("results/a.png").symlink_to("/proc/self/mem")

    with pytest.raises(StorageUnavailable, match="Input/output error"):
        next(blobs.stream("results/a.png", stop=9))


def test_a_folder_that_breaks_during_an_upload_is_unavailable(blobs: FileBlobStore) -> None:
    def upload() -> None:
        with blobs.incoming() as file:
            shutil.rmtree(blobs.root / "incoming")
            (blobs.root / "incoming").touch()
            blobs.keep(file, "inputs/a")

    with pytest.raises(StorageUnavailable):
        upload()


def test_files_and_folders_of_others_are_no_blobs(blobs: FileBlobStore) -> None:
    blobs.write("results/a.png", [b"picture"])
    for name in (".nfs000000000001", "lost and found"):
        (blobs.root / "results" / name).write_bytes(b"x")
    (blobs.root / "results" / "folder").mkdir()

    assert keys(blobs) == ["results/a.png"]


def test_files_of_a_killed_upload_are_removed(blobs: FileBlobStore) -> None:
    (blobs.root / "incoming" / "left").write_bytes(b"half")

    assert blobs.sweep_incoming(age=timedelta(hours=1)) == 0
    assert keys(blobs) == ["incoming/left"]
    assert blobs.sweep_incoming(age=timedelta(seconds=-1)) == 4
    assert keys(blobs) == []


# Bucket


def test_a_server_that_is_down_or_hangs_is_reported(
    bucket: S3BlobStore, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.write("inputs/a", [b"picture"])
    hasty = S3BlobStore(bucket._bucket, prefix="some/where", patience=IMPATIENCE)
    with s3_server.frozen(), pytest.raises(StorageUnavailable, match="does not respond"):
        hasty.read("inputs/a")
    assert bucket.read("inputs/a") == b"picture"

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    gone = S3BlobStore("pictures", prefix="", patience=IMPATIENCE)
    for use in (
        gone.check,
        lambda: gone.write("inputs/a", [b"x"]),
        lambda: gone.delete("inputs/a"),
    ):
        with pytest.raises(StorageUnavailable):
            use()


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (403, "AccessDenied", StorageUnavailable, "access was denied"),
        (401, "InvalidToken", StorageUnavailable, "access was denied"),
        (404, "NoSuchBucket", StorageUnavailable, "the bucket does not exist"),
        (500, "InternalError", StorageUnavailable, "does not respond correctly"),
        (507, "XMinioStorageFull", StorageFull, "full"),
        (403, "QuotaExceeded", StorageFull, "full"),
    ],
)
def test_an_error_of_the_bucket_is_explained_without_its_xml(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, error: type[Exception], words: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with refusing_server(status, code) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = S3BlobStore("pictures", prefix="", patience=PATIENCE)
        with pytest.raises(error, match=words):
            store.write("inputs/a", [b"x"])


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_reported() -> None:
    none = S3BlobStore("nowhere", prefix="", patience=PATIENCE)

    with pytest.raises(StorageUnavailable, match="the bucket does not exist"):
        none.check()
    with pytest.raises(StorageUnavailable, match="the bucket does not exist"):
        none.write("inputs/a", [b"x"])
    with pytest.raises(StorageUnavailable, match="the bucket does not exist"):
        none.read("inputs/a")


@pytest.mark.usefixtures("bucket")
def test_objects_of_others_are_no_blobs(s3_server: S3Server) -> None:
    name = s3_server.bucket()
    store = S3BlobStore(name, prefix="", patience=PATIENCE)
    store.write("results/a.png", [b"picture"])
    others = S3Store(name, client_options={"allow_http": True})
    for key in ("results/of another program", "results/folder/a.png"):
        obstore.put(others, key, b"x")

    assert keys(store) == ["results/a.png"]


def test_a_signed_address_gives_the_blob_under_its_name(bucket: S3BlobStore) -> None:
    bucket.write("results/a.png", [b"picture"])
    address = bucket.signed_url(
        "results/a.png",
        lifetime=timedelta(minutes=1),
        media_type="image/png",
        disposition="inline; filename=\"kitten.png\"; filename*=UTF-8''k%C3%A4tzchen.png",
    )
    assert address is not None
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == b"picture"
        assert answer.headers["Content-Type"] == "image/png"
        assert 'filename="kitten.png"' in answer.headers["Content-Disposition"]


def test_a_folder_has_no_signed_addresses(blobs: FileBlobStore) -> None:
    minute = timedelta(minutes=1)
    assert blobs.signed_url("results/a", lifetime=minute, media_type="", disposition="") is None


def test_the_signature_is_the_one_that_amazons_own_client_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    for token in ("", "to/ken=="):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")  # pragma: allowlist secret
        # pragma: allowlist nextline secret
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        ours = signed_get(
            "pictures",
            "some where/results/a.png",
            endpoint="http://127.0.0.1:9000",
            lifetime=timedelta(seconds=77),
            answer={"content-type": "image/png", "content-disposition": 'inline; filename="ä.png"'},
            now=moment,
        )
        theirs = botocore_signed(
            "http://127.0.0.1:9000/pictures/some%20where/results/a.png",
            {
                "response-content-type": "image/png",
                "response-content-disposition": 'inline; filename="ä.png"',
            },
            token=token, lifetime=77, region="eu-north-1", moment=moment,
        )  # fmt: skip
        assert parse_qs(urlsplit(ours).query) == parse_qs(urlsplit(theirs).query)
        assert urlsplit(ours).path == urlsplit(theirs).path


def botocore_signed(
    url: str, query: dict[str, str], *, token: str, lifetime: int, region: str, moment: datetime
) -> str:
    """Sign with Amazon's library at a fixed time."""
    request = AWSRequest("GET", f"{url}?{urlencode(query, quote_via=quote)}")
    keys = Credentials(
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], token or None
    )
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment, create=True):
        S3SigV4QueryAuth(keys, "s3", region, expires=lifetime).add_auth(request)
    signed: str = request.prepare().url
    return signed


def test_settings_name_the_store(tmp_path: Path) -> None:
    def opened(url: str | None) -> BlobStore:
        return open_blobs(
            SharedSettings(blob_dir=tmp_path / "dir", blob_url=url), patience=PATIENCE
        )

    folder, other = opened(None), opened(f"file://{tmp_path}/oth%20er")
    assert isinstance(folder, FileBlobStore)
    assert folder.root == tmp_path / "dir"
    assert isinstance(other, FileBlobStore)
    assert other.root == tmp_path / "oth er"
    assert isinstance(opened("s3://pictures/some/where"), S3BlobStore)
    for wrong in ("s3:pictures", "http://pictures", "pictures", "file://host/pictures"):
        with pytest.raises(ConfigurationInvalid, match="GDSR_BLOB_URL"):
            opened(wrong)
