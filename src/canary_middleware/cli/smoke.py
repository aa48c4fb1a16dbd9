"""
``canary test``: the running service, its store, its telemetry and its plan, without changing anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from .._core.assignment.bucketing import bucket_of
from .._core.assignment.endpoints import EndpointTable
from .._core.lifecycle.rollout import Router, Variants, entry_weight
from .._core.plan.fields import parse_duration, percent
from .._core.plan.schema import parse
from .._serving.plan_file import read_plan
from .._views.lint import lint
from ..errors import ConfigError
from .completion import rollout_names
from .probes import Finding, probe_service, probe_store, probe_telemetry
from .session import FINE, STOPPED, fail, verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._core.lifecycle.rollout import Rollout
    from .._core.plan.schema import Plan, RolloutPlan
    from .session import Session

_DEFAULT: Final = "service"


class _Tests(click.Group):
    """``canary test`` and ``canary test checkout`` are the test of the service; other words name another test."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group("test", cls=_Tests)
def test() -> None:
    """
    Test the running service: both versions, store, telemetry, plan. Changes nothing.

    Ends with 1 if any line is an ERROR.
    """


def _tell(session: Session, findings: Iterable[Finding]) -> None:
    """Print findings as they come, and end with 1 if one is an error."""
    told = []
    for finding in findings:
        told.append(finding)
        session.say(finding.level, finding.text)
    if session.as_json:
        session.answer([finding._asdict() for finding in told])
    raise SystemExit(STOPPED if any(finding.level == "ERROR" for finding in told) else FINE)


@test.command(_DEFAULT)
@click.argument("rollout", required=False, shell_complete=rollout_names)
@click.option(
    "--url", "urls", multiple=True, envvar="CANARY_TEST_URL", help="A page that the rollout covers; again for more."
)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with each request.")
@click.option("--method", default="GET", show_default=True)
@click.option("--timeout", default="5s", show_default=True, help="For each request.")
@verb
def service(
    session: Session, rollout: str | None, urls: tuple[str, ...], headers: tuple[str, ...], method: str, timeout: str
) -> None:
    """Test the running service; the default."""
    found = session.rollout(rollout)
    sent, timeout_s = _headers(headers), parse_duration(timeout, "--timeout")

    def findings() -> Iterable[Finding]:
        if not urls:
            yield Finding("WARNING", "service", "? Unknown: pass --url with a page that the rollout covers")
        for url in urls:
            for told in probe_service(url, found, sent, method=method.upper(), timeout_s=timeout_s):
                # Which page it was about, where there are several.
                yield told if len(urls) == 1 else told._replace(message=f"{told.message} – {url}")
        yield from probe_store(session.control, found.name, f"{session.actor}:{os.getpid()}")
        yield from probe_telemetry()
        yield from _lint(_planned(session, found))

    _tell(session, findings())


def _planned(session: Session, rollout: Rollout) -> Plan:
    """The plan as the store has it, with what stands above rollouts in the file, where there is one."""
    from .._core.plan.schema import Plan

    whole = session.plan
    if whole is None:
        return Plan(rollouts=(rollout.plan,), store=session.control.store.url)
    # Keys may hold functions, which only the file's reader can know.
    own = [plan for plan in whole.rollouts if plan.name == rollout.name]
    return whole._replace(rollouts=tuple(own or [rollout.plan]), store=session.control.store.url)


def _lint(plan: Plan) -> Iterable[Finding]:
    remarks = lint(plan, os.environ)
    yield from (Finding("WARNING", "plan", remark) for remark in remarks)
    if not remarks:
        yield Finding("SUCCESS", "plan", "✓ nothing to remark")


@test.command()
@click.argument("file", required=False)
@verb
def config(session: Session, file: str | None) -> None:
    """Read a plan file as the service would, and remark on what is worth a second look."""
    plan = session.plan if file is None else parse(read_plan(file))
    if plan is None:
        raise ConfigError("which plan? Name its file, or run this where canary.toml lies")

    def findings() -> Iterable[Finding]:
        names = ", ".join(rollout.name for rollout in plan.rollouts)
        yield Finding("SUCCESS", "plan", f"✓ read: {names}")
        yield from _lint(plan)

    _tell(session, findings())


@test.command()
@click.option("--user", default="", help="The identity.")
@click.option("--path", required=True, help="As the service sees it, below its mount point.")
@click.option("--method", default="GET", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="For segment rules.")
@click.option("--attribute", "attributes", multiple=True, metavar="NAME=VALUE", help="For segment rules.")
@verb
def route(
    session: Session, user: str, path: str, method: str, headers: tuple[str, ...], attributes: tuple[str, ...]
) -> None:
    """Explain one decision: which rollout covers a request, which version it gets, and why."""
    rollouts = session.control.rollouts()
    plans = _in_order(session, rollouts)
    name, template = _covering(plans, method.upper(), path)
    if name is None:
        by = f"{template!r} excludes it" if template else "no rollout covers it"
        data: dict[str, Any] = {"rollout": None, "version": None, "reason": "uncovered", "template": template}
        session.answer(data, lambda: f"{method.upper()} {path}: {by}, so the service answers as if we were not there.")
        return
    found = rollouts[name]
    router = Router(found, Variants(), {})
    assignment = router.assign(user or None, None, {**_headers(headers), **_pairs(attributes)})
    bucket = bucket_of(router.point(user)) if user else None
    data = {
        "rollout": name,
        "template": template,
        "version": assignment.version,
        "role": assignment.role,
        "reason": assignment.reason,
        "bucket": bucket,
        "enters_at": None if bucket is None else entry_weight(bucket),
        "weight": percent(found.effective_ppm),
    }
    session.answer(data, lambda: _explained(data, f"{method.upper()} {path}"))


_WHY: Final = {
    "emergency": "the emergency latch is on",
    "disabled": "the rollout is switched off",
    "rolled_back": "the rollout was rolled back",
    "user": "the plan's user list says so",
    "segment": "a segment rule says so",
    "weight": "the hash decides",
    "no_identity": "the request has no identity",
    "retired": "the stable version is retired",
}


def _explained(data: Mapping[str, Any], request: str) -> str:
    text = (
        f"{request} is covered by {data['rollout']} ({data['template']}).\n"
        f"It gets {data['version']}: {_WHY.get(data['reason'], data['reason'])}."
    )
    if data["bucket"] is not None:
        text += (
            f"\nBucket {data['bucket']:,} of 1,000,000: in the canary from a weight of {data['enters_at']:.4f} % on; "
            f"the weight is {data['weight']:g} %."
        )
    return text


def _in_order(session: Session, rollouts: Mapping[str, Rollout]) -> list[RolloutPlan]:
    """Plans in the order that counts where several cover a path: the file's, where there is one, else by name."""
    whole = session.plan
    names = [] if whole is None else [plan.name for plan in whole.rollouts]
    ordered = sorted(rollouts, key=lambda name: (names.index(name) if name in names else len(names), name))
    return [rollouts[name].plan for name in ordered]


def _covering(plans: list[RolloutPlan], method: str, path: str) -> tuple[str | None, str | None]:
    entries: list[tuple[str, str | None]] = [(template, None) for plan in plans for template in plan.exclude]
    for plan in plans:
        entries.extend((template, plan.name) for template in plan.endpoints or ("*",))
    match = EndpointTable(entries).match(method, path)
    return (None, None) if match is None else (match.value, match.template)


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            fail(f"--header {text!r}: must be like 'X-User-Id: 42'", 2)
        found[name.strip().lower()] = value.strip()
    return found


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            fail(f"--attribute {text!r}: must be like region=eu-west-1", 2)
        found[name] = value
    return found
