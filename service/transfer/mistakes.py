"""Common mistakes in sending a picture, each with the correct command."""

import re

_FILE = re.compile(rb"[^\0-\x1f\x7f]{1,255}")
_URL = re.compile(rb"\s*(https?|ftp|file)://", re.IGNORECASE)
_COMMANDS = "curl -F image=@photo.jpg URL, or curl -T photo.jpg -X POST URL"
NOT_FETCHED = f"it is a URL, and URLs are not fetched; send the picture itself: {_COMMANDS}"
#: Number of bytes that are inspected.
HEAD_BYTES = 2048


def is_url(value: str) -> bool:
    """True if the value of a field looks like a URL."""
    return _URL.match(value.encode()) is not None


def mistake(head: bytes, *, content_type: str, named: bool) -> str | None:
    """The mistake, if the first bytes of an upload that is no picture reveal one.

    `named`: whether the upload has a file name.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if head.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; send the picture as it is, without Content-Encoding"
    if _URL.match(head.removeprefix(b"image=")):
        return NOT_FETCHED
    if head[:5].lower() == b"data:":
        return 'data URIs are accepted in JSON only: {"image": "data:..."} with application/json'
    if head.lstrip()[:1] == b"{" and not named:
        return "it is JSON; send that with -H 'Content-Type: application/json'"
    if kind == "multipart/form-data" and not named and _FILE.fullmatch(head):
        return "it is the name of a file; an @ before it sends the file: -F image=@photo.jpg"
    if kind == "application/x-www-form-urlencoded" and not set(head) & set(b"\0\r\n"):
        return f"curl -d sends text, and files without their newlines; use {_COMMANDS}"
    return None
