"""
Prometheus as the judge's source: raw counters of ``canary.server.request.duration``, differenced here.

Raw, because ``increase()`` extrapolates: the judge counts requests, and must not count some that never were. Its being
away is never a reason to roll back: it is said, and the rollout holds.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from math import floor, isfinite, sqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from .._core.evidence.tick import Side, Tick
from .._core.plan.durations import bucket
from .._core.tallies import OTEL_BOUNDS_S, UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._core.plan.schema import MetricsSource

METRIC: Final = "canary_server_request_duration_seconds_bucket"
TIMEOUT_S: Final = 5.0
LARGEST_ANSWER: Final = 10_000_000
MOST_STEPS: Final = 240
"""Ticks that are asked for at once; whoever was away for long catches up round by round."""
_TALLEST: Final = "+Inf"
# Labels that only say which request it was; whatever tells processes apart stays.
_SUMMED: Final = "http_route, http_request_method, http_response_status_code"


class SourceAway(Exception):
    """Prometheus cannot tell; says why, and who must do what."""


class Window(NamedTuple):
    """What all versions did in one step: version → Side, from *begin* (Unix seconds) on."""

    begin: float
    sides: Mapping[str, Side]


class PrometheusSource:
    """
    Reads one rollout's ticks.

    Args:
        options: of the plan.
        rollout: its name.
        environ: where the token's variable is.
    """

    def __init__(self, options: MetricsSource, rollout: str, environ: Mapping[str, str] | None = None) -> None:
        self.options = options
        self._rollout = rollout
        self._environ = os.environ if environ is None else environ

    def read(self, since_s: float, now_s: float) -> list[Window]:
        """
        The steps that begin after *since_s* and are complete at *now_s*, oldest first; perhaps none yet.

        Raises:
            SourceAway: it does not answer, or holds nothing of this rollout.
        """
        step = self.options.step_s
        end = floor((now_s - self.options.delay_s) / step) * step
        begin = max(floor(since_s / step) * step + step, end - MOST_STEPS * step)
        if end <= begin:
            return []
        series = self._ask(begin, end)
        if not series:
            raise SourceAway(
                f"prometheus: {self.options.prometheus} has no {METRIC} of rollout {self._rollout!r}: let it scrape "
                "the service (docs/prometheus.md)"
            )
        known = _first_seen(series)
        found: dict[float, dict[str, _Sum]] = {}
        for labels, samples in series:
            # A process that was there before has counted a new kind of outcome from nothing.
            is_new = bool(samples) and known[_process(labels)] < samples[0][0]
            before = [(samples[0][0] - step, 0.0)] if is_new else []
            for at, new in _increases([*before, *samples], step):
                version = found.setdefault(at - step, {}).setdefault(labels.get("canary_version", ""), _Sum())
                version.add(labels, new)
        steps = [begin + n * step for n in range(round((end - begin) / step))]
        return [Window(at, {v: one.side() for v, one in found.get(at, {}).items()}) for at in steps]

    def _ask(self, begin: float, end: float) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        rollout = self._rollout.replace("\\", "\\\\").replace('"', '\\"')
        query = f'sum without ({_SUMMED}) ({METRIC}{{canary_rollout="{rollout}"}})'
        asked = {"query": query, "start": begin, "end": end, "step": self.options.step_s, "timeout": f"{TIMEOUT_S:g}s"}
        # http or https: the plan is checked for it.
        request = Request(f"{self.options.prometheus}/api/v1/query_range?{urlencode(asked)}")  # noqa: S310
        token = self._environ.get(self.options.token_env or "", "")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        return list(_parsed(self._fetched(request)))

    def _fetched(self, request: Request) -> Any:  # Any: JSON of somebody else's
        place = self.options.prometheus
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                body = answer.read(LARGEST_ANSWER + 1)
        except HTTPError as error:
            with error:
                said = error.read(300).decode("utf-8", "replace")
            raise SourceAway(f"prometheus: {place} answers {error.code}: {said.strip() or error.reason}") from error
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise SourceAway(f"prometheus: {place} does not answer ({reason}): start it, or mend `source`") from error
        if len(body) > LARGEST_ANSWER:
            raise SourceAway(f"prometheus: {place} answers more than {LARGEST_ANSWER:,} bytes: make `step` longer")
        try:
            return json.loads(body)
        except ValueError as error:
            raise SourceAway(f"prometheus: {place} answers no JSON: is it Prometheus's HTTP API?") from error


def _parsed(answer: Any) -> Iterator[tuple[Mapping[str, str], list[tuple[float, float]]]]:
    try:
        if answer["status"] != "success":
            raise SourceAway(f"prometheus: it answers {answer.get('error', answer['status'])}")
        for series in answer["data"]["result"]:
            samples = [(float(at), float(value)) for at, value in series["values"]]
            # A counter that is no number says nothing.
            yield dict(series["metric"]), [(at, value) for at, value in samples if isfinite(value) and value >= 0]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceAway(f"prometheus: its answer cannot be read ({error!r})") from error


_OF_REQUESTS: Final = frozenset({"le", "error_type", "canary_version", "canary_rollout", "__name__"})


def _process(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """What tells the process apart that counted a series."""
    return frozenset((name, value) for name, value in labels.items() if name not in _OF_REQUESTS)


def _first_seen(
    series: Sequence[tuple[Mapping[str, str], Sequence[tuple[float, float]]]],
) -> dict[frozenset[tuple[str, str]], float]:
    """When each process was first heard of, as far as the samples go back."""
    first: dict[frozenset[tuple[str, str]], float] = {}
    for labels, samples in series:
        if samples:
            process = _process(labels)
            first[process] = min(first.get(process, samples[0][0]), samples[0][0])
    return first


def _increases(samples: Sequence[tuple[float, float]], step: float) -> Iterator[tuple[float, float]]:
    """
    (time, what was counted since the sample before) for samples one step apart.

    A counter that falls was begun anew, as Prometheus takes it. The first sample, and one behind a gap, only say
    where it stands: what was counted before them belongs to no tick.
    """
    for (before_s, before), (at, value) in pairwise(samples):
        if at - before_s <= 1.5 * step:
            new = value - before if value >= before else value
            if new > 0:
                yield at, new


class _Sum:
    """One version's part of a step, from cumulative buckets."""

    def __init__(self) -> None:
        self._buckets: dict[str, float] = {}
        self._failures = self._unavailable = 0.0

    def add(self, labels: Mapping[str, str], new: float) -> None:
        bound = labels.get("le", "")
        self._buckets[bound] = self._buckets.get(bound, 0.0) + new
        error = labels.get("error_type", "")
        if bound == _TALLEST and error:
            self._failures += new
            if not error.isdigit() or int(error) in UNAVAILABLE:
                self._unavailable += new

    def side(self) -> Side:
        durations: dict[int, int] = {}
        seen, lower = 0, 0.0
        for text, bound in sorted(((text, _bound(text)) for text in self._buckets), key=lambda pair: pair[1]):
            # Whole numbers of cumulative sums, so that nothing is lost by rounding twice.
            upto = max(seen, round(self._buckets[text]))
            if upto > seen:
                index = _BUCKETS.get((lower, bound)) or _middle(lower, bound)
                durations[index] = durations.get(index, 0) + upto - seen
            seen, lower = upto, bound
        failures = min(round(self._failures), seen)
        return Side(seen, failures, min(round(self._unavailable), failures), durations)


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _middle(lower: float, upper: float) -> int:
    """The judge's bucket for what took between the two: the geometric middle, half the bound below the first."""
    if upper == float("inf"):
        return bucket(lower * 1.5)
    return bucket(sqrt(lower * upper) if lower else upper / 2)


_BUCKETS: Final = {
    (lower, upper): _middle(lower, upper)
    for lower, upper in zip((0.0, *OTEL_BOUNDS_S), (*OTEL_BOUNDS_S, float("inf")), strict=True)
}


def ticks_of(
    windows: Sequence[Window], stable: str, canary: str, weight_at: Callable[[int], int], step_s: float
) -> list[Tick]:
    """One tick for each of *windows*."""
    return [
        Tick(
            window.begin,
            weight_at(int(window.begin)),
            window.sides.get(stable, Side()),
            window.sides.get(canary, Side()),
            step_s,
        )
        for window in windows
    ]
