"""Feature extractors in files: networks in ONNX or Keras form that a path names as `backbone`. Imports no backend.

Files are checked here before any job. ONNX is read as protocol buffers (onnx.ai, onnx.proto3): names, types and shapes
of inputs and outputs, and files of weights beside it. No weight is read.
"""

import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from retinaflow.errors import RetinaflowError
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.protobuf import Message, is_message, message_of

EXTRACTOR_FORMATS = (".onnx", ".keras")
# Types of ONNX tensors that pixels can be (TensorProto.DataType).
PIXEL_TYPES = {1: "float32", 2: "uint8", 10: "float16"}
DEEPEST_GRAPH = 40
# Fields of messages that lead to tensors, by the message: number of the field, and its message.
TENSORS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse"),
    },
    "sparse": {1: "tensor", 2: "tensor"},
}

LONGEST_TEXT = 4096  # bytes of a name


class OnnxValue(NamedTuple):
    """Input or output of an ONNX graph: its name, its type, and its shape with None for a size that varies.

    The shape is None if the file does not have it.
    """

    name: str
    type: int
    shape: tuple[int | None, ...] | None


class OnnxFile(NamedTuple):
    """Inputs and outputs of an ONNX graph, and the files with weights beside it."""

    inputs: list[OnnxValue]
    outputs: list[OnnxValue]
    external: list[Path]


def extractor_file(backbone: str) -> Path | None:
    """Return the file of a backbone that is named by a path; None for a name of ``keras.applications``."""
    return Path(backbone) if backbone.endswith(EXTRACTOR_FORMATS) else None


def is_onnx(backbone: str) -> bool:
    """Whether ``backbone`` is the path of an ONNX file. Such a network computes features and is not trained."""
    return backbone.endswith(".onnx")


def backbone_name(backbone: str) -> str:
    """Return the name of a backbone for networks: of a file, its name in the characters that TensorFlow takes."""
    if not extractor_file(backbone):
        return backbone
    return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(backbone).stem).lstrip("_-") or "backbone"


def needed_extractor_files(file: Path) -> list[Path]:
    """Return ``file``, which comes first, and the files with its weights."""
    return [file, *(read_onnx(file).external if file.suffix == ".onnx" else [])]


def extractor_faults(settings: TrainingSettings) -> Iterator[str]:
    """Say why the file of a backbone cannot be used with ``settings``."""
    file = Path(settings.backbone)
    if not os.path.isfile(file):  # noqa: PTH113
        yield f"there is no file {str(file)!r}; correct the path"
        return
    if file.suffix == ".keras":
        yield from _keras_faults(file)
        return
    try:
        found = read_onnx(file)
        pixel_layout(file, onnx_input(file, found), settings.image_size)
        onnx_outputs(file, found, settings.feature_layers)
        if onnx_input(file, found).type == 2 and settings.normalisation != "none":
            yield uint8_fault(file)
    except RetinaflowError as error:
        yield str(error)


def uint8_fault(file: Path) -> str:
    """Say that a network that takes uint8 pixels has no other normalisation."""
    return f"{file}: the network takes uint8 pixels, which are not normalised; set normalisation to none"


def _keras_faults(file: Path) -> Iterator[str]:
    try:
        with ZipFile(file) as archive:
            if "config.json" not in archive.namelist():
                yield f"{str(file)!r} is no Keras file: it has no config.json; save the network with model.save()"
    except (BadZipFile, OSError, ValueError) as error:
        yield f"{str(file)!r} is no Keras file ({error}); expected a network that model.save() wrote"


def onnx_input(file: Path, found: OnnxFile) -> OnnxValue:
    """Return the only input of an ONNX graph.

    Raises:
        RetinaflowError: It has several, or its type is none of ``PIXEL_TYPES``.
    """
    if len(found.inputs) != 1:
        names = ", ".join(value.name for value in found.inputs) or "none"
        raise RetinaflowError(f"{file}: found the inputs {names}, expected one for images; export only the encoder.")
    (pixels,) = found.inputs
    if pixels.type not in PIXEL_TYPES:
        raise RetinaflowError(
            f"{file}: input {pixels.name!r} has type {pixels.type} of ONNX, expected float32 (1), uint8 (2) or float16 "
            "(10); export the encoder with one of these."
        )
    return pixels


def onnx_outputs(file: Path, found: OnnxFile, names: Sequence[str]) -> list[str]:
    """Return the names of the outputs that are features: ``names``, or the only output.

    Raises:
        RetinaflowError: The graph has no such output, or has several and none is named. Or an output has another rank.
    """
    known = {value.name: value for value in found.outputs}
    chosen = list(names) or list(known)
    if len(known) > 1 and not names:
        raise RetinaflowError(f"{file}: found the outputs {', '.join(known)}; name those to use in feature_layers.")
    for name in chosen:
        if name not in known:
            raise RetinaflowError(
                f"{file}: there is no output {name!r}, found {', '.join(known)}; name these in feature_layers."
            )
        shape = known[name].shape
        if shape is not None and len(shape) not in (2, 3, 4):
            raise rank_error(file, name, shape)
    return chosen


def rank_error(file: Path, name: str, shape: Sequence[int | None]) -> RetinaflowError:
    """Return the error about an output that is no feature."""
    return RetinaflowError(
        f"{file}: output {name!r} has the shape {_text(shape)}, expected features (n, d), tokens (n, tokens, d) or "
        "maps with four axes; export the encoder without its last layers."
    )


def pixel_layout(file: Path, pixels: OnnxValue, size: int) -> str:
    """Return the order of the axes of the input: ``NCHW`` or ``NHWC``.

    Raises:
        RetinaflowError: The input has no axis of 3 channels, or takes images of another size.
    """
    shape = pixels.shape or ()
    layout = "NHWC" if len(shape) == 4 and shape[3] == 3 else "NCHW"
    if len(shape) != 4 or shape["NCHW".index("C") if layout == "NCHW" else 3] != 3:
        raise RetinaflowError(
            f"{file}: input {pixels.name!r} has the shape {_text(shape)}, expected RGB images (n, 3, height, width) or "
            "(n, height, width, 3); export the encoder with 3 channels as a fixed size."
        )
    sides = shape[2:] if layout == "NCHW" else shape[1:3]
    if any(side not in (None, size) for side in sides):
        raise RetinaflowError(
            f"{file}: the network takes images of {sides[0]} x {sides[1]} px, found image_size {size}; set image_size "
            "to the size of the network."
        )
    return layout


def _text(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def read_onnx(file: Path) -> OnnxFile:
    """Read inputs, outputs and files of weights of an ONNX file.

    Raises:
        RetinaflowError: It is no ONNX file, or its weights are missing, too short or outside of its folder.
    """
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            content = memoryview(data)
            try:
                return _read_model(file, message_of(content))
            finally:
                content.release()
    except (OSError, ValueError) as error:
        raise RetinaflowError(
            f"{file}: this is no ONNX file, or not all of one ({error}); export or copy it again."
        ) from error


def _read_model(file: Path, model: Message) -> OnnxFile:
    graphs = list(model.inner(7))
    if len(graphs) != 1:
        raise ValueError("it has no graph")
    weights = {_texts(tensor).get(8) for tensor in graphs[0].inner(5)}
    inputs = [_value(value) for value in graphs[0].inner(11)]
    outputs = [_value(value) for value in graphs[0].inner(12)]
    external = sorted({_external(file, dict(place)) for place in _places(model, "model", 0)})
    if not outputs:
        raise ValueError("its graph has no output")
    return OnnxFile([value for value in inputs if value.name not in weights], outputs, external)


def _value(value: Message) -> OnnxValue:
    """Read a ValueInfoProto: name 1, type 2. Its tensor type 1 has the element type 1 and the shape 2."""
    kind, shape = 0, None
    for tensor in (tensor for outer in value.inner(2) for tensor in outer.inner(1)):
        for number, field in tensor.fields():
            if number == 1 and isinstance(field, int):
                kind = field
            elif number == 2 and is_message(field):
                shape = tuple(_size(side) for side in field.inner(1))
    return OnnxValue(_texts(value).get(1, ""), kind, shape)


def _size(side: Message) -> int | None:
    return next((value for number, value in side.fields() if number == 1 and isinstance(value, int)), None) or None


def _places(message: Message, kind: str, depth: int) -> Iterator[Mapping[str, str]]:
    """Yield the description of each tensor whose weights are in another file, anywhere in the model."""
    if depth > DEEPEST_GRAPH:
        raise ValueError(f"its graphs are nested more than {DEEPEST_GRAPH} deep")
    if kind == "tensor":
        entries = [_texts(entry) for entry in message.inner(13)]
        if entries:
            yield {entry.get(1, ""): entry.get(2, "") for entry in entries}
        return
    inside = TENSORS[kind]
    for number, value in message.fields():
        if number in inside and is_message(value):
            yield from _places(value, inside[number], depth + 1)


def _external(file: Path, place: Mapping[str, str]) -> Path:
    """Return the file with the weights of a tensor. It must be in the folder of ``file``, as ONNX requires."""
    location = place.get("location", "")
    path = file.parent / location
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(file.parent))
    if not location or PurePath(location).is_absolute() or ".." in PurePath(location).parts or not inside:
        raise RetinaflowError(
            f"{file}: its weights are in {location!r}, outside of its folder; expected a file beside it. Export it "
            "again with its weights inside or beside it."
        )
    if not path.is_file():
        raise RetinaflowError(f"{file}: its weights are in {str(path)!r}, and there is no such file; copy it, too.")
    end = int(place.get("offset", 0) or 0) + int(place.get("length", 0) or 0)
    if path.stat().st_size < end:
        raise RetinaflowError(f"{path}: found {path.stat().st_size} bytes, expected {end} or more; copy it again.")
    return path


def _texts(message: Message) -> dict[int, str]:
    """The short texts of a message, by the number of their fields."""
    found = {}
    for number, value in message.fields():
        if is_message(value) and number in (1, 2, 8) and value.end - value.start < LONGEST_TEXT:
            with suppress(UnicodeDecodeError):
                found[number] = value.bytes().decode()
    return found


def megabytes(backbone: str) -> float:
    """Return the size of the files of a backbone in MB."""
    return math.fsum(path.stat().st_size for path in needed_extractor_files(Path(backbone))) / 1e6
