"""DICOM files: tags, pixels of every transfer syntax, and damaged or malicious files."""

import io
import json
import logging
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dicom_files import GREY, NAME, PIXELS, dicom_file, encoded, transcoded
from fuzz import mutated
from retinaflow.data import dicom_pixels
from retinaflow.data.decoding import decode_image
from retinaflow.data.dicom import MISSING, Dicom, DicomError, read_dicom
from retinaflow.data.dicom_process import decode_apart
from retinaflow.data.headers import Header, read_headers
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.preprocess import prepare
from retinaflow.preprocessing.variant import Variant

NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
LOSSLESS = ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
KINDS = ("", "empty", "not_an_image", "unreadable", "truncated", "oversized", "blank")


def read(path: Path, megapixels: int = 1) -> Header:
    (header,) = read_headers([str(path)], megapixels, cache=path.parent / "cache/headers.json", code="code", threads=1)
    return header


def header_of(folder: Path, content: bytes) -> Header:
    path = folder / "1.dcm"
    path.write_bytes(content)
    return read(path)


def rgb(content: bytes) -> np.ndarray:
    return decode_image(content)[..., ::-1]


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


# Pixels.


@pytest.mark.parametrize("syntax", NATIVE, ids=str)
def test_native_colours_are_decoded_exactly(syntax: str) -> None:
    assert (rgb(dicom_file(PIXELS, syntax)) == PIXELS).all()


@pytest.mark.parametrize("syntax", NATIVE, ids=str)
def test_native_grey_of_16_bits_is_scaled(syntax: str) -> None:
    content = dicom_file(GREY.astype(np.uint16) * 257, syntax, "MONOCHROME2")
    assert (rgb(content) == three(GREY)).all()


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("kind", ["colour", "grey", "grey of 16 bits"])
def test_lossless_codes_are_decoded_exactly(name: str, kind: str) -> None:
    pixels = {"colour": PIXELS, "grey": GREY, "grey of 16 bits": GREY.astype(np.uint16) * 257}[kind]
    content = transcoded(dicom_file(pixels, photometric="RGB" if kind == "colour" else "MONOCHROME2"), name)
    assert (rgb(content) == (PIXELS if kind == "colour" else three(GREY))).all()


def test_near_lossless_jpeg_ls_is_decoded() -> None:
    found = rgb(transcoded(dicom_file(), "JPEGLSNearLossless"))
    assert np.abs(found.astype(int) - PIXELS).max() <= 5


def test_jpeg_baseline_has_the_colours_of_the_jpeg() -> None:
    jpeg = encoded("jpeg", quality=95, subsampling=0)
    content = dicom_file(syntax=JPEGBaseline8Bit, photometric="YBR_FULL_422", data=jpeg)
    assert np.abs(rgb(content).astype(int) - rgb(jpeg)).max() <= 2


def test_jpeg_baseline_without_colour_transform_is_rgb() -> None:
    # Pixels of three equal planes have the same values before and after a transform, so these differ.
    jpeg = encoded("jpeg", quality=100, subsampling=0, keep_rgb=True)
    content = dicom_file(syntax=JPEGBaseline8Bit, photometric="RGB", data=jpeg)
    assert np.abs(rgb(content).astype(int) - PIXELS).max() <= 4


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("photometric", ["YBR_RCT", "RGB"])
def test_jpeg_2000_with_and_without_boxes(boxes: bool, photometric: str) -> None:
    data = encoded("JPEG2000", no_jp2=not boxes, mct=int(photometric == "YBR_RCT"))
    assert (rgb(dicom_file(syntax=JPEG2000Lossless, photometric=photometric, data=data)) == PIXELS).all()


def test_lossy_jpeg_2000_is_decoded() -> None:
    data = encoded("JPEG2000", no_jp2=True, irreversible=True, quality_mode="dB", quality_layers=[50], mct=1)
    found = rgb(dicom_file(syntax=JPEG2000, photometric="YBR_ICT", data=data))
    assert np.abs(found.astype(int) - PIXELS).mean() < 3


def test_fast_jpeg_2000_reads_plain_codestreams() -> None:
    data = encoded("JPEG2000", no_jp2=True)
    assert (rgb(dicom_file(syntax=HTJ2K, photometric="YBR_RCT", data=data)) == PIXELS).all()


def test_planes_one_after_another() -> None:
    planes = PIXELS.transpose(2, 0, 1).tobytes()
    assert (rgb(dicom_file(data=planes, PlanarConfiguration=1)) == PIXELS).all()


def test_ybr_full_becomes_rgb() -> None:
    from pydicom.pixels import convert_color_space

    ybr = convert_color_space(PIXELS, "RGB", "YBR_FULL")
    assert np.abs(rgb(dicom_file(ybr, photometric="YBR_FULL")).astype(int) - PIXELS).max() <= 2


def test_ybr_full_422_becomes_rgb() -> None:
    from pydicom.pixels import convert_color_space

    ybr = convert_color_space(PIXELS, "RGB", "YBR_FULL").reshape(-1, 2, 3)
    packed = np.stack([ybr[:, 0, 0], ybr[:, 1, 0], ybr[:, 0, 1], ybr[:, 0, 2]], axis=1)
    content = dicom_file(photometric="YBR_FULL_422", data=packed.tobytes())
    assert np.abs(rgb(content).astype(int) - PIXELS).max() <= 2


def test_monochrome1_is_inverted() -> None:
    assert (rgb(dicom_file(255 - GREY, photometric="MONOCHROME1")) == three(GREY)).all()


@pytest.mark.parametrize("stored", [8, 10, 12, 16])
def test_whole_range_of_stored_bits_counts(stored: int) -> None:
    most = (1 << stored) - 1
    pixels = np.linspace(0, most, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    found = rgb(dicom_file(pixels, photometric="MONOCHROME2", BitsStored=stored, HighBit=stored - 1))[..., 0]
    assert (found == np.round(pixels * 255.0 / most)).mean() > 0.99
    assert (found.min(), found.max()) == (0, 255)


def test_signed_samples_are_shifted() -> None:
    signed = (GREY.astype(np.int16) - 128).astype(np.int8).view(np.uint8)
    assert (rgb(dicom_file(signed, photometric="MONOCHROME2", PixelRepresentation=1)) == three(GREY)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_is_looked_up(bits: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, (3, 200), dtype=np.uint8)
    entries = table if bits == 8 else table.astype(np.uint16) << 8
    numbers = np.random.default_rng(2).integers(0, 240, (20, 30), dtype=np.uint8)
    tags: dict[str, Any] = {}
    for channel, color in enumerate(("Red", "Green", "Blue")):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [200, 20, bits]
        tags[f"{color}PaletteColorLookupTableData"] = entries[channel].tobytes()
    found = rgb(dicom_file(numbers, photometric="PALETTE COLOR", **tags))
    wanted = table[:, np.clip(numbers.astype(int) - 20, 0, 199)].transpose(1, 2, 0)
    assert (found == wanted).all()


def test_pixels_agree_with_pydicom_on_its_files() -> None:
    compared = 0
    for path in sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")):
        try:
            found = rgb(path.read_bytes())
        except RetinaflowError:
            continue
        dataset = pydicom.dcmread(path)
        if dataset.BitsAllocated != 8 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            continue
        wanted = dataset.pixel_array
        assert (found == (wanted if wanted.ndim == 3 else three(wanted))).all(), path.name
        compared += 1
    assert compared > 15


# Tags.


def test_patient_eye_and_camera_are_of_the_tags(tmp_path: Path) -> None:
    content = dicom_file()
    header = header_of(tmp_path, content)
    assert (header.problem, header.size, header.width, header.height) == ("", len(content), 128, 96)
    assert (header.patient, header.eye, header.camera) == ("P17", "left", "Topcon NW400")
    assert float(header.quality) >= 0


@pytest.mark.parametrize(
    ("image", "body", "eye"),
    [("L", "", "left"), ("R", "L", "right"), (None, "R", "right"), ("", "L", "left"), ("B", "L", ""), (None, None, "")],
)
def test_laterality_of_the_image_goes_first(image: str | None, body: str | None, eye: str) -> None:
    assert read_dicom(dicom_file(ImageLaterality=image, Laterality=body)).eye == eye


@pytest.mark.parametrize(
    ("name", "patient", "hidden"),
    [
        (NAME, "P17", False),
        ("ANON0001", "ANON0001", False),
        ("", "Sommerfeld", False),
        (NAME, "sommerfeld", True),
        (NAME, "17_Adelheid", True),
        ("Li^Wu", "LI 1962", True),
        ("Li^Wu", "ALICE7", False),
        ("", "Doe^Jane", True),
    ],
)
def test_identifier_with_a_name_becomes_a_digest(name: str, patient: str, hidden: bool) -> None:
    found = read_dicom(dicom_file(PatientName=name, PatientID=patient)).patient
    assert found.startswith("patient-") if hidden else found == patient
    assert found == read_dicom(dicom_file(PatientName=name, PatientID=patient)).patient


def test_text_is_decoded_and_has_no_control_characters() -> None:
    content = dicom_file(PatientID="Müller\x1b[31m 7", SpecificCharacterSet="ISO_IR 100", PatientName="")
    assert read_dicom(content).patient == "Müller [31m 7"


def test_tags_of_sequences_do_not_count() -> None:
    item = pydicom.Dataset()
    item.PatientID, item.Rows = "somebody else", 7
    content = dicom_file(ReferencedStudySequence=pydicom.Sequence([item]))
    found = read_dicom(content)
    assert (found.patient, found.height) == ("P17", 96)


# Files that cannot be used.


def with_length(content: bytes, tag: bytes, length: int) -> bytes:
    """A file in which the element of a tag declares another length of 32 bits."""
    at = content.rindex(tag)
    return content[: at + 8] + struct.pack("<I", length) + content[at + 12 :]


PIXEL_TAG = b"\xe0\x7f\x10\x00"
JPEG = encoded("jpeg")
CODED: dict[str, bytes] = {
    "JPEG": dicom_file(syntax=JPEGBaseline8Bit, photometric="YBR_FULL_422", data=JPEG),
    "JPEG 2000": dicom_file(syntax=JPEG2000Lossless, photometric="YBR_RCT", data=encoded("JPEG2000", no_jp2=True)),
    "deflated": dicom_file(syntax=DeflatedExplicitVRLittleEndian),
    "big-endian": dicom_file(syntax=ExplicitVRBigEndian),
    "implicit": dicom_file(syntax=ImplicitVRLittleEndian),
    "native": dicom_file(),
    "lossless JPEG": transcoded(dicom_file(), "JPEGLosslessProcess14_1"),
    "JPEG-LS": transcoded(dicom_file(), "JPEGLSLossless"),
    "RLE": transcoded(dicom_file(), "RLELossless"),
}
BAD: dict[str, tuple[bytes, str, str]] = {
    "frames": (dicom_file(NumberOfFrames=2), "unreadable", "2 frames, expected one image a file"),
    "many frames": (dicom_file(NumberOfFrames=99999999), "unreadable", "99999999 frames"),
    "no rows": (dicom_file(Rows=0), "unreadable", "128 x 0 pixels"),
    "too few bytes": (dicom_file(Rows=97), "truncated", "36864 bytes of pixels, expected 37248"),
    "too many pixels": (dicom_file(Rows=60000, Columns=60000), "oversized", "60000 x 60000 pixels, expected 1 meg"),
    "CMYK": (dicom_file(photometric="CMYK"), "unreadable", "photometric interpretation CMYK with 3 samples"),
    "grey of 3 samples": (dicom_file(photometric="MONOCHROME2"), "unreadable", "MONOCHROME2 with 3 samples"),
    "32 bits": (dicom_file(BitsAllocated=32, BitsStored=32), "unreadable", "32 of 32 bits a sample"),
    "no palette": (dicom_file(GREY, photometric="PALETTE COLOR"), "unreadable", "no palette"),
    "video": (dicom_file(syntax="1.2.840.10008.1.2.4.102", data=b"\0" * 99), "unreadable", "which is none of an image"),
    "JPEG of another size": (
        dicom_file(PIXELS[:80], JPEGBaseline8Bit, "YBR_FULL_422", data=JPEG),
        "unreadable",
        "compressed pixels of 128 x 96, although the tags say 128 x 80",
    ),
    "JPEG without end": (
        dicom_file(syntax=JPEGBaseline8Bit, photometric="YBR_FULL_422", data=JPEG[:-200]),
        "truncated",
        "the compressed pixels have no end",
    ),
    "JPEG with a hole": (
        dicom_file(syntax=JPEGBaseline8Bit, photometric="YBR_FULL_422", data=JPEG[:2000] + bytes(900) + JPEG[2900:]),
        "truncated",
        "",
    ),
    "no JPEG": (dicom_file(syntax=JPEGBaseline8Bit, data=b"no codestream"), "truncated", "no header"),
    "long fragment": (with_length(dicom_file(), PIXEL_TAG, 0x7FFFFFFF), "truncated", "expected 2147483647"),
    "fragments of native pixels": (with_length(dicom_file(), PIXEL_TAG, 0xFFFFFFFF), "unreadable", "in fragments"),
    "black": (dicom_file(np.zeros_like(PIXELS)), "blank", "no pixel is brighter than 8 of 255"),
    "no pixels": (dicom_file(Rows=None), "not_an_image", "a DICOM file without pixels"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", BAD)
def test_file_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    content, problem, found = BAD[case]
    header = header_of(tmp_path, content)
    assert header.problem == problem
    assert found in header.found
    assert "Sommerfeld" not in str(header)


@pytest.mark.parametrize("case", CODED)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_file_that_breaks_off_is_found(tmp_path: Path, case: str, share: float) -> None:
    content = CODED[case]
    assert header_of(tmp_path, content[: int(share * len(content))]).problem in ("truncated", "not_an_image")


@settings(max_examples=300, deadline=None)
@given(content=mutated(list(CODED.values()), header=1500))
def test_damaged_file_is_a_problem_or_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("damaged") / "1"
    path.write_bytes(content)
    header = read(path)
    assert header.problem in KINDS
    assert bool(header.problem) == bool(header.found)
    if not header.problem:
        prepare(content, int(header.width), int(header.height), Variant(64, "none", "keep", "none"))


@settings(max_examples=100, deadline=None)
@given(content=mutated(list(CODED.values())))
def test_damaged_pixels_are_a_problem_or_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("damaged") / "1"
    path.write_bytes(content)
    assert read(path).problem in KINDS


def nested(depth: int) -> bytes:
    """A file of sequences inside sequences, each of undefined length."""
    content = dicom_file()
    start = b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    at = content.index(b"\x10\x00\x10\x00PN")
    return content[:at] + start * depth + end * depth + content[at:]


def many(count: int) -> bytes:
    """A file of many empty elements."""
    content = dicom_file()
    at = content.index(b"\x10\x00\x10\x00PN")
    return content[:at] + b"\x09\x00\x01\x10SH\x00\x00" * count + content[at:]


def deflated_bomb() -> bytes:
    """A file of a few megabytes that inflates to gigabytes."""
    content = dicom_file(syntax=DeflatedExplicitVRLittleEndian)
    start = content.index(b"1.2.840.10008.1.2.1.99")
    at = start + 22 + content[start + 22 :].index(b"\x02\x00\x12\x00UI") if b"\x02\x00\x12\x00UI" in content else 0
    assert at
    length = struct.unpack_from("<H", content, at + 6)[0]
    head = content[: at + 8 + length]
    rest = content[at + 8 + length :]
    while rest[:2] == b"\x02\x00":
        step = 8 + struct.unpack_from("<H", rest, 6)[0]
        head, rest = head + rest[:step], rest[step:]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"".join(squeeze.compress(bytes(1 << 24)) for _ in range(128)) + squeeze.flush()
    return head + body


def rle_bomb() -> bytes:
    """Pixels of 128 x 96 whose code stands for many more."""
    header = struct.pack("<16L", 3, 64, 64 + 20000, 64 + 40000, *[0] * 12)
    return dicom_file(syntax=RLELossless, data=header + b"\x81\x00" * 30000)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: nested(5000), ""),
        (lambda: nested(40_000), ""),
        (lambda: nested(60_000), "unreadable"),
        (lambda: many(190_000), ""),
        (lambda: many(900_000), "unreadable"),
        (deflated_bomb, "oversized"),
        (rle_bomb, "unreadable"),
    ],
)
def test_malicious_file_takes_no_time(tmp_path: Path, make: Callable[[], bytes], problem: str) -> None:
    content = make()
    start = time.monotonic()
    header = header_of(tmp_path, content)
    assert header.problem == problem
    assert time.monotonic() - start < 10


PEAK = """
import json, resource, sys
from pathlib import Path
import PIL.Image, simplejpeg, retinaflow.data.quality
from retinaflow.data.headers import read_headers
PIL.Image.init()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(header,) = read_headers(sys.argv[1:], 1, cache=Path(sys.argv[1] + ".cache"), code="code", threads=1)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump([header.problem, after - before], sys.stdout)
"""


def test_deflated_bomb_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(deflated_bomb())
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "1.dcm"], capture_output=True, text=True, check=True)
    problem, kilobytes = json.loads(done.stdout)
    assert problem == "oversized"
    assert kilobytes < 64_000


def test_rle_that_makes_its_decoder_panic_is_a_problem(tmp_path: Path) -> None:
    content = bytearray(CODED["RLE"])
    start = content.rindex(PIXEL_TAG) + 12 + 8 + 8 + 64
    for place in range(start, len(content) - 100, 40):
        content[place] = 0x81
    assert header_of(tmp_path, bytes(content)).problem == "truncated"


def test_messages_and_logs_have_no_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    cases = [content for content, _, _ in BAD.values()] + [content[: len(content) // 2] for content in CODED.values()]
    headers = [header_of(tmp_path, content) for content in [*cases, *CODED.values()]]
    written = f"{headers} {caplog.text} {capfd.readouterr()}".casefold()
    assert "sommerfeld" not in written
    assert "adelheid" not in written
    assert "19340217" not in written


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_pixels, "find_spec", lambda _: None)
    header = header_of(tmp_path, dicom_file())
    assert (header.problem, header.found) == ("unreadable", MISSING)
    assert "make dicom" in header.found


def test_twelve_bits_of_jpeg_name_the_package() -> None:
    path = Path(pydicom.__file__).parent / "data/test_files/JPGExtended.dcm"
    if find_spec("libjpeg"):
        pytest.skip("pylibjpeg-libjpeg is installed")
    with pytest.raises(RetinaflowError, match="needs the package pylibjpeg-libjpeg"):
        decode_image(path.read_bytes())


def test_index_of_a_disc_is_no_image() -> None:
    content = dicom_file().replace(b"1.2.840.10008.5.1.4.1.1.77.1.5.1", b"1.2.840.10008.1.3.10".ljust(32, b"\0"))
    with pytest.raises(DicomError, match="DICOMDIR"):
        read_dicom(content)


def test_encoding_that_is_declared_wrongly_is_read() -> None:
    implicit = dicom_file(syntax=ImplicitVRLittleEndian)
    wrong = implicit.replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2\0".replace(b"1.2\0", b"1.2\0"))
    explicit = dicom_file(syntax=ExplicitVRLittleEndian)
    declared = explicit.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2\0\0\0")
    assert declared != explicit
    found: list[Dicom] = [read_dicom(content) for content in (wrong, declared)]
    assert [dicom.patient for dicom in found] == ["P17", "P17"]
    assert all((decode_image(content)[..., ::-1] == PIXELS).all() for content in (wrong, declared))


def test_preprocessing_decodes_dicom_like_png() -> None:
    variant = Variant(64, "trim", "keep", "none")
    stored = io.BytesIO(dicom_file()).getvalue()
    assert (prepare(stored, 128, 96, variant) == prepare(encoded("png"), 128, 96, variant)).all()


def test_process_that_ends_is_an_error() -> None:
    """GDCM ends its process on some damaged frames."""
    options = {"rows": 8, "columns": 8, "number_of_frames": 1, "samples_per_pixel": 1}
    with pytest.raises(ValueError, match="GDCM cannot decode the frame"):
        decode_apart("1.2.840.10008.1.2.4.70", b"\0" * 100, options)
