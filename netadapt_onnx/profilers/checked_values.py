"""Types of numbers and text from devices and files, checked as they are read."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from netadapt_onnx.common.escape import printable_copy

Number = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
# Below 0 are the uncut model with which others are compared, and the original file.
ModelNumber = Annotated[int, msgspec.Meta(ge=-2, le=2**31)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
# No run of a model takes an hour, and no measuring of one four months.
Ms = Annotated[float, msgspec.Meta(gt=0, le=3.6e6)]
Us = Annotated[float, msgspec.Meta(ge=0, le=3.6e9)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e7)]
Sessions = Annotated[list[Ms], msgspec.Meta(min_length=1, max_length=10_000)]
# Of an interval relative to its median.
Width = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Processors = Annotated[float, msgspec.Meta(ge=0, le=65536)]
Celsius = Annotated[float, msgspec.Meta(ge=-100, le=200)]
Text = Annotated[str, msgspec.Meta(max_length=2_000)]


class _RequiredFields(msgspec.Struct, frozen=True):
    """The fields that an environment has at least."""

    cpu: Text
    flags: list[Text]
    os: Text
    arch: Text
    onnxruntime: Text
    providers: list[Text]
    governor: Text | None


def check_environment(environment: object) -> dict[str, Any]:
    """Check a device's description of itself, and make its text printable.

    Raises ValueError naming what is missing or no text.
    """
    try:
        everything = msgspec.convert(environment, dict[str, Any])
        checked = msgspec.structs.asdict(msgspec.convert(everything, _RequiredFields))
    except msgspec.ValidationError as error:
        raise ValueError(f"environment: {error}") from error
    return {**everything, **printable_copy(checked)}
