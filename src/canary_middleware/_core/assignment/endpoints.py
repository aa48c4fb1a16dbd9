"""
Which rollout covers a request: method and path template, at a cost that does not grow with the number of templates.

A table is a tree of path segments. One request visits at most one static and one wildcard child per node, so its cost
follows the path and how often the plan itself forks along it (the same prefix both as text and as a parameter).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ...errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_METHOD_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_ONE: Final = "*"
"""In a parsed template: exactly one segment that is not empty."""


class Match(Generic[T]):
    """
    A template that covers a request.

    Attributes:
        value: what the table was given for it.
        template: its path, without methods, for example ``/posts/{id}``.
    """

    __slots__ = ("_names", "_segments", "template", "value")

    def __init__(self, value: T, template: str, names: dict[str, int], segments: list[str]) -> None:
        self.value = value
        self.template = template
        self._names = names
        self._segments = segments

    def param(self, name: str) -> str | None:
        """What ``{name}`` stood for in this request; None where the template has no such parameter."""
        index = self._names.get(name)
        return None if index is None else self._segments[index]


class _Template:
    """A template, parsed: ``"GET,POST /posts/{id}/*"``."""

    __slots__ = ("has_rest", "methods", "names", "path", "segments")

    def __init__(self, text: str) -> None:
        methods, path = _split(text)
        self.path = path
        self.methods = _methods(text, methods)
        segments = [] if path == "*" else path.split("/")[1:]
        # "/x/*" covers "/x/" and everything below it; "*" and "/*" cover every path.
        self.has_rest = path == "*" or segments[-1] == "*"
        self.names: dict[str, int] = {}
        fixed = segments[:-1] if self.has_rest else segments
        self.segments = [self._segment(text, n, segment) for n, segment in enumerate(fixed)]

    def _segment(self, text: str, index: int, segment: str) -> str:
        if segment == "*":
            return _ONE
        if "*" in segment:
            raise ConfigError(f"endpoint {text!r}: {segment!r} mixes * with text: * stands for a whole segment")
        if segment[:1] == "{" and segment[-1:] == "}":
            name = segment[1:-1]
            if not name or not _NAME_LETTERS.issuperset(name) or name[0].isdecimal():
                raise ConfigError(f"endpoint {text!r}: {segment!r} is no parameter: write for example {{session_id}}")
            if name in self.names:
                raise ConfigError(f"endpoint {text!r}: {segment!r} stands twice: give each parameter its own name")
            self.names[name] = index + 1
            return _ONE
        if "{" in segment or "}" in segment:
            raise ConfigError(f"endpoint {text!r}: {segment!r}: a parameter is a whole segment, as /posts/{{id}}")
        return segment


def _split(text: str) -> tuple[str, str]:
    methods, space, path = text.strip().rpartition(" ")
    if " " in methods.strip() and "," not in methods:
        raise ConfigError(f'endpoint {text!r}: there is a space too many: write for example "GET,POST /posts/{{id}}"')
    if not path.startswith("/") and path != "*":
        raise ConfigError(f'endpoint {text!r}: the path must begin with /, as "GET /posts/{{id}}"')
    if "?" in path or "#" in path:
        raise ConfigError(f"endpoint {text!r}: a path has no ? and no #: leave the query string out")
    return (methods if space else ""), path


def _methods(text: str, methods: str) -> frozenset[str] | None:
    """The methods that it covers, HEAD with GET; None where it names none, which is all."""
    if not methods.strip():
        return None
    found = {method.strip() for method in methods.split(",")}
    for method in found:
        if not method or not _METHOD_LETTERS.issuperset(method):
            raise ConfigError(f"endpoint {text!r}: {method!r} is no method: write them in capitals, as GET,POST")
    return frozenset(found | {"HEAD"} if "GET" in found else found)


def validate_template(text: str) -> None:
    """Raise ConfigError that says what is wrong with an endpoint template, if anything is."""
    _Template(text)


class _Ending(Generic[T]):
    """One entry of the table, where its template ends."""

    __slots__ = ("methods", "order", "prepared", "template", "value")

    def __init__(self, order: int, template: _Template, value: T) -> None:
        self.order = order
        self.methods = template.methods
        self.template = template
        self.value = value
        # Without parameters every match is the same.
        self.prepared = None if template.names else Match(value, template.path, {}, [])


class _Node(Generic[T]):
    """The templates that share the segments so far."""

    __slots__ = ("ends", "one", "rests", "static")

    def __init__(self) -> None:
        self.static: dict[str, _Node[T]] = {}
        self.one: _Node[T] | None = None
        self.ends: list[_Ending[T]] = []
        self.rests: list[_Ending[T]] = []


def _add(ending: _Ending[T], endings: list[_Ending[T]]) -> None:
    """
    Put *ending* behind the others, unless an earlier one covers all of its methods already.

    So a place holds as many endings as there are methods at most, however often a plan says the same.
    """
    for earlier in endings:
        if earlier.methods is None or (ending.methods is not None and ending.methods <= earlier.methods):
            return
    endings.append(ending)


def _first(endings: list[_Ending[T]], method: str, best: _Ending[T] | None) -> _Ending[T] | None:
    """The earliest of *endings* that covers *method*, or *best* if that is earlier."""
    for ending in endings:
        if best is not None and best.order < ending.order:
            return best
        if ending.methods is None or method in ending.methods:
            return ending
    return best


class EndpointTable(Generic[T]):
    """
    Templates and what each stands for; the first in the order given wins.

    Args:
        entries: (template, value) pairs. A template is ``"GET,POST /a/{b}/*"``: methods (none: all; GET covers HEAD),
            then a path in which ``{b}`` and ``*`` are one segment and a last ``*`` is any rest.
    Raises:
        ConfigError: a template is wrong; says how.
    """

    __slots__ = ("_depth", "_root", "_whole")

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self._root: _Node[T] = _Node()
        self._depth = 0
        whole: dict[str, None] = {}
        for order, (text, value) in enumerate(entries):
            template = _Template(text)
            self._insert(_Ending(order, template, value))
            if not template.has_rest and _ONE not in template.segments:
                whole[template.path] = None
        # The answers for paths that the plan spells out, patterns that stand before them included: one look-up each.
        self._whole = {path: self._answers(path) for path in whole}

    def _insert(self, ending: _Ending[T]) -> None:
        template = ending.template
        node = self._root
        for segment in template.segments:
            if segment is _ONE:
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.static.setdefault(segment, _Node())
        _add(ending, node.rests if template.has_rest else node.ends)
        self._depth = max(self._depth, len(template.segments))

    def _answers(self, path: str) -> tuple[dict[str, Match[T]], Match[T] | None]:
        """What *path* matches by method, and what it matches with every other method."""
        segments = path.split("/")
        covering = [ending for endings in self._reached(segments) for ending in endings]
        by_method: dict[str, Match[T]] = {}
        for ending in sorted(covering, key=lambda ending: ending.order):
            match = ending.prepared or Match(ending.value, ending.template.path, ending.template.names, segments)
            if ending.methods is None:
                return by_method, match
            for method in ending.methods:
                by_method.setdefault(method, match)
        return by_method, None

    def match(self, method: str, path: str) -> Match[T] | None:
        """The first entry that covers *method* and the decoded *path* (beginning with ``/``), or None."""
        answers = self._whole.get(path)
        if answers is not None:
            return answers[0].get(method, answers[1])
        if path[:1] != "/":
            path = "/" + path  # OPTIONS * and authority forms have no path of their own
        # Never into more pieces than the deepest template has: a megabyte of slashes costs what a short path costs.
        segments = path.split("/", self._depth + 1)
        best: _Ending[T] | None = None
        for endings in self._reached(segments):
            best = _first(endings, method, best)
        if best is None:
            return None
        return best.prepared or Match(best.value, best.template.path, best.template.names, segments)

    def _reached(self, segments: list[str]) -> list[list[_Ending[T]]]:
        """Walk down to all that covers the path; a fork, where text and parameter both fit, is walked twice."""
        found: list[list[_Ending[T]]] = []
        forks: list[tuple[_Node[T], int]] = []
        node, index, count = self._root, 1, len(segments)
        while True:
            while index < count:
                if node.rests:
                    found.append(node.rests)
                segment = segments[index]
                index += 1
                child = node.static.get(segment)
                if node.one is not None and segment:
                    if child is None:
                        child = node.one
                    else:
                        forks.append((node.one, index))
                if child is None:
                    break
                node = child
            else:
                if node.ends:
                    found.append(node.ends)
            if not forks:
                return found
            node, index = forks.pop()
