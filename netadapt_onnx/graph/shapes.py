"""The types in which the package speaks of the shapes and element types of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Shape = tuple[int, ...]
# By tensor.
Shapes = Mapping[str, Shape]
# Shape and element type.
Spec = tuple[Shape, np.dtype[Any]]
Specs = Mapping[str, Spec]
