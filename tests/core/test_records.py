"""What a store holds: whole, readable by those who know its schema, and by nobody else."""

from __future__ import annotations

import json

import pytest

from canary_middleware.core.records import NewerSchema, from_record, summary_of, to_record
from canary_middleware.core.transitions import advance, pause, start
from canary_middleware.errors import ConfigError

from .test_rollout import rollout


def test_a_rollout_survives_being_stored_without_its_key() -> None:
    before = pause(advance(start(rollout(0, stages=[10, 50], key=["header:x", "json:y"]))), "lunch")

    after = from_record(json.loads(json.dumps(to_record(before))))

    assert after == before._replace(plan=before.plan._replace(key=()))
    assert summary_of(after) == {"weight_ppm": 500_000, "phase": "paused", "stage": 1}


@pytest.mark.parametrize("schema", [2, 99, None, "1"])
def test_a_record_of_a_newer_release_is_refused(schema: object) -> None:
    with pytest.raises(NewerSchema, match="upgrade this process"):
        from_record({**to_record(rollout(5)), "schema": schema})


@pytest.mark.parametrize("missing", ["plan", "name", "weight_ppm", "phase", "revision"])
def test_a_damaged_record_is_named_as_such(missing: str) -> None:
    record = to_record(rollout(5))
    del record[missing]

    with pytest.raises(ConfigError, match="damaged"):
        from_record(record)
