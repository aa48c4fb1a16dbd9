"""Which URL opens which store, and what a wrong one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from canary_middleware.errors import ConfigError
from canary_middleware.stores import open_store

SRC = str(Path(__file__).resolve().parents[2] / "src")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("sqlite:////var/lib/canary.db", "sqlite:////var/lib/canary.db"),
        ("redis://", "redis://localhost:6379/0"),
        ("redis://cache/3", "redis://cache:6379/3"),
        ("redis://[::1]:7000", "redis://[::1]:7000/0"),
        ("rediss://me:s3cr%40t@cache:6390/1?prefix=shop", "rediss://me@cache:6390/1?prefix=shop"),
        ("redis://:s3cr%40t@cache", "redis://cache:6379/0"),
        (
            "redis+sentinel://:s3cr%40t@a:26380,b/main/2?sentinel_password=s3cr%40t",
            "redis+sentinel://a:26380,b:26379/main/2",
        ),
        ("redis+cluster://me:s3cr%40t@a:7001,b", "redis+cluster://me@a:7001,b:6379"),
    ],
)
def test_every_form_opens_without_connecting_and_shows_no_password(url: str, shown: str) -> None:
    store = open_store(url)

    assert store.url == shown
    assert "s3cr" not in repr(vars(store))


def test_a_relative_path_is_relative_to_where_the_process_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert open_store("sqlite:///var/canary.db").url == f"sqlite:///{tmp_path}/var/canary.db"


def test_a_store_is_returned_as_it_is() -> None:
    store = open_store("memory:")

    assert open_store(store) is store


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://var/canary.db", "sqlite:///var/canary.db"),
        ("sqlite:var/canary.db", "sqlite:///var/canary.db"),
        ("sqlite:/var/canary.db", "sqlite:////var/canary.db"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "write memory:"),
        ("sqlite:///a.db?mode=ro", "takes no options"),
        ("memory:shared", "write memory: alone"),
        ("var/canary.db", "sqlite:///var/canary.db"),
        ("", "has no scheme"),
        ("sqlit:///a.db", "did you mean 'sqlite'?"),
        ("reddis://host", "did you mean 'redis'?"),
        ("postgres://host", "known are memory:"),
        ("redis:host", "redis://host:6379/0"),
        ("redis://host:99999", "host and port"),
        ("redis://host/zero", "not a number"),
        ("redis://a,b", "names 2 hosts"),
        ("redis://host?prefx=a", "did you mean 'prefix'?"),
        ("redis://host?prefix=a{b}", "A–Z"),
        ("redis://host?ssl_ca_certs=/a.pem", "write rediss://"),
        ("redis+sentinel://host", "names no master"),
        ("redis+cluster://host/3", "has only one"),
    ],
)
def test_a_wrong_form_is_told_the_right_one(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)

    assert said in str(caught.value)


@pytest.mark.parametrize("url", ["redis://:s3cr3t@ho st:1/x", "redis://:s3cr3t@a/b/c", "redsi://:s3cr3t@host"])
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)

    assert "s3cr3t" not in str(caught.value)


def test_without_redis_py_the_error_says_what_to_install() -> None:
    code = (
        f"import sys; sys.path.insert(0, {SRC!r}); sys.modules['redis'] = None\n"
        "from canary_middleware.stores import open_store\n"
        "try: open_store('redis://:s3cr3t@host')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("ConfigError")
    assert "pip install canary-middleware[redis]" in done.stdout
    assert "s3cr3t" not in done.stdout


def test_a_backend_is_imported_when_its_url_is_opened() -> None:
    code = (
        f"import sys; sys.path.insert(0, {SRC!r})\n"
        "from canary_middleware.stores import open_store; open_store('memory:')\n"
        "print({'redis', 'sqlite3'} & set(sys.modules))\n"
    )

    # Coverage, where it measures this suite, imports sqlite3 into every process it follows.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)

    assert done.stdout.strip() == "set()"
