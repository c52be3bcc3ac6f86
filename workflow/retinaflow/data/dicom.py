"""DICOM files of one image: the tags that are needed and the place of the pixels, read within bounds.

The reader skips every other value by its length, so dates of birth and other data of a patient never enter a variable.
The one exception is `PatientName`: it is compared with `PatientID`, which some sites fill with a name. The module
``dicom_pixels`` decodes.

Sources: DICOM PS3.5 2024e, sections 7 (data elements) and A.4 (encapsulated pixels); PS3.10, section 7 (files).
"""

import re
import struct
import zlib
from typing import NamedTuple

from retinaflow.data.codestreams import inflated_pieces
from retinaflow.data.image_files import MAGIC, PREAMBLE, is_dicom
from retinaflow.storage.files import digest

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN}
DISC_INDEX = "1.2.840.10008.1.3.10"  # Storage class of a DICOMDIR.

MISSING = (
    "a DICOM file, which needs the extra `dicom`: run `make dicom`, or pip install --require-hashes -r "
    "envs/requirements-dicom.txt"
)

# Bounds on what a damaged or malicious file can make the reader do.
MOST_ELEMENTS = 200_000
MOST_FRAGMENTS = 100_000
MOST_VALUE = 1 << 18  # Bytes of a value: a palette of 65,536 entries of 16 bits has half of it.
MOST_INFLATED = 1 << 31
MOST_TEXT = 64

UNDEFINED = 0xFFFFFFFF
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010

TRANSFER_SYNTAX, STORAGE_CLASS = 0x00020010, 0x00020002
CHARACTER_SET, MANUFACTURER, MODEL = 0x00080005, 0x00080070, 0x00081090
PATIENT_NAME, PATIENT_ID = 0x00100010, 0x00100020
LATERALITY, IMAGE_LATERALITY = 0x00200060, 0x00200062
SAMPLES, PHOTOMETRIC, PLANAR, FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
ROWS, COLUMNS, ALLOCATED, STORED, SIGNED = 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280103
PALETTE = ((0x00281101, 0x00281201), (0x00281102, 0x00281202), (0x00281103, 0x00281203))
WANTED = {
    *(CHARACTER_SET, MANUFACTURER, MODEL, PATIENT_NAME, PATIENT_ID, LATERALITY, IMAGE_LATERALITY),
    *(SAMPLES, PHOTOMETRIC, PLANAR, FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, SIGNED),
    *(tag for channel in PALETTE for tag in channel),
}
LATERALITIES = {"L": "left", "R": "right"}


class DicomError(Exception):
    """A DICOM file cannot be used: a kind of problem, and a description without any text of the file."""

    def __init__(self, problem: str, found: str) -> None:
        """Keep the kind of problem and the description."""
        super().__init__(found)
        self.problem, self.found = problem, found


class Dicom(NamedTuple):
    """One image of a DICOM file, and to whom it belongs.

    Attributes:
        syntax: Transfer syntax, an identifier.
        width: Columns.
        height: Rows.
        samples: Samples of a pixel, 1 or 3.
        photometric: Photometric interpretation, such as ``RGB``.
        planar: 1 if the pixels are stored plane by plane.
        allocated: Bits of a stored sample.
        stored: Bits of it that are used.
        signed: 1 if samples are signed.
        palette: Descriptor and entries of red, green and blue, as bytes; empty if there are none.
        pixels: Bytes of the pixels: native, or one codestream.
        words: Whether native pixels of 8 bits are stored as words of 16.
        patient: `PatientID`, a digest of it if it holds a part of the name, or empty.
        eye: ``left``, ``right`` or empty.
        camera: Manufacturer and model.
    """

    syntax: str
    width: int
    height: int
    samples: int
    photometric: str
    planar: int
    allocated: int
    stored: int
    signed: int
    palette: tuple[tuple[bytes, bytes], ...]
    pixels: memoryview | bytes
    words: bool
    patient: str
    eye: str
    camera: str


class _Elements(NamedTuple):
    """Values of the wanted elements, and where the value of the pixels starts; 0 if there are none."""

    values: dict[int, bytes]
    pixels: int
    length: int
    representation: bytes


def read_dicom(content: bytes, most_inflated: int = MOST_INFLATED) -> Dicom:
    """Read the tags and the place of the pixels of a DICOM file.

    Args:
        content: Bytes of the file.
        most_inflated: Most bytes of a file of the deflated transfer syntax.

    Raises:
        DicomError: The file is damaged or has no single image.
    """
    if not is_dicom(content):
        raise DicomError("not_an_image", "no DICOM file")
    meta, start = _file_meta(content)
    syntax = _uid(meta.get(TRANSFER_SYNTAX, b""))
    if _uid(meta.get(STORAGE_CLASS, b"")) == DISC_INDEX:
        raise DicomError("not_an_image", "index of a DICOM disc (DICOMDIR)")
    if not syntax:
        raise DicomError("unreadable", "no transfer syntax")
    body = memoryview(content)[start:]
    if syntax == DEFLATED:
        body = memoryview(_inflate(body, most_inflated))
    # Some writers declare one encoding and use the other. A representation is two capitals, an implicit length hardly.
    implicit = not (len(body) > 6 and bytes(body[4:6]).isalpha() and bytes(body[4:6]).isupper())
    elements = _walk(body, implicit=implicit, order=">" if syntax == BIG_ENDIAN else "<")
    return _image(syntax, body, elements)


def _file_meta(content: bytes) -> tuple[dict[int, bytes], int]:
    """Values of the group 2, which is always explicit and little-endian, and where the data set starts."""
    values: dict[int, bytes] = {}
    at = PREAMBLE + len(MAGIC)
    for _ in range(MOST_ELEMENTS):
        if content[at : at + 2] != b"\x02\x00":
            return values, at
        tag, _, length, value = _element(content, at, False, "<")
        if length > MOST_VALUE or value + length > len(content):
            raise DicomError("truncated", "the file ends within its header")
        values[tag] = content[value : value + length]
        at = value + length
    raise DicomError("unreadable", f"more than {MOST_ELEMENTS} elements")


def _inflate(body: memoryview, most: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, total = [], 0
    try:
        for piece in inflated_pieces(inflate, body):
            pieces.append(piece)
            total += len(piece)
            if total > most:
                raise DicomError("oversized", f"inflates to more than {most} bytes")
    except zlib.error:
        raise DicomError("truncated", "the deflated data set is damaged") from None
    if not inflate.eof:
        raise DicomError("truncated", "the deflated data set breaks off")
    return b"".join(pieces)


def _element(content: bytes | memoryview, at: int, implicit: bool, order: str) -> tuple[int, bytes, int, int]:
    """Tag, value representation, length, and place of the value of the element at a place."""
    try:
        group, element = struct.unpack_from(f"{order}HH", content, at)
        tag = group << 16 | element
        if implicit or group == 0xFFFE:
            return tag, b"", struct.unpack_from(f"{order}I", content, at + 4)[0], at + 8
        representation = bytes(content[at + 4 : at + 6])
        if representation in LONG:
            return tag, representation, struct.unpack_from(f"{order}I", content, at + 8)[0], at + 12
        return tag, representation, struct.unpack_from(f"{order}H", content, at + 6)[0], at + 8
    except struct.error:
        raise DicomError("truncated", "the file ends within its header") from None


def _walk(body: memoryview, implicit: bool, order: str) -> _Elements:
    """Find the wanted elements of a data set, up to its pixels. Sequences are skipped, however deep they are."""
    values: dict[int, bytes] = {}
    above: list[bool] = []  # Sequences and items of undefined length that are open: whether what follows is implicit.
    at = 0
    for _ in range(MOST_ELEMENTS):
        if at >= len(body):
            return _Elements(values, 0, 0, b"")
        tag, representation, length, value = _element(body, at, implicit, order)
        at = value
        if tag in (ITEM_END, SEQUENCE_END):
            implicit = above.pop() if above else implicit
        elif tag == PIXEL_DATA and not above:
            return _Elements(values, value, length, representation)
        elif length == UNDEFINED:
            above.append(implicit)
            # A sequence of unknown representation has implicit content (PS3.5, 6.2.2).
            implicit = implicit or representation == b"UN"
        elif length > len(body) - value:
            raise DicomError("truncated", "the file ends before its pixels")
        else:
            at = value + length
            if tag in WANTED and not above and length <= MOST_VALUE:
                values[tag] = bytes(body[value:at])
    raise DicomError("unreadable", f"more than {MOST_ELEMENTS} elements before the pixels")


def _image(syntax: str, body: memoryview, elements: _Elements) -> Dicom:
    values = elements.values
    order = ">" if syntax == BIG_ENDIAN else "<"

    def number(tag: int, default: int = 0) -> int:
        value = values.get(tag, b"")
        return int(struct.unpack_from(f"{order}H", value)[0]) if len(value) >= 2 else default

    if not elements.pixels or ROWS not in values or COLUMNS not in values:
        raise DicomError("not_an_image", "a DICOM file without pixels")
    frames = _decimal(values.get(FRAMES, b"1"))
    if frames != 1:
        raise DicomError("unreadable", f"{frames} frames, expected one image a file: store each frame as a file")
    dicom = Dicom(
        syntax=syntax,
        width=number(COLUMNS),
        height=number(ROWS),
        samples=number(SAMPLES, 1),
        photometric=_word(values.get(PHOTOMETRIC, b"")),
        planar=number(PLANAR),
        allocated=number(ALLOCATED, 8),
        stored=number(STORED, number(ALLOCATED, 8)),
        signed=number(SIGNED),
        palette=tuple((values[first], values[second]) for first, second in PALETTE if {first, second} <= values.keys()),
        pixels=b"",
        words=elements.representation == b"OW",
        patient=_patient(values),
        eye=_eye(values),
        camera=_camera(values),
    )
    if not dicom.width or not dicom.height:
        raise DicomError("unreadable", f"{dicom.width} x {dicom.height} pixels")
    native = syntax in NATIVE
    pixels = _native(body, elements) if native else _encapsulated(body, elements)
    return dicom._replace(pixels=pixels)


def _native(body: memoryview, elements: _Elements) -> memoryview:
    if elements.length == UNDEFINED:
        raise DicomError("unreadable", "pixels in fragments, although the transfer syntax is not compressed")
    if elements.length > len(body) - elements.pixels:
        raise DicomError("truncated", f"{len(body) - elements.pixels} bytes of pixels, expected {elements.length}")
    return body[elements.pixels : elements.pixels + elements.length]


def _encapsulated(body: memoryview, elements: _Elements) -> bytes:
    """Join the fragments of the pixels. The first item is a table of offsets."""
    if elements.length != UNDEFINED:
        raise DicomError("unreadable", "pixels in one piece, although the transfer syntax is compressed")
    fragments: list[memoryview] = []
    at = elements.pixels
    for _ in range(MOST_FRAGMENTS):
        if at + 8 > len(body):
            # The codestream shows by its own end whether something is missing.
            return b"".join(fragments[1:])
        tag, _, length, value = _element(body, at, True, "<")
        if tag == SEQUENCE_END:
            return b"".join(fragments[1:])
        if tag != ITEM or length == UNDEFINED:
            raise DicomError("unreadable", "damaged fragments of pixels")
        if length > len(body) - value:
            raise DicomError("truncated", f"{len(body) - value} bytes of a fragment of pixels, expected {length}")
        fragments.append(body[value : value + length])
        at = value + length
    raise DicomError("unreadable", f"more than {MOST_FRAGMENTS} fragments of pixels")


def _patient(values: dict[int, bytes]) -> str:
    """`PatientID`, or a digest of it if it holds a part of the patient's name."""
    patient = _text(values, PATIENT_ID)
    name = _text(values, PATIENT_NAME, most=MOST_VALUE)
    # Anonymised files often have one code as name and identifier. A code has digits, a name has none.
    parts = {part for part in _words(name, r"[\W_]+") if part.isalpha()}
    within = any(part in patient.casefold() for part in parts if len(part.encode()) > 2)
    if "^" in patient or within or parts & _words(patient, r"[\W\d_]+"):
        return f"patient-{digest(patient.encode('utf-8', 'surrogateescape'))[:12]}"
    return patient


def _words(text: str, separator: str) -> set[str]:
    """Words of two letters or more, in lower case and without apostrophes."""
    return {word for word in re.split(separator, text.casefold().replace("'", "")) if len(word) > 1}


def _eye(values: dict[int, bytes]) -> str:
    """Left or right by the laterality of the image, else of the body part. Empty for both, unpaired and unknown."""
    image = _word(values.get(IMAGE_LATERALITY, b""))
    return LATERALITIES.get(image or _word(values.get(LATERALITY, b"")), "")


def _camera(values: dict[int, bytes]) -> str:
    manufacturer, model = _text(values, MANUFACTURER), _text(values, MODEL)
    if model.casefold().startswith(manufacturer.casefold()):
        return model
    return f"{manufacturer} {model}".strip()


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("ascii", "replace")
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else ""


def _word(value: bytes) -> str:
    """A code of capitals, digits, blanks and underscores. Empty for anything else."""
    text = value[:MOST_TEXT].rstrip(b"\0 ").decode("ascii", "replace").strip()
    return text if re.fullmatch(r"[A-Z0-9_ ]*", text) else ""


def _decimal(value: bytes) -> int:
    text = value[:MOST_TEXT].strip(b"\0 ")
    return int(text) if re.fullmatch(rb"[0-9]{1,9}", text) else 1 if not text else 0


def _text(values: dict[int, bytes], tag: int, most: int = MOST_TEXT) -> str:
    """Printable text of a value, in the character set of the file."""
    value = values.get(tag, b"")[: 4 * most]
    try:
        text = value.decode(_encoding(values.get(CHARACTER_SET, b"")))
    except UnicodeDecodeError:
        text = value.decode("latin_1")
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())[:most]


# Character sets without code extensions (PS3.3, C.12.1.1.2), and UTF-8, which holds ASCII.
ENCODINGS = {
    **{f"ISO_IR {number}": f"iso8859_{part}" for number, part in ((100, 1), (101, 2), (109, 3), (110, 4), (144, 5))},
    **{f"ISO_IR {number}": f"iso8859_{part}" for number, part in ((127, 6), (126, 7), (138, 8), (148, 9), (203, 15))},
    **{"ISO_IR 13": "shift_jis", "ISO_IR 166": "tis_620", "GB18030": "gb18030", "GBK": "gbk"},
}


def _encoding(value: bytes) -> str:
    return ENCODINGS.get(_word(value.split(b"\\")[0]).replace("ISO 2022 IR", "ISO_IR"), "utf_8")
