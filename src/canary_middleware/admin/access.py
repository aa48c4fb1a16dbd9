"""
Who may look, and who may steer: bearer tokens, or whatever the app knows of its users.
"""

from __future__ import annotations

import hmac
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_ENV: Final = "CANARY_ADMIN_TOKEN"  # noqa: S105 - the variable's name
READ_TOKEN_ENV: Final = "CANARY_ADMIN_READ_TOKEN"  # noqa: S105 - the variable's name
_SHORTEST: Final = 16


class Principal(NamedTuple):
    """
    Whoever makes a request.

    Attributes:
        name: for the audit trail.
        may_write: whether they may change something, or only look.
        by_browser: whether the browser vouches for them by itself (a cookie): other sites' requests are then refused.
    """

    name: str
    may_write: bool = True
    by_browser: bool = True


# Any: the WSGI environ, the ASGI scope, or Django's request
Authenticator = Callable[[Any], Principal | None]
"""Makes a Principal of the framework's own request, or None for somebody who may not come in."""


class Access:
    """
    Who may come in.

    Args:
        token: lets its bearer look and steer; None reads CANARY_ADMIN_TOKEN.
        read_token: lets its bearer look; None reads CANARY_ADMIN_READ_TOKEN.
        authenticator: makes a Principal, or None, of the framework's own request; asked where there is no bearer token.
    Raises:
        ConfigError: nobody could come in, a token could not be sent or kept secret, or the authenticator is async.
    """

    def __init__(
        self,
        token: str | None = None,
        read_token: str | None = None,
        authenticator: Authenticator | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        given = (
            (token or environ.get(TOKEN_ENV), Principal("admin-token", by_browser=False)),
            (read_token or environ.get(READ_TOKEN_ENV), Principal("read-token", may_write=False, by_browser=False)),
        )
        self._tokens = tuple((secret.encode(), principal) for secret, principal in given if secret)
        self._authenticator = authenticator
        _require_secrets([secret for secret, _ in self._tokens])
        if _is_async(authenticator):
            raise ConfigError(
                f"authenticator = {authenticator!r} is async: must be a plain function. It runs in a thread, where it "
                "may block"
            )
        if not self._tokens and authenticator is None:
            raise ConfigError(
                f"the admin API would be open to nobody: set {TOKEN_ENV} in the environment, or pass token=… or "
                "authenticator=…"
            )

    def who(self, authorization: str | None, native: object) -> Principal | None:
        """
        The Principal of a request, or None.

        Args:
            authorization: the header of that name.
            native: the framework's own request, for the authenticator.
        Raises:
            TypeError: the authenticator answered neither. Its False, say, must let nobody in.
        """
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return self._bearer(presented.strip().encode("utf-8", "surrogateescape"))
        found = None if self._authenticator is None else self._authenticator(native)
        if found is not None and not isinstance(found, Principal):
            raise TypeError(f"the authenticator returned {found!r}: must be a Principal, or None")
        return found

    def _bearer(self, presented: bytes) -> Principal | None:
        found = None
        # Every token is compared, each in constant time: how long it takes says nothing.
        for secret, principal in self._tokens:
            if hmac.compare_digest(presented, secret):
                found = found or principal
        return found


def _require_secrets(secrets: list[bytes]) -> None:
    if any(len(secret) < _SHORTEST for secret in secrets):
        raise ConfigError(
            f"the admin API's token is shorter than {_SHORTEST} characters: make one with "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    # Clients disagree on how to send anything else in a header, and a line end read from a file is never sent.
    if any(not 0x21 <= byte <= 0x7E for secret in secrets for byte in secret):
        raise ConfigError("the admin API's token holds a space, a line end or a letter outside ASCII: must hold none")
    if len(set(secrets)) < len(secrets):
        raise ConfigError(f"{TOKEN_ENV} and {READ_TOKEN_ENV} are the same: whoever may only look could steer")


def _is_async(function: Authenticator | None) -> bool:
    # An object with `async def __call__` is no coroutine function itself.
    called = None if function is None else type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
