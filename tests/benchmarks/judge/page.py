"""The page that keeps the figures: what was simulated, how, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .cases import ALIKE, CROWD, GOOD_S, HEAVY, PER_STAGE
from .ours import LEAST_PER_STAGE, LOOK_S, MOST, WEIGHTS
from .table import markdown
from .traffic import MEDIAN_S, RATE, SIGMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cases import Line

_STAGES: Final = " / ".join(f"{100 * weight:g}" for weight in WEIGHTS)

_ENOUGH: Final = 1_000

_HEAD: Final = """\
# What the judge catches, and what it leaves alone

Simulated rollouts: how often a healthy canary is rolled back, how many requests a bad one gets before it is, and how
often evidence is enough to promote. The page is written by a command and not edited by hand:

```
make bench-judge ARGS="--rollouts {rollouts} --seed {seed} --write"
```

Seed {seed}, {rollouts:,} rollouts for each line; the same numbers give the same table wherever numpy draws the same
random numbers. A plain `make bench-judge` is a look of some minutes with fewer rollouts, and
`make bench-judge ARGS="--rollouts 200 --rows late bursts"` one at some lines.

{verdict}
"""

_BODY: Final = """
**ours** shows the figure, in brackets what it must be, and whether it is. Shares stand for rollouts. A number without
a percent sign is the median of the canary requests from the onset of the regression to the rollback, over all rollouts,
those included in which it is never found; *n % found* is added where some were not, "never" where most were not, and
*n % before* where the rule had already alarmed in the good hour, which is overlooked in the others, not in ours.
{noise}

## The traffic

- {rate:g} requests per second (Poisson), judged in ticks of 1 s. Weights {stages} %, {per_stage:,} canary requests
  in each on average: {most:,} in all, 1,800 s. The schedule is given: it does not wait for any rule, so all of them
  see the same requests.
- Durations are lognormal around {median_ms:g} ms with σ = {sigma:g}: p95 is 215 ms, p99 323 ms. The base error rate is
  0.5 % where no other is named.
- *By user*: {crowd} users with one version each; the k-th is active in proportion to k^-{zipf:g}; their error rates are
  beta distributed (correlation of two requests of a user {alike:g}), their durations have a factor of their own
  (σ = {pace:g}).
- *Users much alike*: as many, activity k^-{alike_zipf:g}, correlation {alike_alike:g}, σ = {alike_pace:g}. How alike
  users are is an assumption, and what can be promoted by evidence depends on it: compare the lines.
- *Very heavy users*: {heavy}, in proportion to k^-{heavy_zipf:g}, otherwise as the first.
- *Drift*: the error rate of both versions swings by ± 80 % in 15 minutes, their durations by ± 30 % in 20, each from a
  random phase.
- *Shared bursts*: both versions fail 20 % for 10 s, every 400 s on average.
- *After a good hour*: {good_s:,} s at {first:g} % (18,000 canary requests), then the regression at the same weight.

## Promotion

Ours is played a second time, on traffic that follows its decisions: the stages are the same, but each begins as soon as
the one before has passed. A stage lasts for at least {least:,} canary requests; from then on the judge is asked every
{look} s whether it has passed, and every second whether to roll back. A rollout is promoted if the last stage passes
within {most:,} canary requests. What is not promoted holds and asks a person.

The plan names its stages and nothing else: no criteria, no guardrails. With users whose requests are alike and many
errors in either version, evidence takes longer; those lines have no target.

## The other rules

Re-implemented for this comparison, from what they are known to do; none is the original, and each has settings that
trade false alarms for speed. Those of mSPRT and Mann-Whitney were chosen for few false alarms where requests are
independent.

- **naive**: over the last two minutes, from 100 canary requests on, error rate > 5 % or p95 > 2 s. Promotes when every
  stage has, at 1,000 canary requests or later, an error rate less than 0.5 points above stable's and a p95 less than
  10 % above.
- **naive with availability**: the same, and availability < 99 %, taken as the share of requests without an error.
- **Flagger-like**: each minute, in this minute: error rate > 1 %, or p95 > 500 ms; one failed check is enough. Promotes
  what it does not roll back.
- **z-test**: every 10 s, from 100 canary requests on, all counts so far: one-sided two-proportion z-tests of the error
  rate and of the share above stable's p95, p < .01 each.
- **mSPRT-like**: every second, from 100 canary requests on, the same two differences, as a normal mixture likelihood
  ratio with α = .01 for both together.
- **Mann-Whitney**: every 5 minutes, in these 5 minutes: durations by Mann-Whitney, errors by the z-test, with p < .01
  shared out over all windows of a rollout.

The last three count what came in stages of different weights together; where both versions drift or suffer a burst,
that alone makes the canary look worse or better than stable.
"""


def page(rows: Sequence[tuple[str, ...]], missed: Sequence[Line], *, rollouts: int, seed: int) -> str:
    """The whole page; *missed* are the lines whose target our judge did not reach."""
    head = _HEAD.format(rollouts=rollouts, seed=seed, verdict=_verdict(missed, rollouts))
    return f"{head}\n{markdown(rows)}\n{_body(rollouts)}"


def _verdict(missed: Sequence[Line], rollouts: int) -> str:
    found = "Every target is met."
    if missed:
        found = "**Not met:** " + "; ".join(line.title for line in missed) + ". All other targets are."
    return found if rollouts >= _ENOUGH else f"{found} With so few rollouts shares of one percent say little."


def _body(rollouts: int) -> str:
    # Two standard deviations of a share of 0.5 %.
    margin = 200 * (0.005 * 0.995 / rollouts) ** 0.5
    return _BODY.format(
        noise=f"With {rollouts:,} rollouts, chance moves a share of 0.5 % by ± {margin:.1f} points.",
        rate=RATE,
        stages=_STAGES,
        per_stage=PER_STAGE,
        most=MOST,
        median_ms=1000 * MEDIAN_S,
        sigma=SIGMA,
        crowd=f"{CROWD.count:,}",
        zipf=CROWD.zipf,
        alike=CROWD.alike,
        pace=CROWD.pace,
        alike_zipf=ALIKE.zipf,
        alike_alike=ALIKE.alike,
        alike_pace=ALIKE.pace,
        heavy=HEAVY.count,
        heavy_zipf=HEAVY.zipf,
        good_s=GOOD_S,
        first=100 * WEIGHTS[0],
        least=LEAST_PER_STAGE,
        look=LOOK_S,
    )
