"""A search on a Ray cluster of two nodes, one of which is killed on the way (`make test-ray`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
import pytest

import netadapt_onnx
from models import plain
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import random_inputs, session
from netadapt_onnx.search.executors.opening import opened_executor
from netadapt_onnx.search.executors.protocol import JobResult
from sample_data import brightest_channel
from search_cases import outcome

pytestmark = [
    pytest.mark.skipif("NETADAPT_RAY" not in os.environ, reason="make test-ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each: all work is done on nodes that can be lost."""
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray_cluster.nodes = [ray_cluster.add_node(num_cpus=1) for _ in range(2)]
    ray_cluster.wait_for_nodes()
    yield ray_cluster
    ray_cluster.shutdown()


def test_a_node_that_dies_on_the_way_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(plain((8, 8, 12, 12, 16), size=8, classes=3).SerializeToString())
    brightest_channel(tmp_path / "data.npz")
    marks = tmp_path / "marks"
    marks.mkdir()

    doomed = cluster.nodes[1].node_id

    def evaluate(proto: onnx.ModelProto) -> float:
        """How near a model's outputs are to nothing at all, slowly; each call leaves a mark when it begins and ends."""
        import ray

        mark = marks / uuid4().hex
        place = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        mark.write_text(place)
        time.sleep(5.0 if place == doomed else 0.5)  # its node is gone before it is done
        specs = {proto.graph.input[0].name: ((4, 3, 8, 8), np.dtype(np.float32))}
        output = session(proto).run(None, random_inputs(specs))[0]
        mark.with_suffix(".end").touch()
        return -float((output**2).mean())

    def kill() -> None:
        """Take a node away as soon as it has a job."""
        while not any(mark.read_text() == doomed for mark in marks.iterdir()):
            time.sleep(0.02)
        cluster.remove_node(cluster.nodes[1], allow_graceful=False)

    options: dict[str, Any] = {"step": 2, "init_reduction_ratio": 0.25, "final_epochs": 0, "evaluate": evaluate}
    task = (tmp_path / "model.onnx", tmp_path / "data.npz", "macs=0.6x")
    netadapt_onnx.adapt(*task, tmp_path / "here", **options)
    before = len(list(marks.glob("*.end")))
    assert before == len(list(marks.iterdir())) / 2
    killer = Thread(target=kill, daemon=True)
    killer.start()
    netadapt_onnx.adapt(*task, tmp_path / "there", executor=f"ray:{cluster.address}", **options)
    killer.join(1)
    assert not killer.is_alive(), "no node was killed"
    assert len(outcome(tmp_path / "here")[0].splitlines()) >= 2
    assert outcome(tmp_path / "here") == outcome(tmp_path / "there")
    begun = len(list(marks.iterdir())) - len(list(marks.glob("*.end")))
    assert begun > 2 * before, "nothing was lost with the node, so nothing was done again"


def test_every_task_claims_a_gpu_of_its_own() -> None:
    def seeing(here: Any, request: Any) -> JobResult:
        time.sleep(0.5)
        return JobResult({"gpu": os.environ.get("CUDA_VISIBLE_DEVICES")})

    with opened_executor("ray", 2, gpus="0,2") as executor:
        outcomes = executor.run(seeing, [], [{}] * 4, lambda *_: None)
    assert {o.result["gpu"] for o in outcomes if isinstance(o, JobResult)} == {"0", "2"}


def test_gpus_that_a_cluster_has_not_are_refused(cluster: Any) -> None:
    with (
        opened_executor(f"ray:{cluster.address}", 2, gpus="0") as executor,
        pytest.raises(NetadaptError, match="no GPU"),
    ):
        executor.run(lambda here, request: JobResult({}), [], [{}], lambda *_: None)


def test_a_cluster_that_is_not_there_is_said() -> None:
    with opened_executor("ray:127.0.0.1:1", 2) as executor, pytest.raises(NetadaptError, match=r"ray:127\.0\.0\.1:1: "):
        executor.run(lambda here, request: JobResult({}), [], [{}], lambda *_: None)
