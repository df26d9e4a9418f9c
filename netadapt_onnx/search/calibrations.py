"""Calibration inputs, and what the layers of the original compute of them: kept for all jobs of a run, in files.

A run has three of them, of 1,024, 512 and 256 training samples. Of 300 pictures and an EfficientNet-Lite0 they took 1.9
GB: two are now the same, and the memory of all of them is the system's to take.
"""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

from netadapt_onnx.common.memory import MappedArrays
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.reconstruct.gram import SAMPLES, Targets, original_targets, positions_per_image
from netadapt_onnx.surgery.trace import Trace

CALIBRATION_SAMPLES = 1024


class Calibrations:
    """Calibration inputs and targets by the number of samples. Several threads may ask at once."""

    def __init__(self, train: Split | None, seed: int) -> None:
        """Draw nothing yet; `train` are the training samples, without which nothing may be asked for."""
        self._train = train
        self._seed = seed
        self._lock = Lock()
        self._inputs: dict[int, MappedArrays] = {}  # by the number of samples
        self._targets: dict[tuple[int, int], tuple[Targets, MappedArrays]] = {}  # by that and the positions of each

    def of_original(self, original: Trace, samples: int = CALIBRATION_SAMPLES) -> tuple[Arrays, Targets]:
        """Calibration inputs, and what the layers of the original compute of them; the same for every caller."""
        with self._lock:
            drawn = self._drawn(samples)
            count = len(drawn)
            if count not in self._inputs:
                self._inputs[count] = MappedArrays(drawn.batch(slice(None)))
            inputs = dict(self._inputs[count].arrays)
            # Of fewer images fewer positions, and no more of each; of a wide network not even these may fit.
            key = count, positions_per_image(original, count, _positions(samples))
            if key not in self._targets:
                targets = original_targets(original, inputs, self._seed, _positions(samples))
                outputs = MappedArrays(targets.outputs)
                self._targets[key] = replace(targets, outputs=outputs.arrays), outputs
            return inputs, self._targets[key][0]

    def of(self, trace: Trace, samples: int) -> tuple[Arrays, Targets]:
        """The same inputs, and what the layers of another model compute of them; nothing is kept."""
        inputs = self._drawn(samples).batch(slice(None))
        return inputs, original_targets(trace, inputs, self._seed, _positions(samples))

    def rest(self) -> None:
        """Let go of their memory until they are asked for again."""
        with self._lock:
            for kept in (*self._inputs.values(), *(outputs for _, outputs in self._targets.values())):
                kept.rest()

    def _drawn(self, samples: int) -> Split:
        """A sample of the sample: workers have no others."""
        assert self._train is not None
        return self._train.sample(CALIBRATION_SAMPLES, self._seed).sample(samples, self._seed)


def _positions(samples: int) -> int:
    return SAMPLES * samples // CALIBRATION_SAMPLES
