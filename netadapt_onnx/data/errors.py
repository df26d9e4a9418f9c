"""The error of data that do not fit a model, or themselves."""

from __future__ import annotations

from netadapt_onnx.errors import NetadaptError


def invalid_data(message: str, hint: str = "") -> NetadaptError:
    """An error of code `invalid-data`, to be raised."""
    return NetadaptError(message, hint=hint, code="invalid-data")
