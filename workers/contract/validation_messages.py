"""Validation errors of pydantic in words for the person who gave the value."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator

_MAX_SHOWN = 40


def shaped(pattern: str, words: str) -> AfterValidator:
    """Requires that a string matches a pattern; `words` name the expected form."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{_shown(value)} is not {words}")
        return value

    return AfterValidator(check)


def error_message(error: Mapping[str, Any]) -> str:
    """One of the `errors()` of a `ValidationError`, without its field.

    Raises nothing: an unknown kind is reported as invalid.
    """
    context: Mapping[str, Any] = error.get("ctx", {})
    found = _shown(error.get("input"))
    match error["type"]:
        case "missing":
            return "it is missing"
        case "json_invalid":
            return "it is not JSON"
        case "extra_forbidden":
            return "unknown field"
        case "greater_than_equal":
            return f"it is {found}; the minimum is {_shown(context['ge'])}"
        case "less_than_equal":
            return f"it is {found}; the maximum is {_shown(context['le'])}"
        case "greater_than":
            return f"it is {found}; it has to be more than {_shown(context['gt'])}"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{found} is not a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return f"{found} is not a number"
        case "bool_parsing" | "bool_type":
            return f"{found} is neither true nor false"
        case "enum" | "literal_error":
            return f"it is {found}; it can be {context['expected']}"
        case "string_too_long":
            return f"it is longer than {_shown(context['max_length'])} characters"
        case "time_delta_parsing" | "time_delta_type":
            return f"{found} is not a number of seconds"
        case "value_error":
            return str(context["error"])
        case _:
            return f"{found} is not valid here"


def _shown(value: object) -> str:
    """A value, shortened; numbers with thousands separators."""
    if isinstance(value, str):
        return repr(_cut(value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _cut(f"{value:,}" if isinstance(value, int | float) else str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
