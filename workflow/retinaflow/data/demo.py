"""Synthetic fundus images of every grade, to try the workflow without the data of patients.

All eyes are drawn as right eyes, in retina units. The origin is the middle of the frame. The rim of the field is at
distance 1, plus or minus the offset of the camera. x grows to the nasal side (right) and y downwards. A left eye is a
mirror image.

Lesions of a grade follow the international scale of diabetic retinopathy (Wilkinson et al. 2003, Ophthalmology
110:1677). Sizes and places are those of a 45-degree field: the disc spans 6 degrees, and the fovea lies 15 degrees
from it.
"""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file

MINIMUM_PATIENTS = 3  # Patients whose worse eye has one grade.
MINIMUM_SIZE = 64  # In a smaller image, even a large haemorrhage is a few pixels.

DRAWN_EYES = ("left", "right")

# Patients of the Kaggle 2015 training labels by grade of the worse eye (row) and of its fellow eye (column).
PATIENTS_BY_GRADES = np.array(
    [
        [12154, 0, 0, 0, 0],
        [842, 600, 0, 0, 0],
        [631, 393, 1998, 0, 0],
        [6, 3, 183, 307, 0],
        [21, 5, 89, 67, 263],
    ]
)
GRADES = len(PATIENTS_BY_GRADES)

# Absorption of red, green and blue light by a layer of full density (Beer-Lambert).
BLOOD = np.array([0.45, 1.25, 1.1], np.float32)
MACULAR_PIGMENT = np.array([0.35, 0.55, 0.6], np.float32)

# Colours of structures that reflect light, as multiples of the red of the fundus around them.
DISC = np.array([1.4, 1.15, 0.75], np.float32)
CUP = np.array([1.5, 1.4, 1.05], np.float32)
EXUDATE = np.array([1.4, 1.2, 0.7], np.float32)
COTTON_WOOL = np.array([1.25, 1.15, 0.95], np.float32)


@dataclass(frozen=True)
class Lesions:
    """Smallest and largest number of each kind of lesion in an eye of one grade."""

    microaneurysms: tuple[int, int]
    haemorrhages: tuple[int, int]
    exudate_clusters: tuple[int, int]
    cotton_wool_spots: tuple[int, int]
    new_vessels: tuple[int, int]
    preretinal_haemorrhages: tuple[int, int]


LESIONS = (
    Lesions((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
    Lesions((4, 12), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
    Lesions((10, 25), (4, 12), (1, 3), (0, 0), (0, 0), (0, 0)),
    Lesions((25, 45), (35, 60), (1, 4), (3, 7), (0, 0), (0, 0)),
    Lesions((20, 40), (15, 35), (0, 4), (0, 4), (2, 4), (1, 2)),
)


@dataclass(frozen=True)
class Camera:
    """Camera of one patient. It does not depend on the grade.

    Attributes:
        radius: Radius of the field, as a share of the width of the image.
        offset: Offset (x, y) of the middle of the field from the middle of the frame, in radii.
        exposure: Factor of the light.
        vignetting: Share of the light that is lost at the rim.
        haze: Colour of the bright rim, (3,).
        haze_width: Width of the bright rim, in radii.
        blur: Sigma of the blur, as a share of the radius.
        noise: Standard deviation of the noise, of 255.
        notch: Whether the field has a tab at the upper right, which identifies mirror images.
    """

    radius: float
    offset: tuple[float, float]
    exposure: float
    vignetting: float
    haze: np.ndarray
    haze_width: float
    blur: float
    noise: float
    notch: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Camera":
        """Draw a camera by chance."""
        # The field of every second camera is taller than its sensor.
        radius = rng.uniform(0.41, 0.47) if rng.random() < 0.5 else rng.uniform(0.32, 0.36)
        return cls(
            radius=radius,
            offset=(rng.normal(0, 0.015), rng.normal(0, 0.015)),
            exposure=rng.uniform(0.75, 1.1),
            vignetting=rng.uniform(0.1, 0.45),
            haze=rng.uniform([0.0, 0.1, 0.1], [0.3, 0.4, 0.4]).astype(np.float32) * rng.uniform(0, 1),
            haze_width=rng.uniform(0.02, 0.07),
            blur=rng.uniform(0.002, 0.007),
            noise=rng.uniform(1, 4),
            notch=bool(rng.random() < 0.5),
        )


class Layer:
    """Density of one substance over the image. It is drawn too large and then shrunk, which smooths every edge."""

    def __init__(self, size: int, camera: Camera) -> None:
        self.magnified = max(2, math.ceil(768 / size))
        height, width = size * 3 // 4 * self.magnified, size * self.magnified
        self.radius = camera.radius * width
        self.middle = np.array([width / 2, height / 2])
        self.pixels = np.zeros((height, width), np.uint8)

    def _fixed_point(self, points: np.ndarray) -> np.ndarray:
        return np.rint((points * self.radius + self.middle) * 16).astype(np.int32)

    def line(self, points: np.ndarray, width: float, density: float) -> None:
        """Draw a line through ``points`` (n, 2). A line thinner than a pixel becomes a fainter line of one pixel."""
        thickness = width * self.radius
        colour = 255 * density * min(1.0, thickness)
        cv2.polylines(
            self.pixels, [self._fixed_point(points)], False, colour, max(1, round(thickness)), cv2.LINE_AA, shift=4
        )

    def patch(self, outline: np.ndarray, density: float) -> None:
        """Fill the polygon ``outline`` (n, 2)."""
        cv2.fillPoly(self.pixels, [self._fixed_point(outline)], 255 * density, cv2.LINE_AA, shift=4)

    def density(self, blur: float = 0.0) -> np.ndarray:
        """Return the layer as float32 (height, width) in 0..1, blurred by a sigma of ``blur`` radii."""
        height, width = self.pixels.shape
        small = cv2.resize(
            self.pixels, (width // self.magnified, height // self.magnified), interpolation=cv2.INTER_AREA
        )
        if blur:
            small = cv2.GaussianBlur(small, (0, 0), blur * self.radius / self.magnified)
        return small.astype(np.float32) / 255


@dataclass(frozen=True)
class Substances:
    """Layers of the substances that lesions and vessels consist of."""

    blood: Layer
    exudate: Layer
    cotton_wool: Layer


@dataclass(frozen=True)
class Landmarks:
    """Places of the disc (2,) and the fovea (2,) of one eye, and sizes of the disc.

    The radius of the cup, ``cup``, is a share of the radius of the disc.
    """

    disc: np.ndarray
    fovea: np.ndarray
    disc_radii: tuple[float, float]
    cup: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Landmarks":
        """Draw the landmarks of an eye by chance."""
        disc = np.array([rng.normal(0.58, 0.05), rng.normal(-0.04, 0.05)])
        radius = rng.uniform(0.12, 0.145)
        return cls(
            disc=disc,
            fovea=disc + rng.normal([-0.66, 0.09], [0.02, 0.03]),
            disc_radii=(radius * rng.uniform(0.85, 0.95), radius),
            cup=rng.uniform(0.3, 0.6),
        )


def draw_image(grade: int, eye: str, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one fundus image.

    Camera and pigmentation depend on ``rng``. Vessels and landmarks depend on ``rng`` and ``eye``. Lesions depend on
    ``grade`` too. Two generators in the same state therefore give both eyes of a patient, or one eye at several stages
    of the disease.

    Args:
        grade: Grade of retinopathy, 0 (none) to 4 (proliferative).
        eye: ``"left"`` or ``"right"``. In a right eye, the disc is on the right.
        size: Width of the image in pixels, at least ``MINIMUM_SIZE``. The height is three quarters of it.
        rng: Random numbers. A later call with the same generator draws another patient.

    Returns:
        uint8 RGB of shape (size * 3 // 4, size, 3).

    Raises:
        RetinaflowError: An argument is out of its range.
    """
    _check_request(grade, eye, size)
    patient, *eyes = rng.spawn(1 + len(DRAWN_EYES))
    anatomy, disease, sensor = eyes[DRAWN_EYES.index(eye)].spawn(3)
    camera = Camera.draw(patient)
    landmarks = Landmarks.draw(anatomy)
    substances = Substances(*(Layer(size, camera) for _ in range(3)))
    _draw_vessels(substances.blood, landmarks, anatomy)
    _draw_lesions(substances, LESIONS[grade], landmarks=landmarks, rng=disease)

    x, y = _coordinates(size, camera)
    fundus = _bare_fundus(x, y, landmarks=landmarks, patient=patient, anatomy=anatomy)
    red = fundus[0].mean()
    _cover(fundus, COTTON_WOOL * red, substances.cotton_wool.density(blur=0.018))
    _absorb(fundus, BLOOD, substances.blood.density())
    _cover(fundus, EXUDATE * red, substances.exudate.density(blur=0.003))
    if eye == "left":
        fundus = fundus[:, :, ::-1]
    return _expose(fundus, camera, x=x, y=y, rng=sensor)


def _check_request(grade: int, eye: str, size: int) -> None:
    if grade not in range(GRADES):
        raise RetinaflowError(f"grade: found {grade!r}, expected 0 to {GRADES - 1}.")
    if eye not in DRAWN_EYES:
        raise RetinaflowError(f"eye: found {eye!r}, expected 'left' or 'right'.")
    if size < MINIMUM_SIZE:
        raise RetinaflowError(
            f"size: found {size} pixels, expected {MINIMUM_SIZE} or more. A smaller image shows no lesions."
        )


def _coordinates(size: int, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Retina coordinates of every pixel of the image: x, float32 (1, width), and y, float32 (height, 1)."""
    x, y = (np.arange(0.5, side, dtype=np.float32) - side / 2 for side in (size, size * 3 // 4))
    return x[None, :] / (camera.radius * size), y[:, None] / (camera.radius * size)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of mean 0, deviation below 1 and ``cells`` blobs per side: float32 (height, width)."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _cover(fundus: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> None:
    """Lay ``colour`` (3,) over ``fundus`` (3, height, width), in place."""
    for plane, shade in zip(fundus, colour, strict=True):
        plane += opacity * (shade - plane)


def _absorb(fundus: np.ndarray, absorption: np.ndarray, density: np.ndarray) -> None:
    """Reduce the light of ``fundus`` (3, height, width) by a layer with ``absorption`` (3,), in place."""
    for plane, share in zip(fundus, absorption, strict=True):
        plane *= np.exp(-share * density)


def _bare_fundus(
    x: np.ndarray, y: np.ndarray, *, landmarks: Landmarks, patient: np.random.Generator, anatomy: np.random.Generator
) -> np.ndarray:
    """Reflectance of the fundus without vessels: float32 RGB (3, height, width). 1 is white."""
    # Red, green to red and blue to green have about the ranges of EyePACS images.
    red = patient.uniform(0.4, 0.85)
    green = red * patient.uniform(0.45, 0.82)
    blue = green * patient.uniform(0.45, 0.88)
    mottling = patient.uniform(0.005, 0.03)
    shape = (y.size, x.size)
    shading = 1 + 0.04 * _clouds(anatomy, shape, 5) + mottling * _clouds(anatomy, shape, 40)

    (disc_x, disc_y), (radius_x, radius_y) = landmarks.disc.tolist(), landmarks.disc_radii
    from_disc = np.sqrt(((x - disc_x) / radius_x) ** 2 + ((y - disc_y) / radius_y) ** 2)
    # Around the disc, nerve fibres are thickest and the retina is palest.
    shading *= 1 + 0.22 * np.exp(-from_disc * from_disc / 18)
    fundus = np.array([red, green, blue], np.float32)[:, None, None] * shading

    fovea_x, fovea_y = landmarks.fovea.tolist()
    from_fovea = (x - fovea_x) ** 2 + (y - fovea_y) ** 2
    pigment = 0.55 * np.exp(-from_fovea / (2 * 0.17**2)) + 0.75 * np.exp(-from_fovea / (2 * 0.05**2))
    _absorb(fundus, MACULAR_PIGMENT, pigment)

    _cover(fundus, DISC * max(red, 0.5), _step(1 - from_disc, 0.15))
    _cover(fundus, CUP * max(red, 0.5), _step(landmarks.cup - from_disc, 0.3))
    return fundus


def _step(inside: np.ndarray, softness: float) -> np.ndarray:
    """1 for positive and 0 for negative values of ``inside``, with a ramp of width ``softness`` between them."""
    return np.clip(inside / softness + 0.5, 0, 1)


def _walk(
    start: np.ndarray, heading: float, *, turn: float, length: float, wobble: float, rng: np.random.Generator
) -> np.ndarray:
    """Points (n, 2) of a path that leaves ``start`` at ``heading`` and turns by ``turn`` over its length, in radians.

    Each step also turns by chance, with a standard deviation of ``wobble``.
    """
    step = 0.02
    count = max(4, round(length / step))
    headings = heading + (turn / count + rng.normal(0, wobble, count)).cumsum()
    path = np.empty((count + 1, 2))
    path[0] = start
    path[1:, 0] = start[0] + step * np.cos(headings).cumsum()
    path[1:, 1] = start[1] + step * np.sin(headings).cumsum()
    return path


# Main vessels of the disc: heading and turn in degrees (0 is nasal, 90 is up), length and width in radii.
TRUNKS = (
    (108, 85, 1.6, 0.027),
    (-108, -85, 1.6, 0.027),
    (70, -50, 0.9, 0.018),
    (-70, 50, 0.9, 0.018),
)
TWIGS = (-160, 178, 160, 20, -15)  # Headings of the small vessels that cross the rim of the disc.


def _draw_vessels(blood: Layer, landmarks: Landmarks, rng: np.random.Generator) -> None:
    """Draw the arcades above and below the macula, the nasal vessels, and small vessels towards the macula."""
    for heading in TWIGS:
        direction = -math.radians(heading + rng.normal(0, 8))
        start = landmarks.disc + 0.09 * np.array([math.cos(direction), math.sin(direction)])
        twig = Vessel(start, direction, rng.normal(0, 0.4), rng.uniform(0.25, 0.45), 0.008, 0.4)
        _grow(blood, twig, fovea=landmarks.fovea, generations=1, rng=rng)
    for heading, turn, length, width in TRUNKS:
        # Each vein has a thinner and paler artery beside it.
        for sideways, caliber, density in ((8, 1.0, 0.62), (-8, 0.72, 0.42)):
            direction = -math.radians(heading + sideways + rng.normal(0, 5))
            start = landmarks.disc + 0.04 * np.array([math.cos(direction), math.sin(direction)])
            bend = -math.radians(turn + rng.normal(0, 8))
            trunk = Vessel(start, direction, bend, length, width * caliber, density)
            _grow(blood, trunk, fovea=landmarks.fovea, generations=2, rng=rng)


@dataclass(frozen=True)
class Vessel:
    """Place, direction and look of a vessel at its start (2,).

    The heading, and the turn over the whole length, are in radians.
    """

    start: np.ndarray
    heading: float
    turn: float
    length: float
    width: float
    density: float


def _grow(blood: Layer, vessel: Vessel, *, fovea: np.ndarray, generations: int, rng: np.random.Generator) -> None:
    """Draw a vessel that tapers along its way. Draw ``generations`` of branches first, so that they end under it."""
    path = _walk(vessel.start, vessel.heading, turn=vessel.turn, length=vessel.length, wobble=0.07, rng=rng)
    # No vessel reaches the fovea.
    near = ((path - fovea) ** 2).sum(axis=1) < 0.14**2
    path = path[: near.argmax()] if near.any() else path
    if generations:
        for branch in _branches(path, vessel, generations=generations, rng=rng):
            _grow(blood, branch, fovea=fovea, generations=generations - 1, rng=rng)
    pieces = 1 + 2 * generations
    for number in range(pieces):
        done = number / pieces
        piece = path[round(done * len(path)) : round((number + 1) / pieces * len(path)) + 1]
        if len(piece) > 1:
            blood.line(piece, vessel.width * (1 - 0.6 * done), vessel.density * (1 - 0.3 * done))


def _branches(path: np.ndarray, vessel: Vessel, *, generations: int, rng: np.random.Generator) -> list[Vessel]:
    """Thinner vessels that leave ``path`` to alternate sides and bend back along it."""
    branches = []
    side = rng.choice([-1, 1])
    at = int(rng.integers(5, 10)) * generations
    while at < len(path) - 2:
        forward = path[at + 1] - path[at]
        heading = math.atan2(forward[1], forward[0]) + side * rng.uniform(0.4, 0.9)
        bend = -side * rng.uniform(0.1, 1.1)
        length = rng.uniform(0.12, 0.3) * generations
        width = vessel.width * (1 - 0.6 * at / len(path)) * 0.55
        branches.append(Vessel(path[at], heading, bend, length, width, vessel.density * 0.8))
        side = -side
        at += int(rng.integers(8, 14))
    return branches


def _places(count: int, landmarks: Landmarks, rng: np.random.Generator) -> np.ndarray:
    """``count`` places (count, 2) on the retina, off the disc and the fovea, that every camera shows."""
    found = np.empty((0, 2))
    while len(found) < count:
        candidates = rng.uniform([-0.92, -0.75], [0.92, 0.75], (4 * count, 2))
        inside = (
            (np.linalg.norm(candidates, axis=1) < 0.92)
            & (np.linalg.norm(candidates - landmarks.disc, axis=1) > 0.2)
            & (np.linalg.norm(candidates - landmarks.fovea, axis=1) > 0.1)
        )
        found = np.concatenate([found, candidates[inside]])
    return found[:count]


def _blob(
    middle: np.ndarray, radii: tuple[float, float], *, angle: float, roughness: float, rng: np.random.Generator
) -> np.ndarray:
    """Outline (24, 2) of an ellipse turned by ``angle`` (radians). Its edge varies by a share of ``roughness``."""
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    swing = rng.normal(0, roughness / 2, (4, 1)) * np.cos(waves * around + rng.uniform(0, 2 * np.pi, (4, 1)))
    along = np.stack([np.cos(around) * radii[0], np.sin(around) * radii[1]], axis=1) * (1 + swing.sum(0))[:, None]
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return middle + along @ turned


def _draw_lesions(substances: Substances, lesions: Lesions, *, landmarks: Landmarks, rng: np.random.Generator) -> None:
    blood = substances.blood

    def places(limits: tuple[int, int]) -> np.ndarray:
        return _places(int(rng.integers(*limits, endpoint=True)), landmarks, rng)

    for place in places(lesions.cotton_wool_spots):
        radius = rng.uniform(0.03, 0.055)
        spot = _blob(place, (radius * 1.4, radius), angle=rng.uniform(0, np.pi), roughness=0.3, rng=rng)
        substances.cotton_wool.patch(spot, 1)
    for place in places(lesions.exudate_clusters):
        _draw_exudates(substances.exudate, place, rng)
    for place in places(lesions.microaneurysms):
        radius = rng.uniform(0.009, 0.014)
        blood.patch(_blob(place, (radius, radius), angle=0, roughness=0, rng=rng), rng.uniform(0.55, 0.75))
    for place in places(lesions.haemorrhages):
        _draw_haemorrhage(blood, place, disc=landmarks.disc, rng=rng)
    for place in places(lesions.new_vessels):
        _draw_new_vessels(blood, place, rng)
    for place in places(lesions.preretinal_haemorrhages):
        _draw_preretinal_haemorrhage(blood, place, rng)


def _draw_exudates(exudate: Layer, middle: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a cluster of hard exudates. It is a ring around a leak or a heap, with equal chance."""
    count = int(rng.integers(10, 30))
    spread = rng.uniform(0.06, 0.14)
    if rng.random() < 0.5:
        angles = rng.uniform(0, 1.6 * np.pi, count)
        specks = spread * np.stack([np.cos(angles), np.sin(angles)], axis=1) + rng.normal(0, spread / 8, (count, 2))
    else:
        specks = rng.normal(0, spread / 2, (count, 2))
    for speck in middle + specks:
        radius = rng.uniform(0.006, 0.018)
        radii = (radius, radius * rng.uniform(0.6, 1))
        outline = _blob(speck, radii, angle=rng.uniform(0, np.pi), roughness=0.2, rng=rng)
        exudate.patch(outline, rng.uniform(0.6, 0.95))


def _draw_haemorrhage(blood: Layer, place: np.ndarray, *, disc: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a blot in the deep retina, or a flame along the nerve fibres, which run to the disc."""
    if rng.random() < 0.65:
        radius = 0.015 + 0.035 * rng.random() ** 2
        radii = (radius, radius * rng.uniform(0.7, 1))
        outline = _blob(place, radii, angle=rng.uniform(0, np.pi), roughness=0.15, rng=rng)
    else:
        away = place - disc
        radius = rng.uniform(0.035, 0.07)
        angle = math.atan2(away[1], away[0])
        outline = _blob(place, (radius, radius * 0.3), angle=angle, roughness=0.15, rng=rng)
    blood.patch(outline, rng.uniform(0.6, 0.95))


def _draw_new_vessels(blood: Layer, place: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a tuft of fine, looping vessels."""
    for heading in rng.uniform(0, 2 * np.pi, 14):
        turn = rng.choice([-1, 1]) * rng.uniform(1, 5)
        length = rng.uniform(0.1, 0.3)
        blood.line(_walk(place, heading, turn=turn, length=length, wobble=0.3, rng=rng), 0.006, 0.5)


def _draw_preretinal_haemorrhage(blood: Layer, place: np.ndarray, rng: np.random.Generator) -> None:
    """Draw blood that has settled before the retina: flat above, like a boat, and thinnest at the edge."""
    width, depth = rng.uniform(0.14, 0.3), rng.uniform(0.1, 0.2)
    outline = _blob(np.zeros(2), (width, depth), angle=rng.normal(0, 0.1), roughness=0.12, rng=rng)
    outline[:, 1] = np.maximum(outline[:, 1], -depth * rng.uniform(0.05, 0.5))
    for share, density in ((1, 0.5), (0.96, 0.75), (0.9, 0.95), (0.8, 1)):
        blood.patch(place + outline * share, density)


def _expose(
    fundus: np.ndarray, camera: Camera, *, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Expose the reflectance ``fundus`` (3, height, width) to an image, uint8 RGB (height, width, 3)."""
    radius = camera.radius * fundus.shape[2]
    x, y = x - camera.offset[0], y - camera.offset[1]
    distance = np.hypot(x, y)

    slope_x, slope_y = rng.normal(0, 0.08, 2).tolist()
    light = camera.exposure * (1 + slope_x * x + slope_y * y - camera.vignetting * distance * distance * distance)
    rim = np.exp((np.minimum(distance, 1) - 1) / camera.haze_width)
    edge = 2.5 / radius
    field = _step(1 - distance, edge)
    if camera.notch:
        field = np.maximum(field, _step(0.045 - np.maximum(np.abs(x - 0.7), np.abs(y + 0.7)), edge))
    planes = [(plane * light + haze * rim) * field for plane, haze in zip(fundus, camera.haze, strict=True)]
    image = cv2.GaussianBlur(cv2.merge(planes), (0, 0), max(0.3, camera.blur * radius))
    image *= 255
    grain = cv2.merge([camera.noise * (0.3 + field)] * 3)
    image += grain * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_collection(images: Path, labels: Path, *, patients: int, first_patient: int, size: int, seed: int) -> None:
    """Draw both eyes of ``patients`` patients into ``images`` and write their grades to ``labels``.

    Pairs of grades have the proportions of the Kaggle 2015 training set. But each grade is that of the worse eye in at
    least ``MINIMUM_PATIENTS`` patients. An image depends on ``seed``, patient, eye, grade and ``size``, not on the
    number of patients.

    Args:
        images: Folder of ``{patient}_left.jpeg`` and ``{patient}_right.jpeg``. An existing folder is replaced.
        labels: CSV table with columns ``image`` (``1_left``) and ``level`` (the grade, 0 to 4), as Kaggle's.
        patients: Number of patients, at least ``GRADES * MINIMUM_PATIENTS``.
        first_patient: Number of the first patient, 0 or more. The next patients have the next numbers.
        size: Width of an image in pixels.
        seed: Seed of all random numbers, 0 or more.

    Raises:
        RetinaflowError: ``patients`` or ``size`` is too small, or ``first_patient`` or ``seed`` is negative.
    """
    _check_collection(patients, first_patient, seed)
    grades = _grades(patients, np.random.default_rng([seed, first_patient, patients]))
    part = images.with_name(f".part-{images.name}")
    shutil.rmtree(part, ignore_errors=True)
    drawn = part / "drawn"
    drawn.mkdir(parents=True)
    rows = [("image", "level")]
    try:
        for patient, of_eyes in enumerate(grades.tolist(), start=first_patient):
            for eye, grade in zip(DRAWN_EYES, of_eyes, strict=True):
                image = draw_image(grade, eye, size=size, rng=np.random.default_rng([seed, patient]))
                _write_jpeg(drawn / f"{patient}_{eye}.jpeg", image)
                rows.append((f"{patient}_{eye}", str(grade)))
        if images.exists():
            # Move the old folder away at once: a kill can interrupt the deletion of many files.
            os.replace(images, part / "replaced")
        os.replace(drawn, images)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    # A table of the user, who may change it, has no record of its content.
    with whole_file(labels) as unfinished:
        unfinished.write_text("".join(f"{image},{grade}\n" for image, grade in rows), encoding="utf-8")


def _check_collection(patients: int, first_patient: int, seed: int) -> None:
    least = GRADES * MINIMUM_PATIENTS
    if patients < least:
        raise RetinaflowError(
            f"patients: found {patients}, expected {least} or more. Training and validation need {MINIMUM_PATIENTS} of "
            "each grade."
        )
    for key, value in (("first_patient", first_patient), ("seed", seed)):
        if value < 0:
            raise RetinaflowError(f"{key}: found {value}, expected 0 or more.")


def _grades(patients: int, rng: np.random.Generator) -> np.ndarray:
    """Grades of the left and the right eye of each patient: integers (patients, 2) in 0..4."""
    share = PATIENTS_BY_GRADES.sum(axis=1) / PATIENTS_BY_GRADES.sum()
    count = np.maximum(np.rint(share * patients).astype(int), MINIMUM_PATIENTS)
    count[0] = patients - count[1:].sum()
    worse = np.repeat(np.arange(GRADES), count)
    fellow = [rng.choice(GRADES, p=PATIENTS_BY_GRADES[grade] / PATIENTS_BY_GRADES[grade].sum()) for grade in worse]
    return rng.permuted(rng.permutation(np.stack([worse, fellow], axis=1)), axis=1)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    _, content = cv2.imencode(".jpeg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(content.tobytes())
