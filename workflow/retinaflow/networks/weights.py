"""Weights files: check a file, and fetch the ImageNet weights of a backbone once, for jobs without internet."""

import os
import shutil
import tempfile
from pathlib import Path

from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import BACKBONES
from retinaflow.storage.disk_errors import disk_refusal
from retinaflow.storage.files import whole_file

# HDF5 file format specification, version 3.0, section II.A: the signature at the start of a file, and the offset of the
# end-of-file address by the version of the superblock. Keras writes addresses of 8 bytes.
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
END_ADDRESS = {0: 40, 1: 44, 2: 28, 3: 28}
SET = "Set `weights` to one, or to 'imagenet' or 'random'."
EXPECTED_WEIGHTS = "expected a .h5 or .weights.h5 file that Keras saved for this backbone without its top"


def weights_fault(path: str | os.PathLike[str]) -> str:
    """Return why the file ``path`` cannot hold all weights, by its name and first bytes. Empty if it can."""
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"cannot be read ({error.strerror}); {EXPECTED_WEIGHTS}"
    if not os.fspath(path).endswith(".h5"):
        return f"has another extension than .h5; {EXPECTED_WEIGHTS}"
    if not start.startswith(HDF5_SIGNATURE):
        return f"found {_kind(start)}; {EXPECTED_WEIGHTS}"
    place = END_ADDRESS.get(start[8] if len(start) > 8 else 0, 0)
    end = int.from_bytes(start[place : place + 8], "little")
    if place and size < max(end, place + 8):
        return f"is cut off after {size} of {end} bytes; {EXPECTED_WEIGHTS}"
    return ""


def _kind(start: bytes) -> str:
    if not start:
        return "an empty file"
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return "an HTML page"
    if start.startswith(b"PK"):
        return "a zip archive, such as a .keras model"
    return f"the bytes {start[:8]!r}"


def fetch(backbone: str, target: Path) -> None:
    """Save the ImageNet weights of ``backbone`` without its top as ``target``, a ``.h5`` file.

    Keras has the address and the checksum of each file. It rejects a broken download.

    Raises:
        RetinaflowError: The download failed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as home:
        # Keras reads this when it is imported. Its folder in the user's home stays as it is.
        os.environ["KERAS_HOME"] = home
        import keras

        keras.config.disable_interactive_logging()
        constructor = getattr(keras.applications, BACKBONES[backbone].constructor)
        try:
            constructor(include_top=False, weights="imagenet", input_shape=None)
        except Exception as error:
            if disk_refusal(error):
                raise
            raise RetinaflowError(
                f"The ImageNet weights of {backbone} could not be fetched: {error}\n"
                f"Run `snakemake weights` again on a machine with internet. Or set "
                f"`weights` of {backbone} to the path of a weights file, or to 'random'."
            ) from error
        (fetched,) = Path(home, "models").glob("*.h5")
        with whole_file(target) as part:
            shutil.copyfile(fetched, part)
