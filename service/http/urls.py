"""Addresses of our own things, as clients see them: a proxy may put a prefix before all of them."""

from contextvars import ContextVar

#: The prefix, such as `/gdsr`; set once for each request and for what runs beside the requests.
ROOT: ContextVar[str] = ContextVar("root_path", default="")


def address(path: str) -> str:
    """The path at which a client finds what is at this path for us."""
    return ROOT.get() + path
