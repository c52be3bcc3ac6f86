"""Heat maps as they are shown: their scale, and their colours over an image. NumPy and OpenCV alone."""

import cv2
import numpy as np

OPACITY = 0.8


def scaled(maps: np.ndarray) -> np.ndarray:
    """Scale each of ``maps``, non-negative float (n, size, size), to a largest value of 1. A map of zeros is kept."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)


def overlay(pixels: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Draw a heat map over an image.

    The image is grey: the colours of a retina are too close to yellow. It shows where the heat map is low. The colours
    of the map (cividis) are even in lightness, and the same to all kinds of colour vision.

    Args:
        pixels: uint8 RGB (size, size, 3).
        heat_map: float (size, size), 0 to 1.

    Returns:
        uint8 RGB (size, size, 3).
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    places = np.minimum(heat_map * 256, 255).astype(np.uint8)
    colours = cv2.applyColorMap(places, cv2.COLORMAP_CIVIDIS)[..., ::-1].astype(np.float32)
    cover = OPACITY * heat_map[..., np.newaxis]
    return np.round((1 - cover) * grey + cover * colours).astype(np.uint8)
