"""Stores a result in a file, and checks it."""

import hashlib
import os
import uuid
from base64 import b64encode
from pathlib import Path

import httpx2
from anyio import open_file

from gdsr_client.errors import DownloadBroken


async def store(answer: httpx2.Response, target: Path) -> None:
    """Write the download to a file, atomically.

    Raises:
        DownloadBroken: its digest is not the one that was promised.
        OSError: the file cannot be written.
    """
    promised = _promised_digest(answer)
    partial_file = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    digest = hashlib.sha256()
    try:
        async with await open_file(partial_file, "wb") as file:
            async for piece in answer.aiter_bytes():
                digest.update(piece)
                await file.write(piece)
        if promised is not None and b64encode(digest.digest()).decode() != promised:
            raise DownloadBroken(f"the download of {answer.url.path} is incomplete or corrupted")
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)


def _promised_digest(answer: httpx2.Response) -> str | None:
    """The SHA-256 of `Repr-Digest` (RFC 9530) in base64, from this response or from a redirect
    before it.
    """
    for one in (answer, *answer.history):
        algorithm, _, value = one.headers.get("Repr-Digest", "").partition("=")
        if algorithm == "sha-256":
            return value.strip(":")
    return None
