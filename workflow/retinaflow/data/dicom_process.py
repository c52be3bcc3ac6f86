"""Process that decodes one frame with GDCM, which ends its process on some damaged files.

It reads a line of JSON (``syntax``, ``options`` of pydicom's decoder) and the encapsulated frame from standard input,
and writes the pixels as a file of NumPy to standard output.
"""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 60  # for one frame


def decode_apart(syntax: str, frame: bytes, options: Mapping[str, Any]) -> np.ndarray:
    """Decode an encapsulated frame in a process of its own.

    Args:
        syntax: Transfer syntax.
        frame: Encapsulated frame.
        options: Options of pydicom's decoder.

    Returns:
        Pixels (height, width) or (height, width, 3).

    Raises:
        ValueError: The process ends without pixels, or takes too long.
    """
    library = str(Path(__file__).parents[2])
    paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
    given = json.dumps({"syntax": syntax, "options": dict(options)}).encode() + b"\n" + frame
    try:
        done = subprocess.run(
            [sys.executable, "-m", "retinaflow.data.dicom_process"],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=SECONDS,
            check=True,
        )
        pixels: np.ndarray = np.load(BytesIO(done.stdout), allow_pickle=False)
    except (subprocess.SubprocessError, EOFError) as error:
        raise ValueError("GDCM cannot decode the frame") from error
    return pixels


def _main() -> None:
    """Decode the frame of standard input."""
    import gdcm
    import pydicom.pixels

    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    for switch in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        switch()
    asked = json.loads(sys.stdin.buffer.readline())
    decoder = pydicom.pixels.get_decoder(asked["syntax"])
    frame = sys.stdin.buffer.read()
    pixels = decoder.as_array(frame, index=0, decoding_plugin="gdcm", **asked["options"])[0]
    np.save(sys.stdout.buffer, pixels, allow_pickle=False)


if __name__ == "__main__":
    _main()
