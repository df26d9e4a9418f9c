"""Gram matrices of layers' inputs, and of these against what the original model put out there, for least squares.

Layers are seen at sampled positions (im2col), the same for every model with the same spatial sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.value_digests import value_digests
from netadapt_onnx.surgery.calibration import BLOCK, activations, run_size_of
from netadapt_onnx.surgery.reconstruct.layers import Linear, linear_layers
from netadapt_onnx.surgery.trace import Trace

# ResNet-20, half of the inner filters, all images together: 8192 positions leave 78.1% right, 32768 79.5%.
SAMPLES = 32768
# Targets take at most this much: fewer positions of a network with many channels, which has more of them.
MOST_TARGET_BYTES = 2**29
# A product takes about so many samples: with 1,152 inputs the sum in float64 then costs a twentieth of the product.
CHUNK = 4096
# There are at least so many, where there are as many images: chunks make folds.
CHUNKS = 4
# Beyond this many inputs per conv group a solve costs seconds: such a layer keeps its sliced weights.
LARGEST_SYSTEM = 8192


@dataclass(frozen=True)
class Targets:
    """What each layer of the original puts out, which reconstruction aims at.

    Here and in all of reconstruction a layer goes by the tensor that it puts out: names of nodes need not differ, and
    their numbers are another graph's.

    Attributes:
        seed: The seed of the sampled positions.
        per_image: How many positions of each image are sampled.
        outputs: By layer its outputs there, (channels, samples).
        run_size: How many images ran at once. Where the batch is no tensor's first axis, as in recurrent networks, the
            samples depend on it, so that every model is run as the original was.
    """

    seed: int
    per_image: int
    outputs: Mapping[str, np.ndarray]
    run_size: int = BLOCK


@dataclass(frozen=True)
class GramMatrices:
    """Centred Gram matrices of one layer with inputs X and targets Y, by conv group, in float64.

    Attributes:
        gram: X^T X / samples, (groups, inputs, inputs).
        cross: X^T Y / samples, (groups, inputs, outputs).
        mean_in: The mean of X, (groups, inputs).
        mean_out: The mean of Y, (groups, outputs).
    """

    gram: np.ndarray
    cross: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray

    def single(self) -> GramMatrices:
        """The same in float32."""
        return GramMatrices(*(v.astype(np.float32) for v in (self.gram, self.cross, self.mean_in, self.mean_out)))

    def about_origin(self) -> GramMatrices:
        """The matrices that are not centred."""
        x, y = self.mean_in[:, :, None], self.mean_out[:, None, :]
        return replace(self, gram=self.gram + x * x.transpose(0, 2, 1), cross=self.cross + x * y)


def original_targets(trace: Trace, inputs: Arrays, seed: int = 0, samples: int = SAMPLES) -> Targets:
    """Run the original model on calibration inputs and keep what its layers put out.

    Args:
        trace: The original model.
        inputs: The calibration inputs, images first.
        seed: The seed of the sampled positions.
        samples: How many positions of each layer, of all images together.
    """
    layers = linear_layers(trace)
    count = len(next(iter(inputs.values())))
    per_image = positions_per_image(trace, count, samples)
    outputs: dict[str, np.ndarray] = {}
    filled = dict.fromkeys((layer.output for layer in layers), 0)
    run_size = run_size_of(trace, list(filled))
    for block, arrays in activations(trace, inputs, list(filled), run_size):
        for layer in layers:
            y = arrays[layer.output]
            positions = layer.positions(seed, block, per_image)
            start, end = filled[layer.output], filled[layer.output] + len(y) * len(positions)
            if layer.output not in outputs:
                shape = y.shape[layer.channel_axis], count * len(positions)
                outputs[layer.output] = np.empty(shape, y.dtype)
            while end > outputs[layer.output].shape[1]:  # the batch is not its first axis
                outputs[layer.output] = np.tile(outputs[layer.output], (1, 2))
            layer.outputs_at(y, positions, outputs[layer.output][:, start:end])
            filled[layer.output] = end
    return Targets(seed, per_image, {name: values[:, : filled[name]] for name, values in outputs.items()}, run_size)


class GramCache:
    """Gram matrices of models that are cut from one original, kept from one model to the next.

    The layers in front of a cut read what they read before. So that a layer's matrices are the same to the bit whether
    its own outputs have been cut since or not, they are kept against all of the original's outputs. (Not those of conv
    groups, which may go as a whole.)
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._entries: dict[str, tuple[object, GramMatrices]] = {}

    def find(self, layer: Linear, key: object) -> GramMatrices | None:
        """A layer's matrices, if they were kept under this key: that of what they are computed from."""
        kept_key, matrices = self._entries.get(layer.output, (None, None))
        return matrices if kept_key == key else None

    def keep(self, layer: Linear, key: object, matrices: GramMatrices) -> None:
        """Keep a layer's matrices, and no others of it."""
        self._entries[layer.output] = key, matrices


def gram_matrices(
    trace: Trace,
    inputs: Arrays,
    targets: Targets,
    kept_outputs: Mapping[str, Array] | None = None,
    cache: GramCache | None = None,
) -> dict[str, GramMatrices]:
    """Gram matrices of each layer's current inputs, and of these against the original's outputs.

    Args:
        trace: The model as it is now.
        inputs: The calibration inputs that `targets` were made with.
        targets: What the original's layers put out.
        kept_outputs: By layer which of the original's output channels it still has; all where it is left out.
        cache: The matrices of an earlier model with the same `inputs` and `targets`; these are kept there.

    Returns:
        The matrices by layer, for those whose inputs a cut may take.
    """
    kept_outputs = kept_outputs or {}
    cache = GramCache() if cache is None else cache
    layers = [layer for layer in linear_layers(trace) if layer.inputs_per_group <= LARGEST_SYSTEM]
    layers = [layer for layer in layers if trace.axes.get(layer.input) and layer.output in targets.outputs]
    digests = value_digests(trace.folded.proto)
    keys: dict[str, object] = {}
    sums: dict[str, GramSums] = {}
    for layer in layers:
        kept = None if layer.groups == 1 else kept_outputs.get(layer.output)
        keys[layer.output] = layer.input, digests[layer.input], None if kept is None else kept.tobytes()
        if cache.find(layer, keys[layer.output]) is None:
            sums[layer.output] = GramSums(layer, targets, kept)
    # All inputs are observed, whichever are needed: what onnxruntime fuses does not depend on what is kept.
    for block, arrays in activations(
        trace, inputs, [layer.input for layer in layers] if sums else [], targets.run_size
    ):
        for layer in layers:
            if layer.output in sums:
                sums[layer.output].add(block, arrays[layer.input])
    result: dict[str, GramMatrices] = {}
    for layer in layers:
        if layer.output in sums and not sums[layer.output].is_empty:
            cache.keep(layer, keys[layer.output], sums[layer.output].matrices())
        matrices = cache.find(layer, keys[layer.output])
        if matrices is not None:
            result[layer.output] = _with_outputs(matrices, layer, kept_outputs.get(layer.output))
    return result


def _with_outputs(matrices: GramMatrices, layer: Linear, kept_outputs: Array | None) -> GramMatrices:
    """The matrices against some of the original's outputs; those of conv groups are so already."""
    if kept_outputs is None or layer.groups > 1:
        return matrices
    return replace(matrices, cross=matrices.cross[:, :, kept_outputs], mean_out=matrices.mean_out[:, kept_outputs])


def own_gram_matrices(trace: Trace, inputs: Arrays, seed: int = 0) -> dict[str, GramMatrices]:
    """Gram matrices of each layer's inputs, and of these against its own outputs, by layer.

    Args:
        trace: The model.
        inputs: The calibration inputs, samples first.
        seed: The seed of the sampled positions.
    """
    return gram_matrices(trace, inputs, original_targets(trace, inputs, seed))


class GramSums:
    """Accumulates the Gram matrices of a layer; products in float32 of a chunk of samples, their sum in float64.

    A chunk is a number of whole images that depends on nothing else, so that the sums do not depend on how many images
    run at once; every other one belongs to the other of two folds. Both sides are taken relative to the mean of the
    first chunk: of large values that hardly move (pooled maps behind a ReLU) float32 would keep nothing of the
    movement, and what is solved would depend on how images are batched.
    """

    def __init__(self, layer: Linear, targets: Targets, kept_outputs: Array | None = None) -> None:
        """Accumulate nothing yet.

        Args:
            layer: The layer.
            targets: What the original's layers put out.
            kept_outputs: Which of the original's output channels the layer still has; None: all.
        """
        self._layer = layer
        self._targets = targets
        self._kept = slice(None) if kept_outputs is None else kept_outputs
        self._chunk = np.zeros((0, 0), np.float32)  # (groups * inputs, samples of a chunk)
        self._filled = 0
        self._origin: tuple[np.ndarray, np.ndarray] | None = None
        self._sums: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._counts = [0, 0]
        self._chunks = 0

    @property
    def is_empty(self) -> bool:
        """Whether there are no samples."""
        return not self._filled and not self._samples

    @property
    def _samples(self) -> int:
        return sum(self._counts)

    def add(self, block: int, x: np.ndarray) -> None:
        """Add the inputs of the next images, as the layer reads them; they belong to one block."""
        positions = self._layer.positions(self._targets.seed, block, self._targets.per_image)
        if not self._chunk.size:
            inputs = x.shape[1] * prod(self._layer.kernel) if self._layer.op == "Conv" else x.shape[-1]
            all_images = self._targets.outputs[self._layer.output].shape[1] // len(positions)
            images = max(1, min(CHUNK // len(positions), all_images // CHUNKS))
            dtype = np.result_type(x, np.float32)  # products of float16 overflow
            self._chunk = np.empty((inputs, images * len(positions)), dtype)
        while len(x):
            images = min(len(x), (self._chunk.shape[1] - self._filled) // len(positions))
            end = self._filled + images * len(positions)
            self._layer.inputs_at(x[:images], positions, self._chunk[:, self._filled : end])
            self._filled, x = end, x[images:]
            if self._filled == self._chunk.shape[1]:
                self._add_chunk()

    def _add_chunk(self) -> None:
        """Add the products of the samples that the chunk holds, and empty it."""
        columns, groups = self._chunk[:, : self._filled], self._layer.groups
        y = self._targets.outputs[self._layer.output][self._kept, self._samples : self._samples + self._filled]
        y = y.astype(np.result_type(y, np.float32), copy=False)
        if self._origin is None:
            self._origin = columns.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
        columns -= self._origin[0]
        x = columns.reshape(groups, -1, self._filled)
        y = (y - self._origin[1]).reshape(groups, -1, self._filled)
        products = [
            x @ x.transpose(0, 2, 1), x @ y.transpose(0, 2, 1),
            x.sum(axis=2, dtype=np.float64), y.sum(axis=2, dtype=np.float64),
        ]  # fmt: skip
        fold = self._chunks % 2
        if self._sums[fold]:
            for total, product in zip(self._sums[fold], products, strict=True):
                total += product
        else:
            self._sums[fold].extend(product.astype(np.float64) for product in products)
        self._counts[fold] += self._filled
        self._chunks += 1
        self._filled = 0

    def matrices(self) -> GramMatrices:
        """The matrices of all samples added, of which there is at least one."""
        self._finish()
        if not self._sums[1]:
            return self._centred(self._sums[0], self._samples)
        return self._centred([one + other for one, other in zip(*self._sums, strict=True)], self._samples)

    def folds(self) -> list[GramMatrices]:
        """The matrices of either fold; of all samples where they fill one alone."""
        self._finish()
        return [self._centred(*fold) for fold in zip(self._sums, self._counts, strict=True) if fold[0]]

    def _finish(self) -> None:
        if self._filled:
            self._add_chunk()

    def _centred(self, sums: list[np.ndarray], count: int) -> GramMatrices:
        """The matrices whose sums of products relative to the origin are these."""
        assert self._origin is not None
        gram, cross, mean_in, mean_out = (total / count for total in sums)
        gram -= mean_in[:, :, None] * mean_in[:, None, :]
        cross -= mean_in[:, :, None] * mean_out[:, None, :]
        x, y = (origin.reshape(mean.shape) for origin, mean in zip(self._origin, (mean_in, mean_out), strict=True))
        return GramMatrices(gram, cross, mean_in + x, mean_out + y)


def positions_per_image(trace: Trace, images: int, samples: int) -> int:
    """Sampled positions per image, so that all images together give about as many as wanted, or what fits."""
    bytes_of = 4 * sum(trace.flat.shapes[layer.output][layer.channel_axis] for layer in linear_layers(trace))
    return max(1, min(samples, MOST_TARGET_BYTES // max(1, bytes_of)) // images)
