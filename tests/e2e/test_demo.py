"""
``make demo``: it ends with 0 and true figures where there is no terminal, and leaves nothing running however it ends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from canary_middleware import Canary
from examples.demo import checks, figures, steering
from examples.demo.__main__ import verdict
from examples.demo.screen import Screen, open_console
from examples.demo.service import PLAN, Service
from examples.demo.traffic import Answer
from tests.support.otlp import OtlpReceiver
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@contextmanager
def demo(mark: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as ``make`` starts it, without a terminal. Its processes carry *mark* in their environment."""
    environ = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS", "TERM")}
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "DEMO_MARK": mark}
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def left_running(mark: str) -> list[int]:
    """The processes that were started with *mark* in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"DEMO_MARK={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_demo_shows_true_figures_without_a_terminal() -> None:
    mark = f"plain-{os.getpid()}"
    started = time.monotonic()
    with demo(mark) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert time.monotonic() - started < 80
    assert "\x1b" not in output
    assert "\r" not in output
    assert max(map(len, output.splitlines())) <= 100
    assert "3,000/3,000" in output
    assert "canary.version=v1" in output
    assert "canary.version=v2" in output
    assert re.search(r"users saw +0 +errors", output)
    assert "✗" not in output
    assert output.count("2 of 2 workers at revision") == 3
    assert "controller complete → completed: the bake is over" in output
    assert re.search(r"controller rollback → 0 %: v2 fails more often than v1", output)
    assert left_running(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_leaves_nothing_running_when_it_is_stopped_in_the_middle(number: signal.Signals) -> None:
    mark = f"stopped-{number}-{os.getpid()}"
    with demo(mark) as process:
        assert process.stdout is not None
        # The first tally: traffic is flowing.
        for line in process.stdout:
            if "/3,000" in line:
                break
        eventually(lambda: len(left_running(mark)) >= 2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert left_running(mark) == []


def answer(user: str, version: str, status: int = 200) -> Answer:
    return Answer(user=user, status=status, version=version, is_fallback=False)


def test_demo_says_so_when_a_user_changed_version_or_the_telemetry_is_incomplete() -> None:
    service = Service("", OtlpReceiver(), Canary.load(PLAN, environ={"API_V2_TRAFFIC_PERCENTAGE": "0"}))
    found = checks.of_split(service, [answer("anna", "v1"), answer("anna", "v2"), answer("ben", "v1", status=500)])

    assert [check.holds for check in found] == [False] * 6
    assert "anna" in found[1].found
    assert "ben" not in found[2].found
    assert "v1 0, v2 0; the users saw v1 2, v2 1" in found[3].found


def test_demo_says_so_when_a_worker_missed_a_command_or_a_request_was_lost() -> None:
    plan = {"rollout": {"recommendations": {"stages": [10, 50]}}}
    service = Service("", OtlpReceiver(), Canary.load(plan, environ={}))
    late = next(user for user in map(str, range(100)) if steering.is_canary_at(service, user, 50))
    commands = [steering.Command(("set", "50"), 50.0, typed=1.0, returned=2.0, output="", exit_code=4)]
    answers = [Answer(user=late, status=500, version="v1", is_fallback=False, begun=9.0)]

    found = checks.of_steering(service, steering.Run(answers, commands))
    in_time = checks.of_steering(service, steering.Run([replace(answers[0], begun=1.5)], commands))

    assert [check.holds for check in found] == [False, False, False, True]
    assert late in found[2].found
    assert in_time[3].says.startswith("The split followed within 0.5 s")


def test_demo_ends_with_1_when_a_check_fails(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(open_console())
    held, failed = checks.Check(True, "One holds", "it did not"), checks.Check(False, "One fails", "3 were lost")

    assert verdict(screen, [held], 1.0) == 0
    assert verdict(screen, [held, failed], 1.0) == 1
    assert "1 of 2 checks failed" in capsys.readouterr().out


def test_quantiles_are_interpolated_in_their_bucket() -> None:
    inf = float("inf")

    assert figures.quantile({0.1: 50, 0.2: 50, inf: 0}, 0.50) == pytest.approx(0.1)
    assert figures.quantile({0.1: 50, 0.2: 50, inf: 0}, 0.95) == pytest.approx(0.19)
    assert figures.quantile({0.1: 0, 0.2: 0, inf: 4}, 0.50) == 0.2
    assert figures.quantile({0.1: 0, inf: 0}, 0.50) == 0.0
