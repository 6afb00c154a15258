"""Reads the JSON of responses and events."""

import json
from typing import Any, TypeVar

from gdsr_client.answers import Answer
from gdsr_client.errors import UnexpectedAnswer

A = TypeVar("A", bound=Answer)


def decoded(kind: type[A], *documents: bytes | str) -> A:
    """Read JSON objects; the fields of later ones replace those of earlier ones.

    Raises:
        UnexpectedAnswer: a document is no JSON object, or a field is missing.
    """
    data: dict[str, Any] = {}
    try:
        for document in documents:
            data |= json.loads(document)
        return kind.of(data)
    except (AttributeError, KeyError, TypeError, ValueError) as unfit:
        name = kind.__name__.lower()
        raise UnexpectedAnswer(f"not the {name} of a GDSR service ({unfit})") from None
