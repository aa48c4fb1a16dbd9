"""
Plan and state of a rollout as one JSON document: for archives, for reviews, and for tools of one's own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from .._core.plan.changes import declared_by
from .._core.plan.fields import percent
from .._core.plan.schema import Plan, to_mapping
from .status import event_of, stages_of

if TYPE_CHECKING:
    from .._core.lifecycle.rollout import Rollout
    from ..stores.changes import Control

_EVENTS: Final = 100


def export_document(control: Control, rollout: Rollout) -> dict[str, Any]:
    """
    What the store holds of *rollout*; none of the app's code is needed.

    Returns:
        the plan under the keys of a plan file (``schema``, ``rollout``), and beside it ``state``: phase, weights in
        percent, ``stages`` each with its status (``completed``, ``in_progress``, ``pending``), the fingerprint of the
        plan file that it goes by, and the last 100 ``events``, newest first. Key functions stand under their name.
    Raises:
        StoreUnavailable: the events cannot be had.
    """
    store = control.store
    now = store.now()
    return {
        **to_mapping(Plan(rollouts=(rollout.plan,))),
        "state": {
            "rollout": rollout.name,
            "store": store.url,
            "exported_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "revision": rollout.revision,
            "plan": declared_by(rollout),
            "phase": rollout.phase,
            "phase_reason": rollout.phase_reason,
            "weight": percent(rollout.effective_ppm),
            "stage": rollout.stage + 1,
            "approved": rollout.approved + 1,
            "stages": stages_of(rollout),
            "events": [event_of(event, now) for event in store.history(rollout.name, _EVENTS)],
        },
    }
