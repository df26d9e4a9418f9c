"""Architecture descent records every removal of filters, until a group would fall below its floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.scaling.descent import DescentSchedule, descend
from netadapt_onnx.scaling.width_record import WidthRecord
from netadapt_onnx.training.settings import Settings
from scaling_cases import samples_for
from tracing import trace_model


def recorded(proto: onnx.ModelProto, schedule: DescentSchedule) -> WidthRecord:
    original = trace_model(proto)
    return descend(original, lambda widths: float(sum(widths.values())), samples_for(original), schedule, Settings())


def test_a_descent_records_every_removal_until_a_group_would_fall_below_its_floor() -> None:
    schedule = DescentSchedule(warm_up_epochs=1, batch_size=32, batches=1, removed=2)
    record = recorded(models.plain((150, 150), size=8), schedule)
    lost = -np.diff(record.widths.sum(axis=1))
    assert len(record.tau) > 10 and (lost == 2).all()
    assert record.widths.min() >= 1 and (record.widths < 150).all()
    assert (record.tau == record.widths.sum(axis=1)).all()


@pytest.mark.parametrize(("samples", "batches"), [(50_000, 49), (45_000, 44), (1_000_000, 50), (1197, 1), (100, 1)])
def test_smaller_data_are_seen_as_often_between_two_removals_as_the_papers(samples: int, batches: int) -> None:
    assert DescentSchedule().usual_batches(samples) == batches


def test_a_sparing_descent_goes_on_past_groups_at_their_floor_and_records_all_of_it() -> None:
    """MorphNet's half of the filters, of a network with a layer of two: the other way ends when that has one."""
    network = models.plain((2, 60), size=8)
    schedule = DescentSchedule(warm_up_epochs=1, batch_size=32, batches=1, removed=1, share=0.9)
    strict, sparing = (recorded(network, replace(schedule, sparing=way)) for way in (False, True))
    assert len(sparing.tau) == int(0.9 * 62)
    assert (np.diff(sparing.tau) == -1).all() and sparing.tau[0] == 61
    assert sparing.widths.min() >= 1
    assert len(strict.tau) < len(sparing.tau)
