"""Image files by their names: formats, thumbnails, and DICOM files without an extension. Imports nothing heavy."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

COMMON = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".jpe", ".jfif", ".jif")
JPEG_2000 = (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")
DICOM = (".dcm", ".dicom", ".dic")
IMAGE_EXTENSIONS = (*COMMON, *JPEG_2000, *DICOM)

# A DICOM file starts with a preamble of 128 bytes that may hold anything.
PREAMBLE = 128
MAGIC = b"DICM"

# Folders and files that file managers, network drives and archivers add. Lower case.
THUMBNAIL_FOLDERS = {"@eadir", "#recycle", "#snapshot", "__macosx", ".thumbnails"}
THUMBNAIL_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}
DIRECTORY = "dicomdir"  # The index of a DICOM disc, which starts as an image does.

EXTENSION = re.compile(r".*(\.[a-z][a-z0-9_]{0,9})", re.IGNORECASE | re.DOTALL)
EXTENSIONS_SHOWN = 8


def is_thumbnail(name: str) -> bool:
    """Whether a file, named relative to the folder that is searched, was added by a file manager or archiver."""
    *folders, file = PurePath(name.lower()).parts or ("",)
    return file in THUMBNAIL_FILES or not THUMBNAIL_FOLDERS.isdisjoint(folders)


def has_image_extension(name: str) -> bool:
    """Whether a name has the extension of an image, in any case."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def extension(name: str) -> str:
    """Return the extension of a name in lower case.

    A DICOM file is often named by a number or an identifier such as ``1.2.840.10008.5``. The last step of it is no
    extension, as it starts with a digit.
    """
    match = EXTENSION.fullmatch(PurePath(name).name)
    return match[1].lower() if match else ""


def is_dicom(start: bytes) -> bool:
    """Whether the start of a file, 132 bytes or more, is that of a DICOM file."""
    return start[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC


def is_image_file(name: str, path: str) -> bool:
    """Whether a file is an image: by its extension or, if it has none, by the start of a DICOM file."""
    if has_image_extension(name):
        return True
    if extension(name) or PurePath(name).name.lower() == DIRECTORY:
        return False
    try:
        # Opening a named pipe would wait for ever.
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            return is_dicom(file.read(PREAMBLE + len(MAGIC)))
    except OSError:
        return False


def other_file(name: str) -> str:
    """Why a file that is no image is passed over."""
    return "a thumbnail or a file of a file manager" if is_thumbnail(name) else "no extension of an image"


def counts_by_extension(names: Iterable[str]) -> str:
    """Counts of files by extension, most frequent first, as ``12 .txt, 3 .pdf, 1 without extension``."""
    counts = sorted(Counter(extension(name) for name in names).items(), key=lambda item: (-item[1], item[0]))
    texts = [f"{count} {suffix or 'without extension'}" for suffix, count in counts[:EXTENSIONS_SHOWN]]
    rest = sum(count for _, count in counts[EXTENSIONS_SHOWN:])
    return ", ".join([*texts, *([f"{rest} others"] if rest else [])]) or "none"
