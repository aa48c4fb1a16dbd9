"""Django: a URLconf per version, transactions that end before stable takes over, files, and what its checks say."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import by_session, by_user, current, handlers
from canary_middleware.errors import ConfigError
from canary_middleware.testing import recorded

from .django_project import OURS, USER, database, hit, hits, make, project, urlconf

if TYPE_CHECKING:
    from pathlib import Path

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
STORED = "django.contrib.sessions.backends.db"
SIGNED = "django.contrib.sessions.backends.signed_cookies"
USERS = "django.contrib.auth.middleware.AuthenticationMiddleware"


def answers(text: str, status: int = 200) -> Any:
    """A view."""

    def view(request: Any, **_: str) -> Any:
        from django.http import HttpResponse

        return HttpResponse(text, status=status)

    return view


def writes(text: str, then: Any = None, status: int = 200) -> Any:
    """A view that writes a row, and raises *then* or answers *status*."""

    def view(request: Any, **_: str) -> Any:
        from django.http import HttpResponse

        hit(text)
        if then is not None:
            raise then
        return HttpResponse(text, status=status)

    return view


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# -- a URLconf per version ------------------------------------------------------------------------------------------


def _two_urlconfs(v2: Any = None) -> tuple[Any, Any]:
    from django.http import HttpResponse
    from django.urls import path, reverse

    def where(request: Any) -> Any:
        return HttpResponse(reverse("item", args=[7]))

    first = urlconf([path("", where), path("old/<int:pk>/", answers("old"), name="item")])
    second = urlconf([path("", v2 or where), path("new/<int:pk>/", answers("new"), name="item")])
    return first, second


def test_each_version_has_its_own_urls_and_reverse_finds_them(is_async: bool) -> None:
    first, second = _two_urlconfs()

    with project(make(), first, is_async=is_async, CANARY_URLCONF={"v2": second}) as client:
        assert client(headers=USER).text == "/new/7/"
        assert client().text == "/old/7/"
        assert client(target="/new/7/", headers=USER).text == "new"
        assert client(target="/new/7/").status == 404


@pytest.mark.parametrize("failure", ["raises", "returns"])
def test_stable_reverses_its_own_urls_where_it_answers_for_the_canary(is_async: bool, failure: str) -> None:
    def broken(request: Any) -> Any:
        raise RuntimeError("v2")

    first, second = _two_urlconfs(broken if failure == "raises" else answers("", 503))

    with project(make(), first, is_async=is_async, CANARY_URLCONF={"v2": second}) as client:
        answer = client(headers=USER)

    assert (answer.status, answer.text, answer.header("X-Canary-Fallback")) == (200, "/old/7/", "1")


def test_a_request_that_stable_takes_over_is_finished_once(is_async: bool) -> None:
    from django.core.signals import request_finished
    from django.http import HttpResponse
    from django.urls import path

    finished: list[object] = []
    held = io.BytesIO()

    def broken(request: Any) -> Any:
        response = HttpResponse(status=503)
        response._resource_closers.append(held.close)
        return response

    def note(**_: object) -> None:
        finished.append(held.closed)

    with project(make(), urlconf([path("", handlers(answers("one"), broken))]), is_async=is_async) as client:
        request_finished.connect(note)
        try:
            answer = client(headers=USER)
        finally:
            request_finished.disconnect(note)

    assert answer.text == "one"
    assert finished == [True]


def test_a_request_that_no_rollout_covers_gets_the_root_urls(is_async: bool) -> None:
    first, second = _two_urlconfs()

    with project(make(endpoints=["/shop/*"]), first, is_async=is_async, CANARY_URLCONF={"v2": second}) as client:
        answer = client(headers=USER)

    assert (answer.text, answer.header("X-Canary-Version")) == ("/old/7/", None)


def test_the_request_carries_its_assignment_and_its_route() -> None:
    from django.http import HttpResponse
    from django.urls import path

    def view(request: Any, pk: int) -> Any:
        assert request.canary is current()
        return HttpResponse(request.canary.version)

    canary = make()

    with project(canary, urlconf([path("posts/<int:pk>/", view)])) as client, recorded(canary) as outcomes:
        assert client(target="/posts/7/", headers=USER).text == "v2"

    assert [o.route for o in outcomes] == ["/posts/<int:pk>/"]


# -- transactions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["handlers", "urlconf"])
@pytest.mark.parametrize("failure", ["raises", "returns"])
def test_a_canarys_transaction_is_rolled_back_before_stable_runs(is_async: bool, way: str, failure: str) -> None:
    from django.urls import path

    broken = writes("two", then=RuntimeError("v2")) if failure == "raises" else writes("two", status=503)
    seen: list[list[str]] = []

    def stable(request: Any, **_: str) -> Any:
        seen.append(hits())
        return writes("one")(request)

    if way == "handlers":
        urls, settings = urlconf([path("", handlers(stable, broken))]), {}
    else:
        urls = urlconf([path("", stable)])
        settings = {"CANARY_URLCONF": {"v2": urlconf([path("", broken)])}}

    with database(atomic=True):
        with project(make(), urls, is_async=is_async, **settings) as client:
            answer = client(headers=USER)
        rows = hits()

    assert (answer.status, answer.text) == (200, "one")
    assert (seen, rows) == ([[]], ["one"])


def test_what_a_canary_writes_is_committed_where_it_answers() -> None:
    from django.urls import path

    urls = urlconf([path("", handlers(writes("one"), writes("two"))), path("no", writes("no", status=404))])

    with database(atomic=True):
        with project(make(), urls) as client:
            client(headers=USER)
            client("POST", headers=USER)
            client(target="/no", headers=USER)
            client(headers={})
        rows = hits()

    assert rows == ["two", "two", "no", "one"]


def test_without_a_fallback_a_returned_503_commits_as_django_does() -> None:
    from django.urls import path

    with database(atomic=True):
        with project(make(fallback="never"), urlconf([path("", writes("two", status=503))])) as client:
            client(headers=USER)
        rows = hits()

    assert rows == ["two"]


def test_without_atomic_requests_nothing_is_rolled_back() -> None:
    from django.urls import path

    with database():
        urls = urlconf([path("", handlers(writes("one"), writes("two", status=503)))])
        with project(make(), urls) as client:
            client(headers=USER)
        rows = hits()

    assert rows == ["two", "one"]


def test_names_handlers_and_languages_work_under_atomic_requests() -> None:
    from django.conf.urls.i18n import i18n_patterns
    from django.http import HttpResponse
    from django.urls import include, path, reverse

    def lost(request: Any, exception: Exception) -> Any:
        return HttpResponse("lost", status=404)

    def where(request: Any) -> Any:
        found = [reverse("shop:item", args=[7]), reverse("by-name"), reverse(where), request.resolver_match.view_name]
        return HttpResponse(" ".join(found))

    shop = ([path("<int:pk>/", answers("item"), name="item")], "shop")
    urls = urlconf(
        [
            path("shop/", include(shop)),
            path("where/", where, name="by-name"),
            *i18n_patterns(path("home/", answers("home"))),
        ],
        handler404=lost,
    )
    middleware = [OURS, "django.middleware.locale.LocaleMiddleware"]

    with database(atomic=True), project(make(), urls, middleware=middleware, USE_I18N=True) as client:
        assert client(target="/where/", headers=USER).text == "/shop/7/ /where/ /where/ by-name"
        assert client(target="/shop/7/", headers=USER).text == "item"
        assert client(target="/nowhere/", headers=USER).text == "lost"
        assert client(target="/de/home/", headers=USER).text == "home"
        assert client(target="/home/", headers=USER).status == 302


# -- streams and files ----------------------------------------------------------------------------------------------


def test_a_file_stays_a_file_that_the_server_may_send_itself(tmp_path: Path) -> None:
    from django.http import FileResponse
    from django.urls import path

    (tmp_path / "file.bin").write_bytes(b"0123456789" * 10)
    wrapped: list[Any] = []

    class FileWrapper:
        """The server's, as wsgiref's."""

        def __init__(self, file: Any, size: int) -> None:
            self.file = file
            self.size = size
            wrapped.append(self)
            self.close = file.close

        def __iter__(self) -> FileWrapper:
            return self

        def __next__(self) -> bytes:
            data: bytes = self.file.read(self.size)
            if not data:
                raise StopIteration
            return data

    def view(request: Any) -> Any:
        return FileResponse((tmp_path / "file.bin").open("rb"))

    canary = make()
    urls = urlconf([path("", handlers(view, view))])

    with project(canary, urls) as client, recorded(canary) as outcomes:
        answer = client(headers=USER, environ={"wsgi.file_wrapper": FileWrapper}, validate=False)

    assert answer.body == b"0123456789" * 10
    assert [wrapper.file.name for wrapper in wrapped] == [str(tmp_path / "file.bin")]
    assert wrapped[0].file.closed
    assert (answer.header("Content-Length"), answer.header("X-Canary-Version")) == ("100", "v2")
    assert [(o.status, o.is_aborted) for o in outcomes] == [(200, False)]


def test_a_stream_is_not_gathered(is_async: bool) -> None:
    from django.http import StreamingHttpResponse
    from django.urls import path

    async def slowly() -> Any:
        for chunk in (b"a", b"b", b"c"):
            yield chunk

    def view(request: Any) -> Any:
        return StreamingHttpResponse(slowly() if is_async else iter([b"a", b"b", b"c"]))

    canary = make()

    with project(canary, urlconf([path("", view)]), is_async=is_async) as client, recorded(canary) as outcomes:
        answer = client(headers=USER)

    assert answer.chunks == [b"a", b"b", b"c"]
    assert [o.status for o in outcomes] == [200]


def test_a_view_may_read_a_body_as_a_file_after_us() -> None:
    from django.http import HttpResponse
    from django.urls import path

    from canary_middleware import by_json

    def view(request: Any) -> Any:
        return HttpResponse(request.read(5) + b"|" + request.read())

    with project(make(key=[by_json("id")]), urlconf([path("", view)])) as client:
        answer = client("POST", headers={"content-type": "application/json"}, body=b'{"id": "u"}')

    assert (answer.text, answer.header("X-Canary-Version")) == ('{"id"|: "u"}', "v2")


def test_a_body_that_django_would_refuse_to_hold_is_the_views_affair(is_async: bool) -> None:
    from django.http import HttpResponse
    from django.urls import path

    from canary_middleware import by_json

    def view(request: Any) -> Any:
        return HttpResponse(request.read())

    canary = make(key=[by_json("id")])
    headers = {"content-type": "application/json"}

    with project(canary, urlconf([path("", view)]), is_async=is_async, DATA_UPLOAD_MAX_MEMORY_SIZE=5) as client:
        answer = client("POST", headers=headers, body=b'{"id": "u"}')

    assert (answer.status, answer.text, answer.header("X-Canary-Version")) == (200, '{"id": "u"}', "v1")
    assert canary.internal_errors() == {}


def test_an_upload_without_a_length_over_the_cap_is_not_replayed() -> None:
    from django.http import HttpResponse
    from django.urls import path

    def view(request: Any) -> Any:
        return HttpResponse(str(len(request.read())), status=503)

    canary = make(fallback="idempotent", body_cap=1000)

    with project(canary, urlconf([path("", view)]), is_async=True) as client, recorded(canary) as outcomes:
        answer = client("PUT", headers={**USER, "transfer-encoding": "chunked"}, body=b"x" * 5000, chunk_size=100)

    assert (answer.status, answer.text) == (503, "5000")
    assert [(o.fell_back, o.missed) for o in outcomes] == [(False, "body")]


# -- system checks --------------------------------------------------------------------------------------------------


def _check(**settings: Any) -> list[Any]:
    """What ``manage.py check`` says of these settings, from us."""
    from django.core.checks import run_checks
    from django.test import override_settings

    given = {"CANARY": make(), "MIDDLEWARE": [OURS], "ROOT_URLCONF": "tests.contract.empty_urls", **settings}
    with override_settings(**given):
        return [message for message in run_checks() if (message.id or "").startswith("canary.")]


def _found(**settings: Any) -> list[str]:
    return [message.id for message in _check(**settings)]


def test_good_settings_pass_and_nothing_is_said_without_the_middleware() -> None:
    with project(make(), urlconf([])):
        assert _found() == []
        assert _found(MIDDLEWARE=[], CANARY=None) == []
        plan = {"schema": 1, "rollout": {"checkout": {"key": ["header:x"]}}}
        assert _found(CANARY=plan) == []


@pytest.mark.parametrize(
    ("settings", "identifier", "words"),
    [
        ({"CANARY": None}, "canary.E001", "CANARY is None"),
        ({"CANARY": "shop.canary.checkout"}, "canary.E001", "shop.canary.checkout"),
        ({"CANARY": "tests.contract.drivers.DRIVERS"}, "canary.E001", "must be a Canary"),
        ({"CANARY": {"schema": 1, "rollout": {"a": {"wieght": 1}}}}, "canary.E002", "weight"),
        ({"MIDDLEWARE": [OURS, OURS]}, "canary.E003", "twice"),
        ({"CANARY_URLCONF": {"v3": "shop.urls"}}, "canary.E004", "'v3'"),
        ({"CANARY_REWRITE": {"v1": "/v1", "v2": "v2/"}}, "canary.E005", "'v2/'"),
        ({"CANARY_REWRITE": {"v1": "/v1"}}, "canary.E005", "v2"),
        ({"SESSION_ENGINE": SIGNED, "CANARY": by_session, "MIDDLEWARE": [SESSIONS, OURS]}, "canary.E006", "by_user()"),
        (
            {"SESSION_ENGINE": STORED, "CANARY": by_session, "MIDDLEWARE": [OURS, SESSIONS]},
            "canary.W001",
            "SessionMiddleware",
        ),
        ({"MIDDLEWARE": [SESSIONS, OURS, USERS], "CANARY": by_user}, "canary.W002", "AuthenticationMiddleware"),
        ({"MIDDLEWARE": [OURS, "django.middleware.gzip.GZipMiddleware"]}, "canary.W003", "behind"),
        ({"MIDDLEWARE": [OURS, "django.middleware.cache.UpdateCacheMiddleware"]}, "canary.W003", "behind"),
    ],
)
def test_each_mistake_has_its_own_id_and_says_what_to_do(settings: dict[str, Any], identifier: str, words: str) -> None:
    given = settings.get("CANARY")
    if given in (by_session, by_user):
        settings = {**settings, "CANARY": make(key=[given()])}

    with project(make(), urlconf([])):
        messages = _check(**settings)

    assert [message.id for message in messages] == [identifier]
    assert words in messages[0].msg
    assert messages[0].hint


def test_manage_py_check_fails_on_our_errors() -> None:
    from django.core.management import CommandError, call_command

    with (
        project(make(), urlconf([]), middleware=[OURS, OURS]),
        pytest.raises(CommandError, match=r"canary\.E003"),
    ):
        call_command("check", stdout=io.StringIO(), stderr=io.StringIO())


def test_the_middleware_itself_names_what_is_wrong() -> None:
    from django.core.exceptions import ImproperlyConfigured

    with pytest.raises(ImproperlyConfigured, match="CANARY is None: must be a Canary"), project(None, urlconf([])):  # type: ignore[arg-type]
        pass


def test_a_session_key_that_changes_at_every_save_is_refused_and_what_the_session_holds_is_not() -> None:
    from django.test import override_settings

    with override_settings(SESSION_ENGINE=SIGNED):
        with pytest.raises(ConfigError, match="by_user"), project(make(key=[by_session()]), urlconf([])):
            pass
        with project(make(key=[by_session("cart"), by_user()]), urlconf([])):
            pass
