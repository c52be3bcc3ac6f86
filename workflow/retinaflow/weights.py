"""Fetch the ImageNet weights of a backbone once, checked, to a file that jobs without internet can read."""

import os
import shutil
import tempfile
from pathlib import Path

from retinaflow.backbones import BACKBONES
from retinaflow.errors import RetinaflowError
from retinaflow.files import whole_file


def fetch(backbone: str, target: Path) -> None:
    """Save the ImageNet weights of ``backbone`` without its top as ``target``, a ``.h5`` file.

    Keras knows the address and the checksum of each file and downloads it; a broken download is refused.
    Raises ``RetinaflowError`` if it cannot be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as home:
        # Keras reads this when it is imported; its own folder in the user's home is left alone.
        os.environ["KERAS_HOME"] = home
        import keras

        keras.config.disable_interactive_logging()
        constructor = getattr(keras.applications, BACKBONES[backbone].constructor)
        try:
            constructor(include_top=False, weights="imagenet", input_shape=None)
        except Exception as error:
            raise RetinaflowError(
                f"The ImageNet weights of {backbone} could not be fetched: {error}\n"
                f"Run `snakemake weights` again where there is internet, or set `weights` "
                f"of {backbone} to the path of a weights file, or to 'random'."
            ) from error
        (fetched,) = Path(home, "models").glob("*.h5")
        with whole_file(target) as part:
            shutil.copyfile(fetched, part)
