"""`Content-Digest` and `Repr-Digest` (RFC 9530) with SHA-256: checked if sent, sent with results.

For an upload both headers mean the same bytes: the body as sent, including the whole form if it is
one.
"""

import base64
import re
from collections.abc import Mapping

from service.http.problems import RequestInvalid
from workers.contract.errors import DigestMismatch

_ALGORITHM = "sha-256"
#: 32 bytes in base64.
_CODED = re.compile(r":([A-Za-z0-9+/]{43}=):")


def promised_digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """The SHA-256 of the body as the client states it, by header; other digests are ignored.

    Raises:
        RequestInvalid: a header names SHA-256 with an invalid value.
    """
    found: dict[str, bytes] = {}
    for header in ("Content-Digest", "Repr-Digest"):
        for member in headers.get(header, "").split(","):
            algorithm, _, value = member.strip().partition("=")
            if algorithm != _ALGORITHM:
                continue
            coded = _CODED.fullmatch(value)
            if coded is None:
                message = f"{_ALGORITHM} needs 32 bytes in base64 between colons"
                raise RequestInvalid.of("header", header, message)
            found[header] = base64.b64decode(coded[1])
    return found


def check_digests(promised: Mapping[str, bytes], *, sha256: str) -> None:
    """Raise DigestMismatch if the digest of a body is not one that the client sent."""
    for header, digest in promised.items():
        if digest != bytes.fromhex(sha256):
            raise DigestMismatch(header=header, found=shown_digest(sha256))


def shown_digest(sha256: str) -> str:
    """A digest in the format of these headers."""
    return f"{_ALGORITHM}=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
