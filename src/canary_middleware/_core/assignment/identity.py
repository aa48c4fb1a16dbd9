"""
Identity sources: where in a request the text stands that must not flip between versions.

Each source is a small value that reads a RequestHead; this file knows no server and no framework. An empty value, or
one longer than MAX_IDENTITY_BYTES, counts as absent, and the next source is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from ...errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..ports import RequestHead

MAX_IDENTITY_BYTES: Final = 4096
"""A longer identity is none: nobody's user id is, and hashing a megabyte per request would be a gift to attackers."""

_HEADER_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")


def is_header_name(text: str) -> bool:
    """Whether *text* is a token (RFC 9110 §5.6.2), as names of headers and cookies are."""
    # isascii: lower() makes a plain k of the Kelvin sign.
    return bool(text) and text.isascii() and _HEADER_LETTERS.issuperset(text.lower())


class Source(Protocol):
    """One place to look for an identity. ``spec`` is its text in a plan file, for example ``header:x-user-id``."""

    @property
    def spec(self) -> str: ...

    @property
    def vary(self) -> str | None:
        """The request header that the value comes from, for ``Vary``; None where no header can say it."""
        ...

    @property
    def in_url(self) -> bool:
        """Whether the value is part of the URL, which is a cache's key already."""
        ...

    def read(self, head: RequestHead) -> str | None:
        """The identity, or None where this request has none here."""
        ...


class _Named:
    """What the sources below share: a kind, a name, and how they are written and compared."""

    __slots__ = ("name",)
    kind = ""
    vary: str | None = None
    in_url = False

    def __init__(self, name: str) -> None:
        if not name or name != name.strip():
            raise ConfigError(f"{self.kind}:{name!r} has no name: write for example {self.kind}:user_id")
        self.name = name

    @property
    def spec(self) -> str:
        return f"{self.kind}:{self.name}"

    def __repr__(self) -> str:
        return f"by_{self.kind}({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash((self.kind, self.name))


class Header(_Named):
    """The first header of that name."""

    __slots__ = ("raw", "vary")
    kind = "header"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name.lower()
        if not is_header_name(name):
            raise ConfigError(f"header:{name!r} is no header name (RFC 9110 §5.1): write for example header:x-user-id")
        self.vary = name

    def read(self, head: RequestHead) -> str | None:
        return head.header(self.name)


class Cookie(_Named):
    """The first cookie of that name."""

    __slots__ = ()
    kind = "cookie"
    vary = "Cookie"

    def read(self, head: RequestHead) -> str | None:
        return head.cookie(self.name)


class Query(_Named):
    """The first query parameter of that name."""

    __slots__ = ()
    kind = "query"
    in_url = True

    def read(self, head: RequestHead) -> str | None:
        return head.query(self.name)


class PathParameter(_Named):
    """What ``{name}`` of the endpoint template stands for."""

    __slots__ = ()
    kind = "path"
    in_url = True

    def read(self, head: RequestHead) -> str | None:
        return head.path_param(self.name)


class JsonField(_Named):
    """A text or integer field of a JSON body; the name is a dotted path such as ``user.id`` or ``items.0.id``."""

    __slots__ = ("_steps", "cap")
    kind = "json"

    def __init__(self, name: str, cap: int = 64 * 1024) -> None:
        super().__init__(name)
        self._steps = tuple(name.split("."))
        if not all(self._steps):
            raise ConfigError(f"json:{name!r} is not a dotted path: write for example json:user.id")
        self.cap = cap

    def capped(self, cap: int) -> JsonField:
        """The same field, read from bodies of at most *cap* bytes."""
        return JsonField(self.name, cap)

    def read(self, head: RequestHead) -> str | None:
        data = head.body(self.cap)
        return None if not data else self._field(data)

    def _field(self, data: bytes) -> str | None:
        import json

        try:
            value = json.loads(data)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            return None
        for step in self._steps:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and len(step) < 7 and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        if isinstance(value, str):
            return value
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


class User:
    """The primary key of the framework's authenticated user."""

    __slots__ = ()
    spec = "user"
    # A session's cookie, or what RFC 9110 §11 knows; whichever the framework goes by.
    vary: str | None = "Cookie, Authorization"
    in_url = False

    def read(self, head: RequestHead) -> str | None:
        return head.user()

    def __repr__(self) -> str:
        return "by_user()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, User)

    def __hash__(self) -> int:
        return hash("user")


class Session:
    """A value of the framework's session, or the session's own key."""

    __slots__ = ("name",)
    vary: str | None = "Cookie"
    in_url = False

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    @property
    def spec(self) -> str:
        return "session" if self.name is None else f"session:{self.name}"

    def read(self, head: RequestHead) -> str | None:
        return head.session(self.name)

    def __repr__(self) -> str:
        return f"by_session({self.name!r})" if self.name else "by_session()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self.name == other.name

    def __hash__(self) -> int:
        return hash(("session", self.name))


class Custom:
    """What a function of the app's own makes of the framework's request object."""

    __slots__ = ("_function", "spec")
    vary: str | None = None
    in_url = False

    def __init__(self, function: Callable[..., object]) -> None:
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & 0x80:  # inspect.CO_COROUTINE; importing inspect costs 10 ms
            raise ConfigError(
                f"key function {function!r} is async: an identity is read before the request is dispatched, "
                "so it must be a plain def that only looks at the request"
            )
        self._function = function
        self.spec = f"call:{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"

    def read(self, head: RequestHead) -> str | None:
        value = self._function(head.native)
        return value if value is None or isinstance(value, str) else str(value)

    def __repr__(self) -> str:
        return f"by_callable({self._function!r})"


class Unreadable:
    """A key function of the app's, known by its name only where the app's code is not: no identity is found there."""

    __slots__ = ("spec",)
    vary: str | None = None
    in_url = False

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def read(self, head: RequestHead) -> str | None:
        return None

    def __repr__(self) -> str:
        return f"Unreadable({self.spec!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unreadable) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)


class Client:
    """
    The client's address: the connection's peer, or, behind trusted proxies only, what they say of it.

    ``X-Forwarded-For`` is read from the right; the first address that is no trusted proxy is the client, its port left
    out. A header from anywhere else is a claim and is not read.

    Args:
        trusted: networks such as ``"10.0.0.0/8"``; None takes the plan's ``trusted_proxies``.
    """

    __slots__ = ("_networks", "trusted")
    spec = "client"
    vary: str | None = None
    in_url = False

    def __init__(self, trusted: Iterable[str] | None = None) -> None:
        self.trusted = None if trusted is None else tuple(trusted)
        self._networks: tuple[Any, ...] = tuple(_network(text) for text in self.trusted or ())

    def read(self, head: RequestHead) -> str | None:
        peer = head.peer
        if not self._networks or peer is None or not self._is_trusted(peer):
            return peer
        forwarded = head.header("x-forwarded-for")
        for hop in reversed((forwarded or "").split(",")):
            address = _without_port(hop.strip())
            if not address:
                continue
            if not self._is_trusted(address):
                return address
            peer = address
        return peer

    def _is_trusted(self, address: str) -> bool:
        from ipaddress import ip_address

        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)

    def __repr__(self) -> str:
        return f"by_client(trusted={self.trusted!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Client) and self.trusted == other.trusted

    def __hash__(self) -> int:
        return hash(("client", self.trusted))


def _without_port(hop: str) -> str:
    """The address of ``203.0.113.7:5123`` or ``[2001:db8::1]:443``: some proxies send ports, new per connection."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    address, _, port = hop.partition(":")
    return address if port.isdecimal() else hop


def _network(text: str) -> Any:  # Any: ipaddress is imported lazily
    from ipaddress import ip_network

    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted proxy {text!r} is no network: write for example 10.0.0.0/8 ({error})") from error


class Anonymous:
    """
    A cookie of ours with a random id, set when the request has none; one for all rollouts.

    Args:
        cookie: its name.
        secret: signs the id with HMAC-SHA256, so that nobody can choose a bucket; None leaves it unsigned.
        max_age_s, path, domain, secure, httponly, same_site: the cookie's attributes.
    """

    __slots__ = ("_suffix", "cookie", "is_bound", "secret")
    spec = "anonymous"
    vary: str | None = "Cookie"
    in_url = False

    def __init__(
        self,
        cookie: str = "canary_id",
        *,
        secret: str | bytes | None = None,
        max_age_s: int = 365 * 24 * 3600,
        path: str = "/",
        domain: str | None = None,
        secure: bool = True,
        httponly: bool = True,
        same_site: str | None = "Lax",
    ) -> None:
        if not is_header_name(cookie):
            raise ConfigError(f"anonymous cookie name {cookie!r} is not a token (RFC 6265 §4.1.1): write canary_id")
        if same_site not in ("Lax", "Strict", "None", None):
            raise ConfigError(f"anonymous same_site is {same_site!r}: must be Lax, Strict, None or left out")
        if any(c in text for text in (path, domain or "") for c in ";,\r\n\t "):
            raise ConfigError(f"anonymous path {path!r} or domain {domain!r} holds what a cookie cannot carry")
        self.cookie = cookie
        self.secret = secret.encode() if isinstance(secret, str) else secret
        self._suffix = (
            f"; Max-Age={max_age_s}; Path={path}"
            + (f"; Domain={domain}" if domain else "")
            + ("; Secure" if secure else "")
            + ("; HttpOnly" if httponly else "")
            + (f"; SameSite={same_site}" if same_site else "")
        )
        self.is_bound = True

    @classmethod
    def unbound(cls) -> Anonymous:
        """The source as a plan names it: its options come from the plan's ``[anonymous]`` table."""
        source = cls()
        source.is_bound = False
        return source

    def read(self, head: RequestHead) -> str | None:
        value = head.cookie(self.cookie)
        if not value:
            return None
        if self.secret is None:
            return value
        identity, _, signature = value.rpartition(".")
        return identity if identity and _same(signature, self._sign(identity)) else None

    def set_cookie(self, identity: str) -> str:
        """The value of the ``Set-Cookie`` header that gives the client *identity*."""
        value = identity if self.secret is None else f"{identity}.{self._sign(identity)}"
        return f"{self.cookie}={value}{self._suffix}"

    def _sign(self, identity: str) -> str:
        from hmac import digest

        return digest(self.secret or b"", identity.encode("utf-8", "replace"), "sha256").hex()

    def __repr__(self) -> str:
        return f"anonymous({self.cookie!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anonymous) and (self.cookie, self.secret, self._suffix, self.is_bound) == (
            other.cookie,
            other.secret,
            other._suffix,
            other.is_bound,
        )

    def __hash__(self) -> int:
        return hash(("anonymous", self.cookie))


def _same(left: str, right: str) -> bool:
    from hmac import compare_digest

    # compare_digest refuses non-ASCII text, and a forger may send it.
    return compare_digest(left.encode("utf-8", "replace"), right.encode("utf-8", "replace"))


def identity_text(identity: object) -> str | None:
    """
    *identity* as the text that is hashed: a number is its decimal text, so that a primary key needs no ``str()``.

    Raises:
        TypeError: it is neither text nor a number; says what to pass.
    """
    if identity is None or isinstance(identity, str):
        return identity
    if isinstance(identity, int) and not isinstance(identity, bool):
        return str(int(identity))
    raise TypeError(
        f"an identity is text or an int, not {type(identity).__name__}: pass str(...) of what names the user"
    )


def is_usable(identity: str | None) -> bool:
    """Whether *identity* may be hashed: not absent, not empty, not longer than MAX_IDENTITY_BYTES."""
    if not identity:
        return False
    return len(identity.encode("utf-8", "surrogatepass")) <= MAX_IDENTITY_BYTES


_NAMED: Final[dict[str, Callable[[str], Source]]] = {
    "header": Header,
    "cookie": Cookie,
    "query": Query,
    "path": PathParameter,
    "json": JsonField,
    "session": Session,
}
_BARE: Final[dict[str, Callable[[], Source]]] = {
    "user": User,
    "session": Session,
    "client": Client,
    "anonymous": Anonymous.unbound,
}


def parse_source(spec: str) -> Source:
    """The source that *spec* names in a plan file. Raises ConfigError that lists the known kinds."""
    kind, colon, name = spec.partition(":")
    if colon and kind in _NAMED:
        return _NAMED[kind](name)
    if not colon and kind in _BARE:
        return _BARE[kind]()
    known = ", ".join([*(f"{k}:<name>" for k in _NAMED), *_BARE])
    raise ConfigError(f"key source {spec!r} is not known: must be one of {known}")


def by_header(name: str) -> Source:
    """The first request header called *name*."""
    return Header(name)


def by_cookie(name: str) -> Source:
    """The first cookie called *name*."""
    return Cookie(name)


def by_query(name: str) -> Source:
    """The first query parameter called *name*."""
    return Query(name)


def by_path(name: str) -> Source:
    """What ``{name}`` of the rollout's endpoint template stands for."""
    return PathParameter(name)


def by_json(path: str, *, cap: int = 64 * 1024) -> Source:
    """A text or integer field of the JSON body, by dotted *path*; bodies over *cap* bytes are not looked into."""
    return JsonField(path, cap)


def by_user() -> Source:
    """The framework's authenticated user: Django's and Starlette's ``request.user``, Flask-Login's ``_user_id``."""
    return User()


def by_session(name: str | None = None) -> Source:
    """The framework's session: its key, or the value stored under *name*."""
    return Session(name)


def by_client(trusted: Iterable[str] | None = None) -> Source:
    """The client's address; forwarded addresses only from *trusted* proxies (networks such as ``"10.0.0.0/8"``)."""
    return Client(trusted)


def by_callable(function: Callable[..., object]) -> Source:
    """
    What *function* makes of the request: HttpRequest (Django), Request (Flask), scope (ASGI), environ (WSGI).

    It returns text, something with a meaningful ``str``, or None; it must not block or do I/O.
    """
    return Custom(function)


def anonymous(
    cookie: str = "canary_id",
    *,
    secret: str | bytes | None = None,
    max_age_s: int = 365 * 24 * 3600,
    path: str = "/",
    domain: str | None = None,
    secure: bool = True,
    httponly: bool = True,
    same_site: str | None = "Lax",
) -> Source:
    """
    A cookie of ours with a random id, set only when the request has none. Put it last: it always yields a value.

    Args:
        cookie: its name; the same in every rollout, so that one visitor has one id.
        secret: signs the id (HMAC-SHA256); a forged cookie is replaced by a new one.
        max_age_s: seconds until the browser forgets it, by default a year.
        secure: send over HTTPS only; set False for development over plain HTTP.
        same_site: ``"Lax"``, ``"Strict"``, ``"None"``, or None to leave it out.
    """
    return Anonymous(
        cookie,
        secret=secret,
        max_age_s=max_age_s,
        path=path,
        domain=domain,
        secure=secure,
        httponly=httponly,
        same_site=same_site,
    )
