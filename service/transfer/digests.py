"""`Content-Digest` and `Repr-Digest` (RFC 9530) with SHA-256: checked if sent, sent with results.

For an upload both headers mean the same bytes: the body as sent, including the whole form if it is
one.
"""

import base64
import binascii
from collections.abc import Mapping

from service.http.problems import RequestInvalid
from workers.contract.errors import DigestMismatch

HEADERS = ("Content-Digest", "Repr-Digest")
_ALGORITHM = "sha-256"
_BYTES = 32


def promised_digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """The SHA-256 of the body as the client states it, by header; other digests are ignored.

    Raises:
        RequestInvalid: a header names SHA-256 with an invalid value.
    """
    found: dict[str, bytes] = {}
    for header in HEADERS:
        for member in headers.get(header, "").split(","):
            algorithm, _, value = member.strip().partition("=")
            if algorithm == _ALGORITHM:
                found[header] = _decoded(header, value)
    return found


def check_digests(promised: Mapping[str, bytes], *, sha256: str) -> None:
    """Compare the digest of a body to those that the client sent.

    Raises:
        DigestMismatch: the digests differ.
    """
    for header, digest in promised.items():
        if digest != bytes.fromhex(sha256):
            raise DigestMismatch(header=header, found=shown_digest(sha256))


def shown_digest(sha256: str) -> str:
    """A digest in the format of these headers."""
    return f"{_ALGORITHM}=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _decoded(header: str, value: str) -> bytes:
    try:
        if len(value) < 2 or (value[0], value[-1]) != (":", ":"):
            raise ValueError
        digest = base64.b64decode(value[1:-1], validate=True)
        if len(digest) != _BYTES:
            raise ValueError
    except (binascii.Error, ValueError):
        message = f"{_ALGORITHM} needs {_BYTES} bytes in base64 between colons"
        raise RequestInvalid.of("header", header, message) from None
    return digest
