"""
From evidence to a finding: the verdict, the sentence that a person reads, and the figures that a machine keeps.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Final, Literal

from ..lifecycle.progress import Finding
from .balance import ALPHA as BALANCE_ALPHA
from .limit import QUANTILES
from .safety import growth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..plan.schema import Criterion
    from .judge import Judge, Watched
    from .totals import Totals

SUSPICIOUS: Final = 3.0
"""An e-value for "worse than stable" with which nothing is promoted."""
_SHARED_RATIO: Final = 3.0
_FOR_EVER_S: Final = 7 * 86_400.0
_KEPT: Final = 4  # significant digits


def finding_of(judge: Judge) -> Finding:
    """What follows from what *judge* has seen."""
    tests = list(_tests(judge))
    evidence = _evidence(judge, tests)
    if judge.is_condemned:
        return Finding("fail", _worse(judge), evidence)
    for key, since_s in judge.firing_since.items():
        found = _fired(judge, judge.watched[key], since_s, evidence)
        if found is not None:
            return found
    for watched in judge.watched.values():
        if watched.criterion.action == "pause" and _is_broken(judge, watched):
            return Finding("fail", _sentence(judge, watched), evidence, "pause")
    suspicion = _suspicion(judge)
    if suspicion is not None:
        return Finding("error", suspicion, evidence)
    missing = evidence["missing"]
    if missing:
        return Finding("inconclusive", missing[0], evidence)
    return Finding("pass", _safe(judge), evidence)


def _fired(judge: Judge, watched: Watched, since_s: float, evidence: dict[str, Any]) -> Finding | None:
    from .judge import SHARED_HOLD_S

    sentence = _sentence(judge, watched)
    action = watched.criterion.action
    if action == "warn":
        return None
    if action == "rollback" and _is_shared(watched) and (judge.at_s or since_s) - since_s < SHARED_HOLD_S:
        return Finding(
            "error", f"shared incident: {judge.settings.stable} breaks the same limit ({sentence})", evidence
        )
    return Finding("fail", sentence, evidence, action)


def _is_shared(watched: Watched) -> bool:
    canary, stable = watched.canary, watched.stable
    return watched.is_shared and canary.bad * stable.requests <= _SHARED_RATIO * stable.bad * canary.requests


def _is_broken(judge: Judge, watched: Watched) -> bool:
    from .judge import LIMIT_ALPHA

    alpha = LIMIT_ALPHA if watched.is_guardrail else judge.settings.alpha
    # A warning stops nothing, so it is given also where stable breaks the limit.
    evidence = watched.canary.evidence if watched.criterion.action == "warn" else watched.evidence
    return evidence >= 1.0 / alpha


def _suspicion(judge: Judge) -> str | None:
    if judge.balance.is_off:
        balance = judge.balance
        return (
            f"sample-ratio mismatch: {judge.settings.canary} got {balance.canary:,.0f} of {balance.seen:,.0f} new "
            f"identities where {balance.expected:,.0f} were due: look for a cache, a redirect or a bot that sees only "
            "one version"
        )
    if judge.interference.is_felt:
        was = _time(judge.interference.median_before_s)
        return (
            f"interference: {judge.settings.stable} itself is half as slow again as before the rollout (median {was} "
            f"then): {judge.settings.canary} may take the process's time or memory"
        )
    return None


def _worse(judge: Judge) -> str:
    stable, canary = judge.settings.stable, judge.settings.canary
    comparison = judge.comparison
    families = {"errors": comparison.errors.evidence, "latency": comparison.latency}
    families |= {key: w.evidence for key, w in judge.watched.items() if w.is_family}
    worst = max(families, key=lambda name: families[name])
    evidence = judge.rollback_evidence
    odds = f"by luck at most 1 time in {evidence:,.0f}" if evidence < 1e6 else "by luck less than once in a million"
    if worst == "errors":
        return f"{canary} fails more often than {stable}: {_rate(judge.canary)} against {_rate(judge.stable)}, {odds}"
    if worst == "latency":
        quantiles = comparison.quantiles()
        name = max(quantiles, key=lambda one: quantiles[one])
        times = [_time(side.quantile_s(QUANTILES[name])) for side in (judge.canary, judge.stable)]
        return f"{canary} is slower than {stable}: {name} {times[0]} against {times[1]}, {odds}"
    return f"{_sentence(judge, judge.watched[worst])}, {odds}"


def _rate(side: Totals) -> str:
    return f"{side.failures:,} of {side.requests:,} requests ({side.error_rate:.2%})"


def _time(seconds: float | None) -> str:
    return "nothing" if seconds is None else f"{seconds * 1000:,.0f} ms"


def _sentence(judge: Judge, watched: Watched) -> str:
    criterion, canary = watched.criterion, judge.settings.canary
    share = f"{watched.canary.bad:,} of {watched.canary.requests:,} requests to {canary}"
    if criterion.metric == "error_rate":
        return f"{share} failed: {name_of(criterion, 'max')} does not hold"
    if criterion.metric == "availability":
        return f"{share} got no answer: {name_of(criterion, 'min')} does not hold"
    slowest = _time(criterion.limit("max"))
    return f"{share} took longer than {slowest}: {name_of(criterion, 'max')} does not hold"


def name_of(criterion: Criterion, kind: str) -> str:
    """An absolute limit as people say it: ``error_rate max 1 %``."""
    value = criterion.limit(kind) or 0.0
    text = _time(value) if criterion.metric in QUANTILES else f"{value * 100:g} %"
    return f"{criterion.metric} {kind} {text}"


def _safe(judge: Judge) -> str:
    if not judge.compares:
        return "all limits hold, and nothing is left to compare with"
    shown = ", ".join(str(margin) for margin in judge.safety.margins)
    return f"shown after {judge.canary.requests:,} canary requests: {shown}"


# -- what is missing -------------------------------------------------------------------------------------------------


def missing_of(judge: Judge) -> list[str]:
    """What the stage still waits for, the most important first; sentences."""
    found = [*_unmet(judge), *_too_few(judge)]
    if judge.compares:
        found += [*_suspects(judge), *_unshown(judge)]
    return found


def _unmet(judge: Judge) -> Iterator[str]:
    if not judge.canary.requests:
        return
    for criterion in judge.settings.criteria.limits:
        for kind, limit in criterion.limits:
            value = _value(criterion.metric, kind, judge.canary)
            if value is not None and not _holds(kind, value, limit):
                shown = _time(value) if criterion.metric in QUANTILES else f"{value:.2%}"
                yield f"{name_of(criterion, kind)} does not hold: {judge.settings.canary} has {shown}"


def _value(metric: str, kind: str, side: Totals) -> float | None:
    """The metric of one version, for an absolute limit; None for others, and for what is not counted here."""
    if kind not in ("max", "min"):
        return None
    if metric in QUANTILES:
        return side.quantile_s(QUANTILES[metric])
    return {"error_rate": side.error_rate, "availability": side.availability}.get(metric)


def _holds(kind: str, value: float, limit: float) -> bool:
    return value >= limit if kind == "min" else value <= limit


def _too_few(judge: Judge) -> Iterator[str]:
    criteria, canary = judge.settings.criteria, judge.canary
    if canary.requests < criteria.min_requests:
        left = criteria.min_requests - canary.requests
        yield f"{left:,} more canary requests for min_requests = {criteria.min_requests:,}{_in_time(judge, left)}"
    if judge.identities < criteria.min_identities:
        left = criteria.min_identities - judge.identities
        yield f"{left:,} more canary users for min_identities = {criteria.min_identities:,}"


def _suspects(judge: Judge) -> Iterator[str]:
    comparison = judge.comparison
    for name, evidence in (("more errors", comparison.errors.evidence), ("slower answers", comparison.latency)):
        if evidence > SUSPICIOUS:
            yield f"{judge.settings.canary} is under suspicion of {name} (e-value {evidence:.3g}, must be 3 or less)"


def _unshown(judge: Judge) -> Iterator[str]:
    stable, canary = judge.stable.requests, judge.canary.requests
    for margin in judge.safety.margins:
        short = judge.safety.shortfall(margin, judge.needed)
        if not short:
            continue
        if not stable or not canary:
            yield f"requests to both versions at once, to show {margin}"
            continue
        left = ceil(short / growth(margin, judge.past, canary / stable, judge.phis))
        yield f"about {_round(left):,} more canary requests to show {margin}{_in_time(judge, left)}"


def _in_time(judge: Judge, requests: float) -> str:
    """How long so many canary requests take at the stage's rate."""
    if not judge.canary.requests or judge.seconds <= 0.0:
        return ""
    seconds = requests * judge.seconds / judge.canary.requests
    return " (weeks at this rate)" if seconds > _FOR_EVER_S else f" ({_about(seconds)} at this rate)"


def _about(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1.0):.0f} s"


def _round(requests: int) -> int:
    """Two digits are all that a forecast can promise."""
    digits = len(str(requests)) - 2
    return requests if digits <= 0 else int(round(requests, -digits))


# -- evidence --------------------------------------------------------------------------------------------------------


def _evidence(judge: Judge, tests: list[dict[str, Any]]) -> dict[str, Any]:
    stable, canary, comparison = judge.stable, judge.canary, judge.comparison
    e = {
        "rollback": judge.rollback_evidence,
        "errors": comparison.errors.evidence,
        "latency": comparison.latency,
        **comparison.quantiles(),
        **{margin.name: judge.safety.evidence(margin) for margin in judge.safety.margins},
        "balance": judge.balance.evidence,
        "interference": judge.interference.evidence,
    }
    return {
        "e": {name: _digits(value) for name, value in e.items()},
        "threshold": _digits(1.0 / judge.settings.alpha),
        "promotion_threshold": _digits(judge.needed),
        "alpha": judge.settings.alpha,
        "version": judge.settings.canary,
        "requests": {"stable": stable.requests, "canary": canary.requests},
        "failures": {"stable": stable.failures, "canary": canary.failures},
        **{
            f"{name}_s": {
                side: _short(totals.quantile_s(q)) for side, totals in (("stable", stable), ("canary", canary))
            }
            for name, q in QUANTILES.items()
        },
        "dispersion": {"errors": _digits(judge.phis[0]), "latency": _digits(judge.phis[1])},
        "missing": missing_of(judge),
        "tests": tests,
    }


def _digits(value: float) -> float:
    return float(f"{value:.{_KEPT}g}")


def _short(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)


def _tests(judge: Judge) -> Iterator[dict[str, Any]]:
    threshold = 1.0 / judge.settings.alpha
    for name, evidence in (("errors", judge.comparison.errors.evidence), ("latency", judge.comparison.latency)):
        verdict = "fail" if evidence >= threshold else "inconclusive" if evidence > SUSPICIOUS else "pass"
        yield _test(f"{name} worse than {judge.settings.stable}", "rollback", verdict, evidence, threshold)
    for watched in judge.watched.values():
        yield _limit_test(judge, watched)
    for margin in judge.safety.margins if judge.compares else ():
        verdict = "inconclusive" if judge.safety.shortfall(margin, judge.needed) else "pass"
        yield _test(str(margin), "promotion", verdict, judge.safety.evidence(margin), judge.needed)
    verdict = "fail" if judge.balance.is_off else "pass"
    yield _test("identities split as the weight says", "promotion", verdict, judge.balance.evidence, 1 / BALANCE_ALPHA)


def _limit_test(judge: Judge, watched: Watched) -> dict[str, Any]:
    criterion = watched.criterion
    kind = "min" if criterion.metric == "availability" else "max"
    value = _value(criterion.metric, kind, judge.canary)
    limit = criterion.limit(kind) or 0.0
    verdict: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    if _is_broken(judge, watched):
        verdict = "fail"
    elif value is not None and judge.canary.requests and _holds(kind, value, limit):
        verdict = "pass"
    name = name_of(criterion, kind)
    role = "guardrail" if watched.is_guardrail else "criterion"
    sentence = _sentence(judge, watched) if verdict == "fail" else ""
    return {**_test(name, role, verdict, value, limit), "action": criterion.action, "sentence": sentence}


def _test(name: str, kind: str, verdict: str, value: float | None, limit: float) -> dict[str, Any]:
    shown = None if value is None else _digits(value)
    return {"name": name, "kind": kind, "verdict": verdict, "value": shown, "limit": _digits(limit), "sentence": ""}
