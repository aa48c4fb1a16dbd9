"""
What a front door reads out of a request's text: one cookie, one parameter, whether the body is JSON.
"""

from __future__ import annotations

from urllib.parse import unquote_plus


def find_cookie(header: str, name: str) -> str | None:
    """
    The first cookie called *name* in a Cookie header; quotes around the value removed.

    Written for this one question: ``http.cookies`` parses every cookie, and gives up at the first it dislikes.
    """
    start = 0
    wanted = name + "="
    while True:
        start = header.find(wanted, start)
        if start < 0:
            return None
        before = start - 1
        while before >= 0 and header[before] in " \t":
            before -= 1
        if before < 0 or header[before] == ";":
            end = header.find(";", start)
            value = header[start + len(wanted) : len(header) if end < 0 else end].strip(" \t")
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        start += len(wanted)


def find_query(query: str, name: str) -> str | None:
    """The first parameter called *name* of a query string."""
    if name not in query and "%" not in query and "+" not in query:
        return None
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == name or unquote_plus(key) == name:
            return unquote_plus(value)
    return None


def length_of(content_length: str) -> int:
    """A Content-Length as a number; -1 where it is none. int() takes signs and spaces too, and 4300 digits at most."""
    is_number = content_length.isascii() and content_length.isdecimal() and len(content_length) < 19
    return int(content_length) if is_number else -1


def is_json(content_type: str) -> bool:
    """Whether a Content-Type says JSON: ``application/json`` or ``application/<x>+json``."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))
