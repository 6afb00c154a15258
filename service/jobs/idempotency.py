"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header): a repeated upload returns the same
job.
"""

import hashlib
import re

from service.http.problems import RequestInvalid
from service.jobs.options import UpscaleFields

HEADER = "Idempotency-Key"
MAX_LENGTH = 255
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_LENGTH}}}")


def read_key(header: str | None) -> str | None:
    """The key of a header, quoted as in the draft or, as most clients send it, unquoted.

    Raises:
        RequestInvalid: the key is empty, too long, or not visible ASCII.
    """
    if header is None:
        return None
    quoted = len(header) >= 2 and header[0] == header[-1] == '"'
    key = header[1:-1] if quoted else header
    if not _KEY.fullmatch(key):
        message = f"1 to {MAX_LENGTH} visible ASCII characters"
        raise RequestInvalid.of("header", HEADER, message)
    return key


def fingerprint(picture_sha256: str, fields: UpscaleFields) -> str:
    """Digest of picture and options: has to be equal for repeats of a request."""
    return hashlib.sha256(f"{picture_sha256}{fields.model_dump_json()}".encode()).hexdigest()
