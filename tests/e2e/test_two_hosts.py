"""Workers on two hosts, one Redis: a change typed on one is in force on the other when the command returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from canary_middleware._core.assignment.bucketing import bucket
from tests.support.hosts import Host, two_hosts
from tests.support.needs import need
from tests.support.servers import ROOT
from tests.support.wait import eventually

if TYPE_CHECKING:
    from pathlib import Path

APP = "tests.e2e.apps.administered:wsgi_app"
PORT = 8000
USERS = [f"user-{n}" for n in range(30)]
# Asks both services from whichever host it runs on: prints user → version, per service.
ASK = """
import json, sys
sys.path.insert(0, {root!r})
from tests.support.client import Client
found = []
for url in {urls!r}:
    versions = {{}}
    for user in {users!r}:
        with Client(url) as client:
            versions[user] = client.get("/", x_user_id=user).text
    found.append(versions)
print(json.dumps(found))
"""


class Fleet:
    """Two hosts with a service each, and an operator at the first."""

    def __init__(self, one: Host, two: Host, folder: Path) -> None:
        need("redis-server", "redis-server")
        self.one = one
        self.urls = [f"http://{host.address}:{PORT}" for host in (one, two)]
        redis = ["redis-server", "--bind", one.address, "--port", "6390", "--save", "", "--protected-mode", "no"]
        one.popen(redis, cwd=folder)
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CANARY_")},
            "CANARY_STORE": f"redis://{one.address}:6390/0",
            "CANARY_ADMIN_TOKEN": "a-token-of-some-length",
            "CANARY_ACTOR": "ada",
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        }
        for number, host in enumerate((one, two)):
            state = {"CANARY_STATE_DIR": str(folder / f"state-{number}")}
            words = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"{host.address}:{PORT}", APP]
            host.popen(words, cwd=ROOT, env=self.env | state, stderr=subprocess.DEVNULL)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.one.command([sys.executable, *words])
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)

    def versions(self) -> list[dict[str, str]]:
        done = self.run("-c", ASK.format(root=str(ROOT), urls=self.urls, users=USERS))
        assert done.returncode == 0, done.stderr
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    def canary(self, *words: str) -> Any:
        done = self.run("-m", "canary_middleware.cli", *words, "--json")
        return json.loads(done.stdout) if done.stdout else done.stderr

    def is_up(self) -> bool:
        try:
            self.versions()
        except AssertionError:
            return False
        status = self.canary("status")
        return isinstance(status, dict) and len(status.get("workers", ())) == 4


def test_a_change_on_one_host_is_in_force_on_the_other(tmp_path: Path) -> None:
    with two_hosts() as (one, two):
        fleet = Fleet(one, two, tmp_path)
        eventually(fleet.is_up, timeout=40, interval=0.3)

        for words, weight in ((("start",), 10), (("set", "45"), 45), (("emergency",), 0)):
            changed = fleet.canary(*words)
            result = changed[0] if isinstance(changed, list) else changed
            expected = {u: "v2" if bucket(u, salt="checkout") < weight * 10_000 else "v1" for u in USERS}

            assert result["weight"] == weight
            assert len(result["workers"]["served"]) == 4
            assert fleet.versions() == [expected, expected]
