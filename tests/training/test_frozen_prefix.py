"""Short trainings behind a frozen front: what lies in front of a cut stays to the bit, what lies behind it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
import netadapt_onnx
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import outputs
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.search.worker import _front
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.distillation import taught
from netadapt_onnx.training.frozen_prefix import FrozenFronts
from netadapt_onnx.training.settings import Settings
from training_cases import without_batchnorms

SAMPLES = 256


def dataset() -> Dataset:
    x = np.random.default_rng(1).standard_normal((SAMPLES, 3, 16, 16)).astype(np.float32)
    split = Split({"image": x})
    return Dataset(train=split, val=split)


def distance(model: onnx.ModelProto, wanted: onnx.ModelProto, split: Split) -> float:
    """How far two models' answers are apart, in standard deviations of the second's."""
    (found,), (reference,) = outputs(model, split).values(), outputs(wanted, split).values()
    return float(np.abs(found - reference).mean() / reference.std())


def values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def cut_of(found: Trace, group: str) -> onnx.ModelProto:
    return resize(found, select(found, {group: found.group(group).channels // 2}))


@pytest.mark.parametrize("build", [models.residual, without_batchnorms], ids=["batchnorm", "folded"])
def test_only_what_lies_behind_a_cut_learns(build: Callable[[], onnx.ModelProto]) -> None:
    found = trace(fold(build()))
    data, settings = dataset(), Settings()
    answers = taught(found.folded.proto, data.train, settings)
    answers.precompute(data.train, settings)
    fronts = [_front(found, group) for group in found.prunable]
    frozen = FrozenFronts(found.folded.proto, fronts, data.train, answers)
    group = max(found.prunable, key=lambda g: len(_front(found, g)))
    variant = cut_of(found, group.name)
    tuned = frozen.trained(variant, data, steps=60, lr=0.02, seed=0, settings=settings)
    # Random running statistics are not those of the data: training starts from the latter.
    dense = found.folded.proto
    start = batchnorm.fold(batchnorm.unfold(batchnorm.reestimate(variant, data.train), data.train, dense))
    assert distance(tuned, dense, data.train) < 0.7 * distance(start, dense, data.train)
    front = {name for i in _front(found, group) for name in found.folded.proto.graph.node[i].input}
    before, after = values(variant), values(tuned)
    assert len(front & before.keys()) >= 4
    for name in front & before.keys():
        assert np.array_equal(before[name], after[name]), name
    assert any(not np.array_equal(before[name], after[name]) for name in before.keys() - front)
    assert [node.op_type for node in tuned.graph.node] == [node.op_type for node in variant.graph.node]


def test_a_variant_without_a_kept_front_trains_whole_on_the_same_samples() -> None:
    found = trace(fold(models.plain()))
    data, settings = dataset(), Settings()
    answers = taught(found.folded.proto, data.train, settings)
    answers.precompute(data.train, settings)
    frozen = FrozenFronts(found.folded.proto, [], data.train, answers)
    variant = cut_of(found, found.prunable[-1].name)
    tuned = frozen.trained(variant, data, steps=5, lr=0.02, seed=0, settings=settings)
    before, after = values(variant), values(tuned)
    assert not np.array_equal(before["conv1.weight"], after["conv1.weight"])


@pytest.mark.parametrize("executor", ["local", "local:2"])
def test_a_search_that_freezes_fronts_leaves_them_as_they_were(
    tmp_path: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from netadapt_onnx.training import trainer

    asked: list[bool] = []

    def chosen(*_: object, gpu: bool = True, **__: object) -> Settings:
        asked.append(gpu)
        return Settings()

    monkeypatch.setattr(trainer, "choose_settings", chosen)
    model, rng = tmp_path / "model.onnx", np.random.default_rng(2)
    onnx.save(models.plain((16, 16, 16)), model)
    x = rng.standard_normal((200, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, x_val=x[:64])
    found = netadapt_onnx.adapt(
        model, tmp_path / "data.npz", "params=0.9x", tmp_path / "run", rank="finetune", short_term=3, freeze_front=True,
        freeze=("conv1", "conv2"), max_iterations=1, final_epochs=0, executor=executor,
    )  # fmt: skip
    assert found.met
    assert asked == [executor == "local"]  # workers have no GPU to themselves unless --gpus says so
    before, after = values(onnx.load(model)), values(onnx.load(found.model))
    assert np.array_equal(before["conv1.weight"], after["conv1.weight"])
    assert not np.array_equal(before["conv3.weight"][: len(after["conv3.weight"])], after["conv3.weight"])


def test_freezing_fronts_where_nothing_is_trained_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(models.plain(), model)
    with pytest.raises(NetadaptError, match="--freeze-front") as refused:
        netadapt_onnx.adapt(model, tmp_path / "data.npz", "macs=0.9x", tmp_path / "run", freeze_front=True)
    assert refused.value.code == "usage"
