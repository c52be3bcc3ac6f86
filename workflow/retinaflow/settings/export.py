"""Settings of the export of models."""

from typing import Annotated, Literal

from pydantic import Field

from retinaflow.settings.section import Section, Unique

ExportFormat = Literal["onnx", "litert", "litert_int8"]


class ExportSettings(Section):
    """Files that `snakemake export` makes of each trained network."""

    formats: Annotated[list[ExportFormat], Field(min_length=1), Unique()] = ["onnx", "litert", "litert_int8"]
    """`onnx` runs in onnxruntime and many others. `litert`, formerly TensorFlow Lite, is for phones and small
    computers. `litert_int8` is the same in 8-bit integers: a quarter of the size, with slightly different outputs."""
