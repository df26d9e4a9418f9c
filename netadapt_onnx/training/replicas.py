"""One training step spread over threads, each with its own copy of the graph and its share of the batch.

Threads rather than torch's intra-op threads: those spin at barriers and collapse when a core is busy elsewhere. Threads
rather than processes: torch leaves the interpreter's lock while it computes, and there is nothing to copy or to orphan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.data.dataset import Labels
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.training.loss import Targets, label_tensors
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

# Inputs by name and labels of some rows of the training split.
Fetch = Callable[[np.ndarray], tuple[Arrays, Labels | None]]
# The teacher's outputs by name, samples first, for inputs, their row numbers and the settings of the training.
DistillationTargets = Callable[[Mapping[str, Tensor], np.ndarray, Settings], dict[str, Tensor]]
# The mean loss of a batch, a scalar, from outputs by name, labels and the teacher's outputs; a `TaskLoss` for instance.
Loss = Callable[[Mapping[str, Tensor], Targets | None, Mapping[str, Tensor] | None], Tensor]
# A multiplier of one input of a node, which is named by its first output and the input's number.
Gates = Sequence[tuple[tuple[str, int], Tensor]]


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch computes with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tensors(inputs: Arrays, settings: Settings | None = None) -> dict[str, Tensor]:
    """Arrays as torch tensors, on the device and in the memory layout of the settings; float16 becomes float32."""
    values = {}
    for name, array in inputs.items():
        upcast = array.astype(np.float32) if array.dtype == np.float16 else array
        value = torch.from_numpy(np.ascontiguousarray(upcast))
        if settings is not None and settings.channels_last and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        values[name] = value if settings is None else value.to(settings.device)
    return values


def pieces_of(rows: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Rows in pieces of one size, the last one filled up by repeating rows; all in one piece without a size."""
    if size is None:
        return [rows]
    return [np.resize(rows[start : start + size], size) for start in range(0, len(rows), size)]


class Replicas:
    """Copies of one graph that share its parameters; a context manager that owns their threads.

    Running statistics are each replica's own until `average_statistics`.

    Attributes:
        settings: How this machine trains.
        graphs: The replicas.
        main: The replica that the result is read from.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        settings: Settings,
        loss: Loss,
        teacher: DistillationTargets | None,
        threads: int | None = None,
        only_batch: int | None = None,
        *,
        fixed_statistics: bool = False,
    ) -> None:
        """Build the replicas.

        Args:
            proto: The model, normalised.
            settings: How many replicas there are, and how they compute.
            loss: What training minimises.
            teacher: Gives the targets of distillation; None: there is no teacher.
            threads: With fewer than replicas these take turns, to the same result; None: a thread each.
            only_batch: The one batch size at which the graph runs: a replica sees its share in pieces of that size,
                whose gradients are averaged. None: the graph runs at any.
            fixed_statistics: Whether BatchNorms normalise by their running statistics, which then stay.
        """
        self._only_batch = only_batch
        self.settings = settings
        self._loss = loss
        self._teacher = teacher
        copies = [TorchGraph(proto).to(settings.device) for _ in range(settings.replicas)]
        self.graphs = [graph.train(not fixed_statistics) for graph in copies]
        self.main = self.graphs[0]
        self.main.arrange(settings.channels_last)
        for graph in self.graphs[1:]:
            for own, shared in zip(graph.parameters(), self.main.parameters(), strict=True):
                own.data = shared.data
        workers = min(settings.replicas, threads or settings.replicas)
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> Replicas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def gradients(self, fetch: Fetch, rows: np.ndarray, gates: Gates = ()) -> float:
        """Leave a batch's mean gradient in the parameters of `main` and in the gates.

        Args:
            fetch: Returns inputs and labels of some rows; called from several threads.
            rows: Numbers of the batch's samples in the training split.
            gates: Multipliers of inputs of nodes.

        Returns:
            The batch's mean loss.
        """
        if self._only_batch is None:
            shares = [share for share in np.array_split(rows, len(self.graphs)) if len(share)]
        else:
            pieces = pieces_of(rows, self._only_batch)
            turns = [pieces[i :: len(self.graphs)] for i in range(len(self.graphs))]
            shares = [np.concatenate(turn) for turn in turns if turn]
        jobs = [
            self._pool.submit(self._share, graph, fetch, share, gates)
            for graph, share in zip(self.graphs, shares, strict=False)
        ]
        results = [job.result() for job in jobs]
        weights = [len(share) / sum(map(len, shares)) for share in shares]
        for index, parameter in enumerate([*self.main.parameters(), *(gate for _, gate in gates)]):
            parts = [gradients[index] for _, gradients in results]
            if parts[0] is None:
                parameter.grad = None
                continue
            total = parts[0] if len(parts) == 1 else parts[0] * weights[0]
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                assert part is not None
                total.add_(part, alpha=weight)
            parameter.grad = total
        return sum(loss * weight for (loss, _), weight in zip(results, weights, strict=True))

    def ahead(self, rows: np.ndarray) -> None:
        """Let the teacher compute what it says of training samples, where that is remembered."""
        remember = getattr(self._teacher, "remember", None)  # of `RememberedAnswers`
        if callable(remember):
            remember(rows)

    def _share(
        self, graph: TorchGraph, fetch: Fetch, rows: np.ndarray, gates: Gates
    ) -> tuple[float, tuple[Tensor | None, ...]]:
        """Mean loss and gradients of a share of the batch."""
        pieces = pieces_of(rows, self._only_batch)
        loss, gradients = self._piece(graph, fetch, pieces[0], gates)
        for done, piece in enumerate(pieces[1:], 1):
            more, others = self._piece(graph, fetch, piece, gates)
            loss += (more - loss) / (done + 1)
            gradients = tuple(
                None if mean is None or other is None else mean + (other - mean) / (done + 1)
                for mean, other in zip(gradients, others, strict=True)
            )
        return loss, gradients

    def _piece(
        self, graph: TorchGraph, fetch: Fetch, rows: np.ndarray, gates: Gates
    ) -> tuple[float, tuple[Tensor | None, ...]]:
        inputs, labels = fetch(rows)
        samples = tensors(inputs, self.settings)
        targets = None if self._teacher is None else self._teacher(samples, rows, self.settings)
        with autocast(self.settings):
            outputs = graph.gated(samples, gates)
        loss = self._loss(outputs, label_tensors(labels, self.settings.device), targets)
        parameters = [*graph.parameters(), *(gate for _, gate in gates)]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return float(loss.detach()), gradients

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put weights and running statistics back in every replica."""
        for graph in self.graphs:
            graph.restore(state)

    def average_statistics(self) -> None:
        """Give every replica the mean of all replicas' running statistics."""
        if len(self.graphs) == 1:
            return
        own = [graph.statistics for graph in self.graphs]
        for name in own[0]:
            mean = torch.stack([statistics[name] for statistics in own]).mean(0)
            for statistics in own:
                statistics[name].copy_(mean)
