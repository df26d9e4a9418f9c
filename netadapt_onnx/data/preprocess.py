"""How a picture becomes a sample: resized, cropped, in the channel order of the input, scaled by mean and std."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from netadapt_onnx.data.dataset import LazyArray, Scaling
from netadapt_onnx.data.shapes import format_shape
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import invalid_data, require_package
from netadapt_onnx.graph.shapes import Specs

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Entries of the ONNX standard on images in a model's metadata (onnx/docs/MetadataProps.md): pixel order and range.
PIXEL_FORMAT, PIXEL_RANGE = "Image.BitmapPixelFormat", "Image.NominalPixelRange"
_RANGES = {"NominalRange_0_255": (0.0, 1 / 255), "Normalized_0_1": (0.0, 1.0), "Normalized_1_1": (0.5, 0.5)}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes one sample of a model's input.

    Attributes:
        name: The input's.
        shape: The input's, (N, C, H, W) or (N, H, W, C).
        dtype: The input's number type.
        resize: Pixels of the shorter side, or (height, width); None: pictures keep their size.
        crop: Pixels of a square, or (height, width), out of the middle; None: nothing is cut off.
        reversed_channels: Whether the model takes blue, green, red.
    """

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
        """One sample as bytes, without the axis of samples.

        Args:
            picture: Of any size and colour.
            label: The picture's name in messages.

        Raises:
            NetadaptError: The picture has another size in the end.
        """
        picture = _crop(_resize(picture.convert(MODES[self.channels]), self.resize), self.crop, label)
        if (picture.height, picture.width) != self.size:
            raise invalid_data(
                f"{label} is {picture.height}x{picture.width} (height x width), but the model's input '{self.name}' "
                f"takes {format_shape(self.size)}",
                f"give --resize and --crop, e.g. --resize {max(self.size)} --crop {format_shape(self.size)}",
            )
        values = np.asarray(picture)
        sample: np.ndarray = self.arrange((values if values.ndim == 3 else values[:, :, None])[None])[0]
        return sample

    def arrange(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (N, height, width, channels) of the right size in the model's layout."""
        if self.reversed_channels:
            pictures = pictures[..., ::-1]
        return np.ascontiguousarray(pictures if self.channels_last else np.moveaxis(pictures, -1, 1))


@dataclass(frozen=True)
class LazyPictures:
    """Pictures that are opened when their rows are read, as an array of bytes (N, ...).

    Attributes:
        count: How many pictures there are.
        open_row: Returns the picture of a row, and its name in messages.
        prepare: Makes a picture a sample.
        dtype: Bytes.
    """

    count: int
    open_row: Callable[[int], tuple[Image, str]]
    prepare: Preprocessing
    dtype: np.dtype[Any] = field(default=np.dtype(np.uint8), init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *sample)."""
        return (self.count, *self.prepare.shape[1:])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Any) -> np.ndarray:
        index = np.arange(self.count)[rows]
        samples = np.empty((len(index), *self.prepare.shape[1:]), np.uint8)
        for position, row in enumerate(index):
            samples[position] = self.prepare(*self.open_row(int(row)))
        return samples


def preprocessing(source: DataSource, specs: Specs, metadata: Mapping[str, str]) -> Preprocessing:
    """How pictures become samples of a model.

    Args:
        source: Says how they are resized and cropped.
        specs: Shape and type of the model's inputs by name.
        metadata: The model's `metadata_props`, which may say that it takes blue, green, red.

    Raises:
        NetadaptError: The model has no input, or several, for pictures.
    """
    names = [name for name, (shape, _) in specs.items() if len(shape) == 4 and {shape[1], shape[-1]} & MODES.keys()]
    if len(specs) != 1 or not names:
        inputs = ", ".join(f"'{name}' {format_shape(shape)}" for name, (shape, _) in specs.items())
        raise invalid_data(
            f"{source} holds pictures, but the model takes {inputs}",
            "pictures need one input NxCxHxW or NxHxWxC of 1, 3 or 4 channels; give an .npz or FILE.py:FUNCTION",
        )
    shape, dtype = specs[names[0]]
    reverse = metadata.get(PIXEL_FORMAT, "").startswith("Bgr")
    return Preprocessing(names[0], shape, dtype, source.resize, source.crop, reverse)


def picture_scaling(source: DataSource, prepare: Preprocessing, metadata: Mapping[str, str]) -> dict[str, Scaling]:
    """How bytes become floats, by input name: by --mean and --std, or by the range that the metadata name.

    Raises:
        NetadaptError: Neither gives a mean and a deviation, or the model takes integers other than bytes.
    """
    if prepare.dtype == np.uint8:
        return {}
    mean, std = source.mean, source.std
    if mean is None and std is None and metadata.get(PIXEL_RANGE) in _RANGES:
        low, unit = _RANGES[metadata[PIXEL_RANGE]]
        mean, std = (low,), (unit,)
    if mean is None or std is None or prepare.dtype.kind != "f":
        raise invalid_data(
            f"{source} holds pictures of bytes, but the model's input '{prepare.name}' takes {prepare.dtype}",
            "give --mean and --std per channel, for (x / 255 - mean) / std; 0 and 1 give pixels from 0 to 1",
        )
    return {prepare.name: channel_scaling(np.array(mean), np.array(std), prepare.name, prepare.shape, prepare.dtype)}


def channel_scaling(
    mean: np.ndarray, std: np.ndarray, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Scaling:
    """The scaling by mean and standard deviation per channel: the first axis of a sample (NCHW), else the last (NHWC).

    Args:
        mean: One number, or (channels,), of pixels from 0 to 1.
        std: Likewise.
        name: The input's.
        shape: The input's, samples first.
        dtype: The input's number type.

    Raises:
        NetadaptError: There are other channels than the input has, or the numbers are not finite or not positive.
    """
    scaling = [_along_channels(what, values, name, shape[1:]) for what, values in (("mean", mean), ("std", std))]
    return Scaling(scaling[0], scaling[1], dtype)


def _along_channels(what: str, values: np.ndarray, name: str, sample: tuple[int, ...]) -> np.ndarray:
    """Mean or std, so that it broadcasts to a sample."""
    if values.dtype.kind not in "iuf":
        raise invalid_data(f"{what} has type {values.dtype}: it must hold numbers")
    flat = np.asarray(values, np.float32).reshape(-1)
    if not np.isfinite(flat).all() or (what == "std" and (flat <= 0).any()):
        raise invalid_data(f"{what} holds {flat.tolist()}: it must be finite, and std positive")
    if flat.size == 1:
        return flat.reshape((1,) * len(sample))
    if sample and flat.size == sample[0]:
        return flat.reshape(-1, *(1 for _ in sample[1:]))
    if sample and flat.size == sample[-1]:
        return flat.reshape(*(1 for _ in sample[1:]), -1)
    raise invalid_data(f"{what} has {flat.size} values, but the model's input '{name}' takes Nx{format_shape(sample)}")


def _from_bytes(values: np.ndarray, name: str, row: int) -> tuple[Image, str]:
    """One of the pictures (N, height, width[, channels]) of a file, and its name in messages."""
    from PIL import Image

    return Image.fromarray(values[row]), f"{name}, picture {row},"


def pictures_from_bytes(values: np.ndarray, prepare: Preprocessing, name: str) -> LazyArray:
    """Pictures in memory as the model takes them: as they are if they fit, else each prepared when it is read.

    Args:
        values: Bytes, (N, height, width) or (N, height, width, channels).
        prepare: Makes a picture a sample.
        name: The name of their file in messages.
    """
    channels = values.shape[3] if values.ndim == 4 else 1
    as_is = prepare.resize is None and prepare.crop is None and values.shape[1:3] == prepare.size
    if as_is and channels == prepare.channels:
        return prepare.arrange(values if values.ndim == 4 else values[..., None])
    require_package("PIL.Image", f"{name} has to be converted, which needs Pillow")
    return LazyPictures(len(values), partial(_from_bytes, values, name), prepare)


def _resize(picture: Image, size: tuple[int, ...] | None) -> Image:
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


def _crop(picture: Image, size: tuple[int, ...] | None, label: str) -> Image:
    """The middle of a picture, (height, width) or a square."""
    if size is None:
        return picture
    height, width = size if len(size) == 2 else size * 2
    if picture.height < height or picture.width < width:
        raise invalid_data(
            f"{label} is {picture.height}x{picture.width} (height x width), too small for --crop {format_shape(size)}",
            "give --resize too",
        )
    y, x = round((picture.height - height) / 2), round((picture.width - width) / 2)
    return picture.crop((x, y, x + width, y + height))
