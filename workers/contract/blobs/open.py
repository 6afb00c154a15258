"""Opens the blob store that the settings choose."""

from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workers.contract.blobs.base import BlobStore
from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import ConfigurationInvalid
from workers.contract.settings import SharedSettings


def open_blobs(settings: SharedSettings, *, patience: timedelta) -> BlobStore:
    """Open the configured store; a remote store may take `patience` for a response.

    Raises:
        ConfigurationInvalid: the setting is invalid or the store cannot be used.
    """
    if settings.blob_url is None:
        return _folder(settings.blob_dir, "GDSR_BLOB_DIR")
    url = urlsplit(settings.blob_url)
    match url.scheme:
        case "file" if url.path and not url.netloc:
            return _folder(Path(unquote(url.path)), "GDSR_BLOB_URL")
        case "s3" if url.netloc:
            from workers.contract.blobs.s3 import S3BlobStore

            return S3BlobStore(url.netloc, prefix=url.path.strip("/"), patience=patience)
    raise ConfigurationInvalid(
        f"GDSR_BLOB_URL: {settings.blob_url} is neither file:/FOLDER nor s3://BUCKET/PREFIX"
    )


def _folder(path: Path, setting: str) -> BlobStore:
    try:
        return FileBlobStore(path)
    except OSError as failure:
        raise ConfigurationInvalid(f"{setting}: {failure}") from None
