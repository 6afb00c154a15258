"""Presigned URLs of S3 objects: Signature Version 4 in the query.

Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters". We sign ourselves
because obstore cannot sign response header overrides.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

from workers.contract.errors import ConfigurationInvalid

_ALGORITHM = "AWS4-HMAC-SHA256"


def signed_get(
    bucket: str,
    key: str,
    *,
    endpoint: str | None,
    lifetime: timedelta,
    answer: Mapping[str, str],
    now: datetime | None = None,
) -> str:
    """A presigned GET URL with the bucket in its path; `answer` are headers of the response.

    Raises:
        ConfigurationInvalid: the environment holds no access key.
    """
    try:
        access_key = os.environ["AWS_ACCESS_KEY_ID"]
        secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as missing:
        raise ConfigurationInvalid(f"signed addresses need {missing.args[0]}") from None
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
    asked = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in sorted(query.items()))
    path = quote(f"{urlsplit(base).path}/{bucket}/{key}")
    request = f"GET\n{path}\n{asked}\nhost:{urlsplit(base).netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing = _mac(signing, part)
    signature = _mac(signing, f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}").hex()
    host = f"{urlsplit(base).scheme}://{urlsplit(base).netloc}"
    return f"{host}{path}?{asked}&X-Amz-Signature={signature}"


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
