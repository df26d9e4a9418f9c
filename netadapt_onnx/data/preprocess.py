"""Pictures of any size and colour as a model's one picture input takes them: resized, cropped, in its channel order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from netadapt_onnx.data.dataset import Scaling, Specs
from netadapt_onnx.data.labels import shown
from netadapt_onnx.data.mean_std import scaling_of
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# What the ONNX standard says of images in a model's metadata (onnx/docs/MetadataProps.md): pixel order and range.
PIXEL_FORMAT, PIXEL_RANGE = "Image.BitmapPixelFormat", "Image.NominalPixelRange"
_RANGES = {"NominalRange_0_255": (0.0, 1 / 255), "Normalized_0_1": (0.0, 1.0), "Normalized_1_1": (0.5, 0.5)}


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes one sample of the model's input `name`. Sizes are (height, width) in pixels."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    resize: tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    reversed_channels: bool = False

    @property
    def channels_last(self) -> bool:
        """Whether a sample is (height, width, channels)."""
        return self.shape[1] not in MODES

    @property
    def channels(self) -> int:
        """1 (grey), 3 (colour) or 4 (with transparency)."""
        return self.shape[-1] if self.channels_last else self.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the model takes."""
        first = 1 if self.channels_last else 2
        return self.shape[first], self.shape[first + 1]

    def __call__(self, picture: Image, label: str) -> np.ndarray:
        """One sample as bytes. Raises NetadaptError naming the picture where it has another size in the end."""
        found = _resized(picture.convert(MODES[self.channels]), self.resize)
        found = _cropped(found, self.crop, label)
        if (found.height, found.width) != self.size:
            raise NetadaptError(
                f"{label} is {found.height}x{found.width} (height x width), but the model's input '{self.name}' takes "
                f"{shown(self.size)}",
                hint=f"give --resize and --crop, e.g. --resize {max(self.size)} --crop {shown(self.size)}",
                code="invalid-data",
            )
        values = np.asarray(found)
        sample: np.ndarray = self.arranged((values if values.ndim == 3 else values[:, :, None])[None])[0]
        return sample

    def arranged(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (N, height, width, channels) of the right size in the model's layout."""
        if self.reversed_channels:
            pictures = pictures[..., ::-1]
        return np.ascontiguousarray(pictures if self.channels_last else np.moveaxis(pictures, -1, 1))


class Pictures:
    """Pictures that are opened when their rows are asked for: an array of bytes (N, ...) to whoever reads it.

    `opened(row)` gives a picture and what to call it in messages; `prepare` makes it a sample.
    """

    def __init__(self, count: int, opened: Callable[[int], tuple[Image, str]], prepare: Preparation) -> None:
        self._count = count
        self._opened = opened
        self._prepare = prepare
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *sample)."""
        return (self._count, *self._prepare.shape[1:])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Any) -> np.ndarray:
        index = np.arange(self._count)[rows]
        made = np.empty((len(index), *self._prepare.shape[1:]), np.uint8)
        for place, row in enumerate(index):
            picture, label = self._opened(int(row))
            made[place] = self._prepare(picture, label)
        return made


def preparation(source: DataSource, specs: Specs, metadata: Mapping[str, str]) -> Preparation:
    """What pictures need for the model's input. Raises NetadaptError if it has no single input for pictures."""
    names = [name for name, (shape, _) in specs.items() if len(shape) == 4 and {shape[1], shape[-1]} & MODES.keys()]
    if len(specs) != 1 or not names:
        inputs = ", ".join(f"'{name}' {shown(shape)}" for name, (shape, _) in specs.items())
        raise NetadaptError(
            f"{source} holds pictures, but the model takes {inputs}",
            hint="pictures need one input NxCxHxW or NxHxWxC of 1, 3 or 4 channels; give an .npz or FILE.py:FUNCTION",
            code="invalid-data",
        )
    shape, dtype = specs[names[0]]
    reverse = metadata.get(PIXEL_FORMAT, "").startswith("Bgr")
    return Preparation(names[0], shape, dtype, source.resize, source.crop, reverse)


def picture_scaling(source: DataSource, prepare: Preparation, metadata: Mapping[str, str]) -> dict[str, Scaling]:
    """Bytes to what the model takes: by --mean and --std, or what its metadata say. Raises NetadaptError if neither."""
    if prepare.dtype == np.uint8:
        return {}
    mean, std = source.mean, source.std
    if mean is None and std is None and metadata.get(PIXEL_RANGE) in _RANGES:
        low, unit = _RANGES[metadata[PIXEL_RANGE]]
        mean, std = (low,), (unit,)
    if mean is None or std is None or prepare.dtype.kind != "f":
        raise NetadaptError(
            f"{source} holds pictures of bytes, but the model's input '{prepare.name}' takes {prepare.dtype}",
            hint="give --mean and --std per channel, for (x / 255 - mean) / std; 0 and 1 give pixels from 0 to 1",
            code="invalid-data",
        )
    made = scaling_of(np.array(mean), np.array(std), prepare.name, prepare.shape, prepare.dtype)
    return {prepare.name: made}


@dataclass(frozen=True)
class Bytes:
    """Opens pictures that are in memory, (N, height, width[, channels])."""

    values: np.ndarray
    name: str

    def __call__(self, row: int) -> tuple[Image, str]:
        """The picture of a row."""
        from PIL import Image

        return Image.fromarray(self.values[row]), f"{self.name}, picture {row},"


def arrays_of(values: np.ndarray, prepare: Preparation, name: str) -> np.ndarray | Pictures:
    """Pictures in memory, (N, height, width[, channels]) bytes, as the model takes them: at once if they fit as is."""
    channels = values.shape[3] if values.ndim == 4 else 1
    as_is = prepare.resize is None and prepare.crop is None and values.shape[1:3] == prepare.size
    if as_is and channels == prepare.channels:
        return prepare.arranged(values if values.ndim == 4 else values[..., None])
    require_pillow(f"{name} has to be converted, which")
    return Pictures(len(values), Bytes(values, name), prepare)


def require_pillow(what: str) -> None:
    """Raise NetadaptError unless pictures can be opened."""
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise NetadaptError(
            f"{what} needs Pillow", hint="pip install 'netadapt-onnx[adapt]'", code="missing-package"
        ) from error


def _resized(picture: Image, size: tuple[int, ...] | None) -> Image:
    """To exactly (height, width), or with one number so that the shorter side has it; bilinear, smoothed."""
    from PIL.Image import Resampling

    if size is None:
        return picture
    if len(size) == 2:
        height, width = size
    else:
        scale = size[0] / min(picture.height, picture.width)
        height, width = max(size[0], int(picture.height * scale)), max(size[0], int(picture.width * scale))
    return picture.resize((width, height), Resampling.BILINEAR)


def _cropped(picture: Image, size: tuple[int, ...] | None, label: str) -> Image:
    """The middle of a picture, (height, width) or a square."""
    if size is None:
        return picture
    height, width = size if len(size) == 2 else size * 2
    if picture.height < height or picture.width < width:
        raise NetadaptError(
            f"{label} is {picture.height}x{picture.width} (height x width), too small for --crop {shown(size)}",
            hint="give --resize too",
            code="invalid-data",
        )
    top, left = round((picture.height - height) / 2), round((picture.width - width) / 2)
    return picture.crop((left, top, left + width, top + height))
