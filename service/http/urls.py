"""Paths of our own endpoints as clients see them: a proxy may add a prefix."""

from contextvars import ContextVar

#: The prefix, such as `/gdsr`; set for each request and for background tasks.
ROOT: ContextVar[str] = ContextVar("root_path", default="")


def address(path: str) -> str:
    """The path under which a client reaches `path`."""
    return ROOT.get() + path
