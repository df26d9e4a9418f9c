"""An average of weights lies among them and follows them."""

from __future__ import annotations

import torch

from netadapt_onnx.training.averaging import DELAY, AveragedWeights


def test_an_average_forgets_what_it_began_with_and_follows_the_last_tenth_of_the_steps() -> None:
    averaged = AveragedWeights({"w": torch.tensor([5.0])})
    for step in range(1, 201):
        averaged.update({"w": torch.tensor([float(step)])})
    (value,) = averaged.state["w"].tolist()
    assert 200 - 2.2 * 200 / DELAY < value < 200
    before = AveragedWeights({"w": torch.zeros(3)})
    before.update({"w": torch.ones(3)})
    torch.testing.assert_close(before.state["w"], torch.full((3,), 0.9))


def test_what_is_averaged_is_not_what_trains() -> None:
    weight = torch.ones(2)
    averaged = AveragedWeights({"w": weight})
    averaged.update({"w": 3 * weight})
    assert weight.tolist() == [1.0, 1.0]
    again = AveragedWeights({"w": weight})
    again.resume(averaged.state, averaged.steps)
    for one in (averaged, again):
        one.update({"w": -weight})
    assert torch.equal(averaged.state["w"], again.state["w"])
