"""
The demo from start to end. Exit code 0 where everything shown is also true, else 1.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NoReturn

from rich.markup import escape

from tests.support.servers import ServerFailed

from . import acts, checks, figures, report
from .climbing import climb
from .screen import Screen, open_console
from .service import APP, JUDGED, STAGED, Service, running
from .steering import steer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.otlp import Span

    from .climbing import Climb

WEIGHT: Final = 10
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PERSONALIZED: Final = "/api/v2/recommend/personalized"


def main() -> int:
    """Play all acts; however they end, nothing is left running."""
    # So that `kill` and a closed terminal unwind like Ctrl-C does, and the service is stopped.
    for number in _ENDINGS:
        signal.signal(number, _interrupt)
    screen = Screen(open_console())
    started = time.monotonic()
    screen.gap()
    screen.show("[bold]A recommendation API on FastAPI: v1 and v2 in one process.[/]")
    screen.show("[dim]Real HTTP requests to uvicorn; its telemetry arrives here, over OTLP.[/]")
    try:
        found = [*_split(screen), *_steering(screen), *_fallback(screen), *_climbing(screen)]
    except KeyboardInterrupt:
        screen.console.print("\n   Stopped; nothing is left running.")
        return 130
    except (ServerFailed, OSError) as error:
        screen.console.print(f"\n   [bold red]The demo could not go on.[/] {escape(str(error))}")
        return 1
    _next_steps(screen)
    return verdict(screen, found, time.monotonic() - started)


def _split(screen: Screen) -> list[checks.Check]:
    screen.heading(1, f"v2 for {WEIGHT} % of the users, each user always on the same version")
    with _service(screen, {"API_V2_TRAFFIC_PERCENTAGE": str(WEIGHT)}) as service:
        visitors = acts.everybody()
        screen.gap()
        with screen.counting(3 * len(visitors)) as watch:
            outcome = acts.play(service, visitors, watch)
        rate = len(outcome.answers) / outcome.elapsed_s
        screen.show(f"[dim]{len(visitors):,} users, three requests each over seven endpoints, {rate:,.0f} a second.[/]")
        screen.gap()
        screen.show(report.split(WEIGHT, outcome.answers))
        screen.gap()
        screen.show(report.expectation(WEIGHT, len(visitors)))

        screen.heading(2, "What the service's own telemetry says, as it arrived over OTLP")
        screen.show(report.latencies(service.otlp))
        screen.show("[dim]Milliseconds, from the histogram canary.server.request.duration.[/]")
        screen.gap()
        screen.show(report.spans(service.otlp, _one_each(service)))
        found = checks.of_split(service, outcome.answers)
    screen.gap()
    screen.show(report.verdicts(found))
    return found


def _steering(screen: Screen) -> list[checks.Check]:
    screen.heading(3, "One command, and every worker serves the new split")
    with TemporaryDirectory(prefix="canary-demo-") as folder:
        settings = {"RECOMMENDER_PLAN": str(STAGED), "CANARY_STORE": f"sqlite:///{folder}/canary.db"}
        with _service(screen, settings, workers=2) as service:
            screen.gap()
            with screen.waiting("[dim]Users keep coming while somebody types three commands …[/]"):
                run = steer(service, settings)
            screen.gap()
            screen.show(report.typed(service, run))
            screen.gap()
            screen.show(report.timeline(run))
            found = checks.of_steering(service, run)
    screen.gap()
    screen.show(report.verdicts(found))
    return found


def _fallback(screen: Screen) -> list[checks.Check]:
    screen.heading(4, f"v2 for {acts.FAULT_WEIGHT} %, and every third request to it fails")
    settings = {"API_V2_TRAFFIC_PERCENTAGE": str(acts.FAULT_WEIGHT), "RECOMMENDER_V2_FAULT": acts.FAULT}
    with _service(screen, settings) as service:
        visitors = acts.glancers()
        screen.gap()
        with screen.counting(len(visitors)) as watch:
            outcome = acts.play(service, visitors, watch)
        screen.gap()
        screen.show(report.rescue(figures.line(service.otlp, "v2"), outcome.answers))
        screen.gap()
        screen.show(report.spans(service.otlp, figures.rescued(service.otlp)[:1]))
        found = checks.of_fallback(service, outcome.answers)
    screen.gap()
    screen.show(report.verdicts(found))
    return found


def _climbing(screen: Screen) -> list[checks.Check]:
    screen.heading(5, "Nobody types: v2 climbs while the evidence is for it, and goes when it is against it")
    good = _climb(screen, {}, "[dim]A good release, started once …[/]")
    screen.gap()
    bad = _climb(
        screen, {"RECOMMENDER_V2_FAULT": acts.FAULT}, "[dim]The same, and every third request to it fails …[/]"
    )
    found = checks.of_climbing(good, bad)
    screen.gap()
    screen.show(report.verdicts(found))
    return found


def _climb(screen: Screen, further: Mapping[str, str], waiting: str) -> Climb:
    with TemporaryDirectory(prefix="canary-demo-") as folder:
        settings = {"RECOMMENDER_PLAN": str(JUDGED), "CANARY_STORE": f"sqlite:///{folder}/canary.db", **further}
        with _service(screen, settings, workers=2) as service:
            screen.gap()
            with screen.waiting(waiting):
                found = climb(service, settings)
    screen.gap()
    screen.show(report.climbed(found))
    return found


@contextmanager
def _service(screen: Screen, settings: Mapping[str, str], *, workers: int = 1) -> Iterator[Service]:
    with ExitStack() as stack:
        with screen.waiting("[dim]Starting uvicorn, and an OTLP receiver beside it …[/]"):
            service = stack.enter_context(running(settings, workers=workers))
        number = f" --workers {workers}" if workers > 1 else ""
        # A path's last part says enough, and the rest is different on every machine.
        shown = ", ".join(f"{key}={value.rpartition('/')[2]}" for key, value in settings.items())
        screen.show(f"[dim]$ uvicorn {APP}{number}\n  with {shown}[/]")
        yield service


def _one_each(service: Service) -> list[Span]:
    """A span of each version, of the endpoint that differs most."""
    ours = [span for span in figures.server_spans(service.otlp) if span.attributes.get("http.route") == _PERSONALIZED]
    return [
        next(span for span in ours if span.attributes.get("canary.version") == version)
        for version in report.VERSIONS
        if version in figures.versions(ours)
    ]


def _next_steps(screen: Screen) -> None:
    screen.heading(6, "Your turn")
    folder = _shown(Path(sys.executable).parent)
    plan = _shown(STAGED)
    screen.show("Start it, and ask as often as you like:\n")
    screen.show(f"[bold]RECOMMENDER_PLAN={plan} \\\n  {folder}/python -m uvicorn {APP} --workers 2[/]\n")
    screen.show(
        "[bold]for user in anna cleo dan ella ida kim; do\n"
        '  curl -si "127.0.0.1:8000/api/v2/conversations?user_id=$user" | grep canary\n'
        "done[/]\n"
    )
    screen.show("Then, from a second terminal here, move its users and watch them go:\n")
    screen.show(f"[bold]export CANARY_STORE=sqlite:///var/canary.db\n{folder}/canary start[/]")
    screen.show(f"[bold]{folder}/canary set 50[/]\n[bold]{folder}/canary status --watch[/]")


def _shown(path: Path) -> str:
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def verdict(screen: Screen, found: list[checks.Check], elapsed_s: float) -> int:
    """The last line, and the exit code that it stands for."""
    failed = sum(not check.holds for check in found)
    screen.gap()
    if failed:
        screen.show(
            f"[bold red]{failed} of {len(found)} checks failed[/] after {elapsed_s:.0f} s; they are marked ✗ above."
        )
        return 1
    screen.show(f"[bold green]All {len(found)} checks hold.[/] [dim]{elapsed_s:.0f} s, and nothing is left running.[/]")
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    # The service is being stopped from here on, and a second Ctrl-C must not interrupt that.
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
