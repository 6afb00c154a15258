"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header) of repeated uploads."""

import hashlib
import re

from service.http.problems import RequestInvalid
from service.jobs.options import UpscaleFields
from service.services import Services
from service.transfer.incoming import Upload
from workers.contract.queue.connection import translated_redis_errors
from workers.contract.queue.idempotency import IdempotencyKey

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


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
        message = "1 to 255 visible ASCII characters"
        raise RequestInvalid.of("header", "Idempotency-Key", message)
    return key


def claim(
    services: Services,
    owner: str,
    key: str | None,
    upload: Upload,
    fields: UpscaleFields,
    new_id: str,
) -> tuple[IdempotencyKey | None, str | None]:
    """Return the key, bound to the job or batch `new_id`, and the id that already has it, if any.

    Raises:
        IdempotencyKeyReused: the key was used with another picture or other options.
    """
    if key is None:
        return None, None
    fingerprint = hashlib.sha256(f"{upload.sha256}{fields.model_dump_json()}".encode()).hexdigest()
    claimed = IdempotencyKey(owner=owner, key=key, fingerprint=fingerprint, job_id=new_id)
    with translated_redis_errors():
        return claimed, claimed.existing(services.queue.client)
