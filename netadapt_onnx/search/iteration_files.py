"""The files of an accepted iteration: its model, its plan, and the channels of the original that it kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.json_output import UNREADABLE, write_json
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.loadable import Interface
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.channel_selection import SelectedCut
from netadapt_onnx.search.run_directory.file_names import KEPT_FILE, MODEL_FILE, PLAN_FILE
from netadapt_onnx.search.run_directory.journal import AGAIN
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.surgery.plan import plan_of
from netadapt_onnx.surgery.tensor_slices import lost_constants, state_slices
from netadapt_onnx.surgery.trace import Trace


class KeptChannels(msgspec.Struct, frozen=True):
    """`kept.json` of an iteration.

    Attributes:
        kept: The original's channels that its model still has, for the groups that have lost any.
        removed: The original's branches that it has lost.
        trained: Whether its weights come from a final training.
    """

    kept: Mapping[str, list[int]]
    removed: list[str] = []
    trained: bool = False

    def indices(self) -> dict[str, np.ndarray]:
        """The kept channels as arrays."""
        return {name: np.array(indices) for name, indices in self.kept.items()}


class IterationFiles:
    """Writes and reads the files of a run's iterations, all of which its journal seals."""

    def __init__(self, run: Run, original: Trace) -> None:
        """Keep the files in the directory of `run`, whose model is `original`."""
        self._run = run
        self._original = original

    def has_model(self, iteration: int) -> bool:
        """Whether the model of an iteration is on the disk, as this run wrote it."""
        return self._run.journal.is_sealed(self._run.iteration(iteration) / MODEL_FILE)

    def repeats(self, iteration: int) -> bool:
        """Whether the model of an iteration was written as the same bytes as that of the iteration before."""
        if iteration == 1:
            return False
        files = (self._run.iteration(number) / MODEL_FILE for number in (iteration - 1, iteration))
        before, now = map(self._run.journal.digest_of, files)
        return before is not None and before == now

    def write(self, iteration: int, cut: SelectedCut, proto: onnx.ModelProto, interface: Interface) -> None:
        """Write the files of an iteration.

        Args:
            iteration: The iteration.
            cut: Its cut.
            proto: Its model.
            interface: The inputs and outputs that the file must have.
        """
        kept = KeptChannels(
            {name: indices.tolist() for name, indices in cut.kept.items()},
            sorted(cut.base.removed),
            cut.base.trained,
        )
        planned = {name: indices for name, indices in cut.kept.items() if name in cut.groups}
        slices = state_slices(self._original, planned, lost_constants(self._original, cut.base.trace))
        plan = plan_of(planned, cut.base.removed, slices)
        self._write(iteration, kept, plan.encode(), proto, interface)

    def write_trained(self, source: int, iteration: int, proto: onnx.ModelProto, interface: Interface) -> None:
        """Write the trained model of iteration `source` as an iteration of its own."""
        folder = self._run.iteration(source)
        kept = msgspec.structs.replace(_read_kept(folder / KEPT_FILE), trained=True)
        self._write(iteration, kept, (folder / PLAN_FILE).read_bytes(), proto, interface)

    def read(self, iteration: int) -> tuple[onnx.ModelProto, KeptChannels]:
        """The model of an iteration, and the channels that it kept. Raises NetadaptError unless this run wrote them."""
        folder = self._run.iteration(iteration)
        for name in (KEPT_FILE, MODEL_FILE):
            self._run.journal.require_sealed(folder / name)
        kept = _read_kept(folder / KEPT_FILE)
        return load(folder / MODEL_FILE).proto, kept

    def forget_model(self, iteration: int) -> None:
        """Remove the model of an iteration; its plan and its proposals stay."""
        (self._run.iteration(iteration) / MODEL_FILE).unlink(missing_ok=True)

    def _write(
        self, iteration: int, kept: KeptChannels, plan: bytes, proto: onnx.ModelProto, interface: Interface
    ) -> None:
        folder = self._run.iteration(iteration)
        write_json(folder / KEPT_FILE, kept)
        write_atomically(folder / PLAN_FILE, plan)
        save(proto, folder / MODEL_FILE, overwrite=True, planned=interface)
        for name in (KEPT_FILE, PLAN_FILE, MODEL_FILE):  # the model last
            self._run.journal.seal(folder / name)


def _read_kept(file: Path) -> KeptChannels:
    try:
        return msgspec.json.decode(file.read_bytes(), type=KeptChannels)
    except UNREADABLE as error:  # of a version whose files are not sealed
        raise NetadaptError(f"{file}: {' '.join(str(error).split())}", hint=AGAIN, code="corrupt-run") from error
