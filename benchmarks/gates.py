"""Share of images that the fundus gate refuses: real ones, drawn shapes, ordinary pictures, inverted fundi.

    python benchmarks/gates.py [FOLDER]   # fundus images; the features are those of the bundle's gate

The gate is fitted on one part of the images. The real images of the table are other ones.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

import common
from retinaflow.serving.gates import fit_fundus_gate, thumbnail_features
from retinaflow.serving.reading import read_new_images

VARIANT = "224-trim-keep-none"
SIZE = 256
FITTED, TESTED, OTHERS = common.sized(400, 60), common.sized(300, 20), common.sized(100, 10)


def shapes(count: int) -> Iterator[np.ndarray]:
    """Drawn shapes on one colour, gradients and noise; half of them within a disc on black, as a fundus is."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = np.empty((SIZE, SIZE, 3), np.uint8)
        image[:] = rng.integers(0, 256, 3)
        if number % 3 == 1:
            image[:] = np.linspace(0, 255, SIZE)[:, None, None]
        if number % 3 == 2:
            image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        for _ in range(6):
            colour = [int(value) for value in rng.integers(0, 256, 3)]
            points = rng.integers(0, SIZE, (4, 2)).astype(np.int32)
            if rng.random() < 0.5:
                cv2.fillPoly(image, [points], colour)
            else:
                cv2.circle(image, [int(value) for value in points[0]], int(rng.integers(5, 80)), colour, -1)
        yield _in_disc(image) if number % 2 else image


def _in_disc(image: np.ndarray) -> np.ndarray:
    disc = cv2.circle(np.zeros(image.shape[:2], np.uint8), (SIZE // 2, SIZE // 2), SIZE // 2 - 8, 255, -1)
    return cv2.bitwise_and(image, image, mask=disc)


def pictures(count: int) -> Iterator[np.ndarray]:
    """Parts of the sample images of scikit-learn, and its digits; half of them within a disc on black."""
    rng = np.random.default_rng(0)
    samples, digits = load_sample_images().images, load_digits().images
    for number in range(count):
        if number % 4 == 3:
            image = cv2.cvtColor((digits[number] * 15.9).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        else:
            whole = samples[number % len(samples)][..., ::-1]
            side = int(rng.integers(120, 420))
            top, left = rng.integers(0, whole.shape[0] - side), rng.integers(0, whole.shape[1] - side)
            image = whole[top : top + side, left : left + side]
        image = cv2.resize(np.ascontiguousarray(image), (SIZE, SIZE))
        yield _in_disc(image) if number % 2 else image


def fundi(folder: Path, first: int, count: int) -> list[np.ndarray]:
    """Some fundus images of a folder."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    chosen = np.random.default_rng(1).permutation(len(paths))[first : first + count]
    return [image for number in chosen if (image := cv2.imread(str(paths[number]))) is not None]


def features(images: Sequence[np.ndarray]) -> np.ndarray:
    """Features of images, which are read from files as the service reads them."""
    with tempfile.TemporaryDirectory() as folder:
        files = [(str(number), str(Path(folder, f"{number}.png"))) for number in range(len(images))]
        for (_, path), image in zip(files, images, strict=True):
            cv2.imwrite(path, image)
        read = [image for image in read_new_images(files, [VARIANT], 100, 2) if not image.header.problem]
    return thumbnail_features(image.pixels[VARIANT] for image in read)


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else common.DATA / "eyepacs-256/images"
    gate = fit_fundus_gate(features(fundi(folder, 0, FITTED)))
    tested = fundi(folder, FITTED, TESTED)
    rows = {
        "other fundus images": tested,
        "drawn shapes": list(shapes(OTHERS)),
        "ordinary pictures": list(pictures(OTHERS)),
        "inverted fundus images": [255 - image for image in tested[:OTHERS]],
        "fundus images with red and blue exchanged": [image[..., ::-1].copy() for image in tested[:OTHERS]],
    }
    print(f"fitted on {FITTED} images, 1 % of real ones refused: threshold {gate.threshold:.2f}")
    for name, images in rows.items():
        distances = gate.distance(features(images))
        low, middle = np.quantile(distances, (0.05, 0.5))
        refused = (distances > gate.threshold).mean()
        print(f"{name:45} {len(distances):4} images, {refused:6.1%} refused, distance {low:.2f} (5 %), {middle:.2f}")


if __name__ == "__main__":
    main()
