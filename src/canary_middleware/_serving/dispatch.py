"""
Dispatch in the same process: a pair of handlers, or a pair of path prefixes; and which version is being served now.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from .._core.exchange import Exchange, active
from ..errors import ConfigError, NoAssignment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core.lifecycle.rollout import Assignment

# What decides, on a view, who may call it: one wrapper carries one value, so both handlers must agree.
_GUARDS: Final = ("csrf_exempt", "login_required", "_non_atomic_requests")


def current() -> Assignment:
    """
    The version that the request in hand is served by, in its view, its middlewares, and threads that copy the context.

    Raises:
        NoAssignment: there is no request, or no canary middleware around it.
    """
    served = active.get()
    if served is None:
        raise NoAssignment(
            "no canary middleware has run for this code. In a request: put CanaryMiddleware (or flask.init_app) around "
            "the app. Outside one: ask canary.version_for(identity). In a thread of your own: start it with "
            "contextvars.copy_context().run"
        )
    return served.assignment


def handlers(
    stable: Callable[..., Any], canary: Callable[..., Any] | None = None, /, **versions: Callable[..., Any]
) -> Any:
    """
    One handler out of several: each request goes to that of its version.

    Args:
        stable: serves the stable version, and every request that no rollout covers.
        canary: serves the canary, where there is one.
        versions: where there are several canaries: the handler of each by the version's name, as ``v2=…, v3=…``
            (``**{"2026-06": …}`` where the name is no identifier).
    Returns:
        a function with *stable*'s name, signature and colour. Any: it is what *stable* is to its framework.
    Raises:
        ConfigError: the handlers differ in colour or signature, or there is only one.
        NoAssignment: when called where no canary middleware has run.
    """
    pick = picker(stable, canary, versions)
    others = versions if canary is None else {"canary": canary}
    is_async = _agree(stable, others)

    if is_async:

        @functools.wraps(stable)
        async def dispatch(*args: Any, **kwargs: Any) -> Any:  # Any: the handlers' own arguments  # pyright: ignore[reportRedeclaration]
            return await pick()(*args, **kwargs)

    else:

        @functools.wraps(stable)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            return pick()(*args, **kwargs)

    _join_returns(dispatch, stable, others.values())
    return dispatch


def picker(
    stable: Callable[..., Any], canary: Callable[..., Any] | None, versions: Mapping[str, Callable[..., Any]]
) -> Callable[[], Callable[..., Any]]:
    """
    A function that gives the handler or app of the request in hand.

    Raises:
        ConfigError: neither or both of *canary* and *versions* are given.
    """
    if (canary is None) == (not versions):
        raise ConfigError("pass (stable, canary), or (stable, v2=…, v3=…) where there are several canaries")

    def pick() -> Callable[..., Any]:
        served = active.get()
        if served is None:
            current()
        assignment = served.assignment  # type: ignore[union-attr]
        if assignment.variant.role == "stable":
            return stable
        handler = canary or versions.get(assignment.version)
        if handler is not None:
            return handler
        if isinstance(served, Exchange):
            served.unserved(LookupError(f"no handler for version {assignment.version!r} beside {stable!r}"))
        return stable

    return pick


def _agree(stable: Callable[..., Any], others: Mapping[str, Callable[..., Any]]) -> bool:
    """Whether all are async. Raises ConfigError where they differ in what their caller relies on."""
    from inspect import signature

    from asgiref.sync import iscoroutinefunction

    def is_async(handler: Callable[..., Any]) -> bool:
        return iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004

    expected = is_async(stable)
    for name, handler in others.items():
        if not callable(handler):
            raise ConfigError(f"handlers(): {name} is {handler!r}: must be a function")
        if is_async(handler) != expected:
            first, second = ("async def", "def") if expected else ("def", "async def")
            raise ConfigError(
                f"handlers(): {_name(stable)} is {first} and {_name(handler)} is {second}: make both the same"
            )
        for guard in _GUARDS:
            if getattr(stable, guard, None) != getattr(handler, guard, None):
                raise ConfigError(
                    f"handlers(): {guard} is {getattr(stable, guard, None)!r} on {_name(stable)} and "
                    f"{getattr(handler, guard, None)!r} on {_name(handler)}: decorate both alike"
                )
        try:
            ours, theirs = signature(stable), signature(handler)
        except ValueError:  # a builtin tells nothing
            continue
        if not _compatible(ours, theirs):
            raise ConfigError(
                f"handlers(): {_name(stable)}{_parameters(ours)} and {_name(handler)}{_parameters(theirs)} take "
                f"different arguments: give {_name(handler)} the parameters of {_name(stable)}"
            )
        if _dependencies(stable, ours) != _dependencies(handler, theirs):
            raise ConfigError(
                f"handlers(): {_name(stable)} and {_name(handler)} have different dependencies: FastAPI would resolve "
                f"those of {_name(stable)} for both, so declare the same ones"
            )
    return expected


def _compatible(ours: Any, theirs: Any) -> bool:  # Any: inspect.Signature, imported lazily
    """Whether a call that fits one fits the other: same names, kinds and defaults, or one takes anything."""
    left, right = list(ours.parameters.values()), list(theirs.parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in (*left, *right)):
        return True
    return [(p.name, p.kind, p.default is p.empty) for p in left] == [
        (p.name, p.kind, p.default is p.empty) for p in right
    ]


def _dependencies(handler: Callable[..., Any], found: Any) -> dict[str, object]:  # Any: inspect.Signature
    """What FastAPI calls for each parameter, such as the check of a user's rights; by the parameter's name."""
    from typing import get_type_hints

    try:
        hints = get_type_hints(handler, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation that cannot be resolved here names no dependency
        hints = {}
    return {
        name: marker.dependency
        for name, parameter in found.parameters.items()
        for marker in (parameter.default, *getattr(hints.get(name), "__metadata__", ()))
        if hasattr(marker, "dependency")
    }


def _parameters(found: Any) -> str:  # Any: inspect.Signature
    return f"({', '.join(found.parameters)})"


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)


def _join_returns(dispatch: Callable[..., Any], stable: Callable[..., Any], others: Any) -> None:
    """
    Where the handlers return different models, announce either.

    FastAPI makes a response model of the return annotation; stable's alone would filter the canary's fields out.
    """
    from inspect import Signature, signature
    from typing import get_type_hints

    returns = []
    for handler in (stable, *others):
        try:
            returns.append(get_type_hints(handler, include_extras=True).get("return", Signature.empty))
        except Exception:  # noqa: BLE001 - an annotation that cannot be resolved announces nothing
            return
    distinct = list(dict.fromkeys(map(_hashable, returns)))
    if len(distinct) == 1:
        return
    joined: Any = Signature.empty
    if Signature.empty not in distinct:
        joined = distinct[0]
        for other in distinct[1:]:
            joined |= other
    hints = get_type_hints(stable, include_extras=True)
    found = signature(stable)
    parameters = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in found.parameters.values()]
    dispatch.__signature__ = found.replace(parameters=parameters, return_annotation=joined)  # type: ignore[attr-defined]


def _hashable(annotation: Any) -> Any:
    return type(None) if annotation is None else annotation


class Rewrite:
    """
    One app, two path prefixes: a covered path under any version's prefix is served under that of its own version.

    Args:
        prefixes: version → prefix, such as ``{"v1": "/api/v1", "v2": "/api/v2"}``; ``"*"`` names a public prefix that
            belongs to no version (``{"*": "/api", …}``).
    Raises:
        ConfigError: a prefix does not begin with ``/``, ends with one, or stands twice.
    """

    def __init__(self, prefixes: Mapping[str, str], versions: frozenset[str]) -> None:
        for version, prefix in prefixes.items():
            if not prefix.startswith("/") or prefix.endswith("/"):
                raise ConfigError(f"rewrite[{version!r}] is {prefix!r}: must begin with / and not end with one")
            if version != "*" and version not in versions:
                raise ConfigError(f"rewrite[{version!r}]: there is no such version, only {', '.join(sorted(versions))}")
        missing = versions - prefixes.keys()
        if missing:
            raise ConfigError(f"rewrite names no prefix for {', '.join(sorted(missing))}: add one per version")
        if len(set(prefixes.values())) < len(prefixes):
            raise ConfigError(f"rewrite has one prefix twice: {dict(prefixes)!r}")
        self._targets = dict(prefixes)
        # The longest first, so that /api/v1 is not taken for the public /api.
        self._known = sorted(prefixes.values(), key=len, reverse=True)

    def path(self, path: str, version: str) -> str:
        """Where *version* serves *path*; the path itself where it stands under no known prefix."""
        prefix, target = self.prefixes(path, version)
        return target + path[len(prefix) :]

    def prefixes(self, path: str, version: str) -> tuple[str, str]:
        """What *path* begins with, and what it begins with under *version*; two empty texts where nothing changes."""
        target = self._targets.get(version)
        if target is not None:
            for prefix in self._known:
                if path == prefix or path.startswith(prefix + "/"):
                    return prefix, target
        return "", ""
