"""API and admin keys, read from files of `name:sha256` lines.

An API key gives access to the jobs created with it. An admin key gives access to the operator
endpoints, not to jobs. Only the digest of a key is stored. Keys are long and random, so a plain
SHA-256 is enough.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from service.access.guard import is_loopback
from service.settings import ServiceSettings, read_lines
from workers.contract.errors import ConfigurationInvalid, KeyInvalid, KeyMissing

#: Owner of all jobs when no API keys are configured.
ANONYMOUS = ""
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINE = re.compile(rf"({KEY_NAME.pattern}):([0-9a-f]{{64}})")

logger = logging.getLogger(__name__)


def key_name(key: str | None, digests: Mapping[str, str]) -> str:
    """The name of a key, by the digests of the accepted keys; raises KeyMissing or KeyInvalid."""
    if not key:
        raise KeyMissing
    digest = hash_key(key)
    for name, known in digests.items():
        if hmac.compare_digest(digest, known):
            return name
    raise KeyInvalid


def load_api_keys(settings: ServiceSettings) -> dict[str, str]:
    """Read the file of API keys; log a warning if there is none and the service is reachable from
    outside. Raises what `load_keys` raises.
    """
    if settings.api_keys_file is None and not is_loopback(settings.host):
        logger.warning(
            "NO API KEYS: anyone who can reach %s can use this service; set GDSR_API_KEYS_FILE",
            settings.host,
        )
    return load_keys(settings.api_keys_file, setting="GDSR_API_KEYS_FILE")


def hash_key(key: str) -> str:
    """The digest of a key, as in the key file."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A new random key of 256 bits."""
    return secrets.token_urlsafe(32)


def load_keys(path: Path | None, *, setting: str) -> dict[str, str]:
    """The digests of the keys in a file, by name; none without a file.

    Raises:
        ConfigurationInvalid: the file cannot be read or has an invalid line, which is named.
    """
    if path is None:
        return {}
    digests: dict[str, str] = {}
    lines = map(str.strip, read_lines(path, setting=setting))
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or found[1] in digests:
            reason = "needs `name:sha256`" if found is None else "repeats a name"
            raise ConfigurationInvalid(f"{setting}: line {number} {reason}")
        digests[found[1]] = found[2]
    if not digests:
        raise ConfigurationInvalid(f"{setting}: it contains no key")
    return digests
