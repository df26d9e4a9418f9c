"""Which channels a cut model holds together for the sake of equal conv groups, as metadata of its file.

Which channels of different conv groups are tied is a choice (`conv_groups.py`), and so is whether whole groups go. A
cut model that is traced anew might choose otherwise; then what is cut from it would be no cut of the original. So the
choice goes with the file, in its metadata. Whatever they say there, they can only make cuts coarser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from netadapt_onnx.graph.axis_arrays import Array

KEY = "netadapt_onnx.conv_groups"


@dataclass(frozen=True)
class ConvGroupMetadata:
    """The choice that a cut model was made by.

    Attributes:
        ties: By layer a number for each channel, equal for those that belong together.
        even_groups: The convolutions whose groups keep equal counts.
        whole_groups: The convolutions of which whole groups go.
    """

    ties: Mapping[str, Sequence[int]] = field(default_factory=dict)
    even_groups: frozenset[str] = frozenset()
    whole_groups: frozenset[str] = frozenset()

    @classmethod
    def read(cls, proto: onnx.ModelProto) -> ConvGroupMetadata:
        """Read a model's metadata; nothing comes of them where they do not fit: ties that are missing are made anew."""
        text = next((prop.value for prop in proto.metadata_props if prop.key == KEY), "")
        try:
            content = json.loads(text or "{}")
            ties = {name: [_number(n) for n in numbers] for name, numbers in content.get("ties", {}).items()}
            return cls(ties, *(frozenset(map(str, content.get(key, []))) for key in ("even", "whole")))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()

    def pairs(self, layers: Sequence[tuple[str, Array]]) -> tuple[Array, Array]:
        """Labels to be tied pair by pair, of layers with names and labels (channels,)."""
        fitting = [(self.ties[name], labels) for name, labels in layers if len(self.ties.get(name, ())) == len(labels)]
        if not fitting:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        numbers = np.concatenate([np.asarray(n, np.int64) for n, _ in fitting])
        labels = np.concatenate([labels for _, labels in fitting])
        _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
        return labels[first][which.reshape(-1)], labels

    def write(self, proto: onnx.ModelProto) -> None:
        """Put the choice into a model's metadata, in place of one that was there."""
        kept = [prop for prop in proto.metadata_props if prop.key != KEY]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        if self != ConvGroupMetadata():
            ties = {name: list(numbers) for name, numbers in self.ties.items()}
            content = {"ties": ties, "even": sorted(self.even_groups), "whole": sorted(self.whole_groups)}
            proto.metadata_props.append(onnx.StringStringEntryProto(key=KEY, value=json.dumps(content)))


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"no number of a set: {value!r}")
    return value
