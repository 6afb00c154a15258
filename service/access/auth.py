"""Keys: a file of `name:sha256` lines. Who has an API key sees its jobs and no others; an admin
key is for running the service, not for using it.

The service knows a key's digest alone. Keys are long and random, so a plain SHA-256 is enough.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from service.access.guard import is_loopback
from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid, KeyInvalid, KeyMissing

#: Whose jobs are when there are no keys.
NOBODY = ""
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63}):([0-9a-f]{64})")

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys that a service takes; without any, everybody is nobody in particular."""

    def __init__(self, digests: Mapping[str, str], *, private: bool = False) -> None:
        self._digests = dict(digests)
        #: Whether this machine alone is served, since there are no keys.
        self.private = private and not digests

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def load(cls, settings: ServiceSettings) -> "ApiKeys":
        """Read the file; say loudly when there is none and strangers may come.

        Raises:
            ConfigurationInvalid: it cannot be read, or names the line that is wrong.
        """
        if settings.api_keys_file is None:
            private = is_loopback(settings.host)
            if not private:
                logger.warning(
                    "NO API KEYS: whoever reaches %s can use this service; set GDSR_API_KEYS_FILE",
                    settings.host,
                )
            return cls({}, private=private)
        return cls(_read(settings.api_keys_file, setting="GDSR_API_KEYS_FILE"))

    def owner(self, key: str | None) -> str:
        """The name of a key.

        Raises:
            KeyMissing: there are keys, and none was sent.
            KeyInvalid: it is not one of them.
        """
        return _name_of(key, self._digests) if self._digests else NOBODY


class AdminKeys:
    """The keys of those who run the service."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = dict(digests)

    @classmethod
    def load(cls, settings: ServiceSettings) -> "AdminKeys":
        """Read the file.

        Raises:
            ConfigurationInvalid: it cannot be read, or names the line that is wrong.
        """
        if settings.admin_keys_file is None:
            return cls({})
        return cls(_read(settings.admin_keys_file, setting="GDSR_ADMIN_KEYS_FILE"))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name(self, key: str | None) -> str:
        """The name of an admin key; without admin keys, no key is one.

        Raises:
            KeyMissing: none was sent.
            KeyInvalid: it is not one of them.
        """
        return _name_of(key, self._digests)


def hash_key(key: str) -> str:
    """What stands in the file for a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A key of 256 random bits."""
    return secrets.token_urlsafe(32)


def _name_of(key: str | None, digests: Mapping[str, str]) -> str:
    if not key:
        raise KeyMissing
    digest = hash_key(key)
    for name, known in digests.items():
        if hmac.compare_digest(digest, known):
            return name
    raise KeyInvalid


def _read(path: Path, *, setting: str) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigurationInvalid(f"{setting}: {failure}") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None or found[1] in digests:
            reason = "needs `name:sha256`" if found is None else "repeats a name"
            raise ConfigurationInvalid(f"{setting}: line {number} {reason}")
        digests[found[1]] = found[2]
    if not digests:
        raise ConfigurationInvalid(f"{setting}: it holds no key")
    return digests
