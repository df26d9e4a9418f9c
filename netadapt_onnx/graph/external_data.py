"""External data: every tensor that names another file, one rule for which files, and the only way they are opened.

Models are not trusted. The rule: a regular file in the model's own folder or a folder within it, reached through no
link and no hidden name. Tensors that break it are refused by name before any file is opened.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from onnx import TensorProto

from netadapt_onnx.errors import NetadaptError

_CODE, _TENSOR = "external-data", TensorProto.DESCRIPTOR.full_name
_KEEP_DATA_NEAR = "keep the data beside the model"
_DIGITS = re.compile("[0-9]{1,19}")
# Every system's separators and drives are looked for on every system: the file may have been made on another.
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")
_SEPARATORS, _SLASH = re.compile(r"[/\\]"), re.compile("/")
# Files are opened relative to descriptors of their folders where the system can; Windows cannot.
_BY_DESCRIPTOR = {os.open, os.stat} <= os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


@dataclass(frozen=True)
class ExternalData:
    """Where a tensor's data are: `parts` are folders and file below the model's folder; `length` None: to the end."""

    parts: tuple[str, ...]
    offset: int
    length: int | None

    @property
    def location(self) -> str:
        """The path relative to the model's folder."""
        return "/".join(self.parts)


def tensors(message: Any) -> Iterator[TensorProto]:
    """Every tensor within a protobuf message, wherever the format has a place for one.

    The places are read from the message types' own descriptors, so that none that ONNX adds is forgotten.
    """
    if message.DESCRIPTOR.full_name == _TENSOR:
        yield message
    else:
        yield from _within(message)


def external_tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    """The tensors whose data are in other files: weights of the main graph first, then all others."""
    return [*filter(_is_external, proto.graph.initializer), *external_values(proto)]


def external_values(proto: onnx.ModelProto) -> list[TensorProto]:
    """Those of them that are no weights of the main graph: sparse, in attributes, subgraphs, functions, training."""
    others = chain(_within(proto.graph, besides="initializer"), _within(proto, besides="graph"))
    return [tensor for tensor in others if _is_external(tensor)]


def external_data(tensor: TensorProto, model: Path) -> ExternalData:
    """Where a tensor of `model` says that its data are. Raises NetadaptError unless a model may keep data there."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not isinstance(location, str) or not location:
        raise _refused(tensor, model, "does not say where its external data are", "export the model again")
    numbers: dict[str, int | None] = {}
    for key in ("offset", "length"):
        text = entries.get(key, "")
        if text and not (isinstance(text, str) and _DIGITS.fullmatch(text)):
            why = f"has external data of an impossible {key} ({text!r:.40})"
            raise _refused(tensor, model, why, "export the model again")
        numbers[key] = int(text) if text else None
    return ExternalData(_allowed(tensor, model, location), numbers["offset"] or 0, numbers["length"])


def open_external(tensor: TensorProto, model: Path) -> BinaryIO:
    """Open the file that holds a tensor's data. Raises NetadaptError if it is missing, a link, or no regular file.

    What is checked is what is opened: no name is looked up twice, and nothing but a regular file is ever opened.
    """
    place = external_data(tensor, model)
    try:
        return _opened(model.parent, place.parts) if _BY_DESCRIPTOR else _opened_by_path(model.parent, place.parts)
    except FileNotFoundError as error:
        message = f"{model}: external data file '{place.location}' of tensor '{tensor.name}' is missing"
        raise NetadaptError(message, hint="copy it beside the model", code=_CODE) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            why = f"keeps its data in '{place.location}', a link, which may lead outside the model's folder"
            raise _refused(tensor, model, why, "put the data themselves in the place of the link") from error
        why = f"keeps its data in '{place.location}', which cannot be opened: {error.strerror}"
        raise _refused(tensor, model, why) from error  # a folder, a name that is too long, no permission


def load_external(tensors: Iterable[TensorProto], model: Path) -> None:
    """Bring external tensors' data into them; each file is opened once. Raises NetadaptError if they cannot be read."""
    files: dict[tuple[str, ...], list[TensorProto]] = {}
    for tensor in tensors:
        files.setdefault(external_data(tensor, model).parts, []).append(tensor)
    for together in files.values():
        with open_external(together[0], model) as stream:
            for tensor in together:
                tensor.raw_data = _part(stream, tensor, model)
                forget_location(tensor)
                tensor.data_location = TensorProto.DEFAULT


def forget_location(tensor: TensorProto) -> None:
    """Let a tensor keep nothing of where its data are, so that no library looks for them by itself."""
    del tensor.external_data[:]


def _part(stream: BinaryIO, tensor: TensorProto, model: Path) -> bytes:
    """What a tensor names of an open file."""
    place = external_data(tensor, model)
    rest = os.fstat(stream.fileno()).st_size - place.offset
    length = rest if place.length is None else place.length
    if not 0 <= length <= rest:
        why = f"has data beyond the end of '{place.location}'"
        raise _refused(tensor, model, why, "copy the whole file beside the model")
    stream.seek(place.offset)
    return stream.read(length)


def _is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _within(message: Any, besides: str = "") -> Iterator[TensorProto]:
    """Tensors within a message's fields, all `besides` one."""
    for name, repeated in _fields_to_tensors(message.DESCRIPTOR):
        if name == besides:
            continue
        if repeated:
            for inner in getattr(message, name):
                yield from tensors(inner)
        elif message.HasField(name):
            yield from tensors(getattr(message, name))


@cache
def _fields_to_tensors(message: Any) -> tuple[tuple[str, bool], ...]:
    """A message type's fields that tensors can be within, and whether each is repeated."""
    return tuple((f.name, f.is_repeated) for f in message.fields if f.message_type and _holds(f.message_type, ()))


def _holds(message: Any, above: tuple[Any, ...]) -> bool:
    """Whether a message of this type can hold a tensor; `above` are the types that it was reached through."""
    if message.full_name == _TENSOR:
        return True
    if message in above:
        return False
    inner = (field.message_type for field in message.fields if field.message_type)
    return any(_holds(kind, (*above, message)) for kind in inner)


def _allowed(tensor: TensorProto, model: Path, location: str) -> tuple[str, ...]:
    """The parts of a location. Raises NetadaptError if it leaves the model's folder or names what is hidden."""
    if not location.isprintable():
        raise _refused(tensor, model, f"keeps its data in a file whose name cannot be printed ({location!r:.200})")
    steps = [step for step in _SEPARATORS.split(location) if step not in ("", ".")]
    if _ABSOLUTE.match(location) or ".." in steps or not steps:
        raise _refused(tensor, model, f"keeps its data outside the model's folder ({location:.200})")
    if any(step.startswith(".") for step in steps):
        raise _refused(tensor, model, f"keeps its data in a hidden file or folder ({location:.200})")
    separators = _SEPARATORS if os.sep == "\\" else _SLASH
    return tuple(part for part in separators.split(location) if part not in ("", "."))


def _refused(tensor: TensorProto, model: Path, why: str, hint: str = _KEEP_DATA_NEAR) -> NetadaptError:
    name = f"tensor '{tensor.name}'" if tensor.name else "a tensor without a name"
    return NetadaptError(f"{model}: {name} {why}", hint=hint, code=_CODE)


def _opened(folder: Path, parts: tuple[str, ...]) -> BinaryIO:
    """Open a file from folder to folder by descriptors. Raises OSError for a link or what is no regular file."""
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in parts[:-1]:
            _require_folder(os.stat(name, dir_fd=above, follow_symlinks=False))
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            os.close(above)
            above = inner
        # Before it is opened: that alone may hang (a fifo) or do something (a device).
        _require_file(os.stat(parts[-1], dir_fd=above, follow_symlinks=False))
        return _stream(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above))
    finally:
        os.close(above)


def _opened_by_path(folder: Path, parts: tuple[str, ...]) -> BinaryIO:
    """Open a file by its path, which must be the one that the system knows it by. Raises OSError as `_opened` does."""
    folder = folder.resolve()
    for number in range(1, len(parts)):
        _require_folder(folder.joinpath(*parts[:number]).lstat())
    file = folder.joinpath(*parts)
    before = file.lstat()
    _require_file(before)
    if os.path.normcase(file.resolve(strict=True)) != os.path.normcase(file):
        raise OSError(errno.ELOOP, "it is reached by another name")
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    if not os.path.samestat(before, os.fstat(descriptor)):
        os.close(descriptor)
        raise OSError(errno.EAGAIN, "it was replaced meanwhile")
    return _stream(descriptor)


def _stream(descriptor: int) -> BinaryIO:
    try:
        _require_file(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_folder(status: os.stat_result) -> None:
    _refuse_link(status)
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _require_file(status: os.stat_result) -> None:
    _refuse_link(status)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def _refuse_link(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a link")
