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
from typing import TYPE_CHECKING, Final, NoReturn

from rich.markup import escape

from tests.support.servers import ServerFailed

from . import acts, checks, figures, report
from .screen import Screen, open_console
from .service import APP, Service, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.otlp import Span

WEIGHT: Final = 10
_PERSONALIZED: Final = "/api/v2/recommend/personalized"


def main() -> int:
    """Play both acts; however they end, nothing is left running."""
    # So that `kill` and a closed terminal unwind like Ctrl-C does, and the service is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    screen = Screen(open_console())
    started = time.monotonic()
    try:
        found = [*_split(screen), *_fallback(screen)]
    except KeyboardInterrupt:
        screen.console.print("\n   Stopped; nothing is left running.")
        return 130
    except (ServerFailed, OSError) as error:
        screen.console.print(f"\n   [bold red]The demo could not go on.[/] {escape(str(error))}")
        return 1
    _next_steps(screen)
    return verdict(screen, found, time.monotonic() - started)


def _split(screen: Screen) -> list[checks.Check]:
    screen.heading(1, f"Two versions of an API in one process, {WEIGHT} % of the users on v2")
    with _service(screen, {"API_V2_TRAFFIC_PERCENTAGE": str(WEIGHT)}) as service:
        visitors = acts.everybody()
        with screen.counting(3 * len(visitors)) as watch:
            outcome = acts.play(service, visitors, watch)
        rate = len(outcome.answers) / outcome.elapsed_s
        screen.show(f"[dim]{len(visitors):,} users over seven endpoints, {rate:,.0f} requests per second.[/]\n")
        screen.show(report.split(WEIGHT, outcome.answers))
        screen.show(report.expectation(WEIGHT, len(visitors)))

        screen.heading(2, "What the service's own telemetry says, as it arrived over OTLP")
        screen.show(report.latencies(service.otlp))
        screen.show("[dim]From the histogram canary.server.request.duration, interpolated in its buckets.[/]\n")
        screen.show(report.spans(service.otlp, _one_each(service)))
        found = checks.of_split(service, outcome.answers)
    screen.console.print()
    screen.show(report.verdicts(found))
    return found


def _fallback(screen: Screen) -> list[checks.Check]:
    screen.heading(3, f"v2 breaks: one request in {acts.FAULT_EVERY} of its raises, at {acts.FAULT_WEIGHT} %")
    settings = {"API_V2_TRAFFIC_PERCENTAGE": str(acts.FAULT_WEIGHT), "RECOMMENDER_V2_FAULT": acts.FAULT}
    with _service(screen, settings) as service:
        visitors = acts.glancers()
        with screen.counting(len(visitors)) as watch:
            outcome = acts.play(service, visitors, watch)
        screen.console.print()
        screen.show(report.rescue(figures.line(service.otlp, "v2"), outcome.answers))
        screen.console.print()
        screen.show(report.spans(service.otlp, figures.rescued(service.otlp)[:1]))
        found = checks.of_fallback(service, outcome.answers)
    screen.console.print()
    screen.show(report.verdicts(found))
    return found


@contextmanager
def _service(screen: Screen, settings: Mapping[str, str]) -> Iterator[Service]:
    with ExitStack() as stack:
        with screen.waiting("[dim]Starting uvicorn, and an OTLP receiver beside it …[/]"):
            service = stack.enter_context(running(settings))
        screen.show(f"[dim]{' '.join(f'{k}={v}' for k, v in settings.items())} uvicorn {APP}[/]")
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
    screen.heading(4, "Your turn")
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    screen.show(f"[bold]API_V2_TRAFFIC_PERCENTAGE=50 {shlex.quote(str(shown))} -m uvicorn {APP}[/]")
    screen.show(
        f"[bold]curl -si http://127.0.0.1:8000{_PERSONALIZED} \\\n"
        """     -H 'content-type: application/json' -d '{"user_id": "you"}' | grep -i x-canary[/]"""
    )


def verdict(screen: Screen, found: list[checks.Check], elapsed_s: float) -> int:
    """The last line, and the exit code that it stands for."""
    failed = sum(not check.holds for check in found)
    screen.console.print()
    if failed:
        screen.show(
            f"[bold red]{failed} of {len(found)} checks failed[/] after {elapsed_s:.0f} s; they are marked ✗ above."
        )
        return 1
    screen.show(f"[bold green]All {len(found)} checks hold.[/] [dim]{elapsed_s:.0f} s, and nothing is left running.[/]")
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
