"""DICOM files of drawn pixels, for the tests of every stage that reads images."""

import io
import tempfile
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
NAME = "Sommerfeld^Adelheid"
# Blocks of 8 x 8 pixels, so that lossy codes keep them nearly.
PIXELS = np.random.default_rng(0).integers(20, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
GREY = PIXELS[..., 0].copy()


def dicom_file(
    pixels: np.ndarray = PIXELS,
    syntax: str = ExplicitVRLittleEndian,
    photometric: str = "RGB",
    *,
    data: bytes | None = None,
    **tags: Any,
) -> bytes:
    """Bytes of a DICOM file.

    Args:
        pixels: Pixels, (height, width) or (height, width, 3), uint8 or uint16.
        syntax: Transfer syntax.
        photometric: Photometric interpretation.
        data: Encoded pixels. By default, the bytes of ``pixels``.
        tags: Further elements by keyword. None leaves an element out.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = PHOTOGRAPHY
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = dataset.SOPInstanceUID = PHOTOGRAPHY
    elements = {
        "PatientName": NAME,
        "PatientBirthDate": "19340217",
        "PatientID": "P17",
        "ImageLaterality": "L",
        "Manufacturer": "Topcon",
        "ManufacturerModelName": "NW400",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": photometric,
        "PlanarConfiguration": 0 if pixels.ndim == 3 else None,
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": 0,
        **tags,
    }
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset.PixelData = native if data is None else encapsulate([data]) if UID(syntax).is_encapsulated else data
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 and not UID(syntax).is_encapsulated else "OB"
    content = io.BytesIO()
    dataset.save_as(
        content,
        enforce_file_format=True,
        little_endian=syntax != ExplicitVRBigEndian,
        implicit_vr=syntax == ImplicitVRLittleEndian,
    )
    return content.getvalue()


def encoded(kind: str, pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    """Pixels as a file of another format."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def transcoded(content: bytes, name: str) -> bytes:
    """A DICOM file in another transfer syntax, named as GDCM names it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        source.write_bytes(content)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(source))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return target.read_bytes()
