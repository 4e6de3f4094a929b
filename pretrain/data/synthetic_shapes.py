"""Outlines, stripes, backgrounds and painting for `pretrain.data.synthetic_scenes`.

All operations give the same result on every machine: integers, single IEEE additions and multiplications, OpenCV's
fixed-point rasteriser on 8-bit images. What the C library computes (a cosine, an exponential) is rounded before it is used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

# An arrangement says which way the stripes of a thing's four quarters run: top left, top right, bottom left, bottom right.
Arrangement = tuple[str, str, str, str]
UNIFORM: tuple[Arrangement, ...] = (("vertical",) * 4, ("horizontal",) * 4)

# wave length of stripes in pixels, and the fewest waves across a thing: with fewer, a quarter does not show its direction
_MIN_PERIOD, _MAX_PERIOD, _MIN_WAVES = 5.0, 10.0, 4.5
_MAX_TILT = 20 / 360  # in turns; more would turn vertical stripes into horizontal ones
_SUBPIXEL_BITS = 4
_SUBPIXELS = 1 << _SUBPIXEL_BITS
_WEIGHT_ONE = 64

_T = TypeVar("_T")


@dataclass(frozen=True)
class Look:
    """Everything that is drawn at random about one painted thing, except where it stands.

    Attributes:
        diameter: Diameter of the outline's circumscribed circle, pixels.
        vertices: The rotated, squeezed outline in the unit disc, (x, y) pairs.
        surface: An arrangement of stripes, or "plain" or "blotched".
        tilt: Of the stripes and of the lines between the quarters, in turns, within 20 degrees.
        phases: Of the vertical and the horizontal stripes, in periods, [0, 1).
        period: Of the stripes, pixels.
        gain: Steepness of the stripes' edges; 1 is a triangle wave, large is a square wave.
        mean: Mean colour, RGB in 0..255.
        delta: Colour of the stripes' crest minus the mean, RGB.
        shading: Relative change of brightness per radius along x and y.
    """

    diameter: float
    vertices: tuple[tuple[float, float], ...]
    surface: Arrangement | str
    tilt: float
    phases: tuple[float, float]
    period: float
    gain: float
    mean: tuple[float, float, float]
    delta: tuple[float, float, float]
    shading: tuple[float, float]


# One painted thing: what it looks like and where (x, y) its centre is, in pixels.
Part = tuple[Look, tuple[float, float]]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draws one number from [low, high)."""
    return low + (high - low) * float(rng.random())


def pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """Draws one of the options."""
    return options[int(rng.integers(len(options)))]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draws one number from [low, high) with equal probability per octave."""
    # Rounded, like every result of the C library here: its last bit differs between systems.
    return round(low * math.exp(float(rng.random()) * math.log(high / low)), 6)


def sample_look(rng: np.random.Generator, outline: str, surface: Arrangement | str, diameter: float) -> Look:
    """Draws rotation, stripes and colours; none depends on `outline` or `surface` (see :class:`Look`)."""
    longest = min(_MAX_PERIOD, diameter / _MIN_WAVES)
    period = log_uniform(rng, min(_MIN_PERIOD, longest), longest)
    mean, delta = _sample_colours(rng)
    return Look(
        diameter=diameter,
        vertices=_unit_outline(rng, outline, float(rng.random())),
        surface=surface,
        tilt=uniform(rng, -_MAX_TILT, _MAX_TILT),
        phases=(float(rng.random()), float(rng.random())),
        period=period,
        gain=uniform(rng, 1.3, 3.0),
        mean=mean,
        delta=delta,
        shading=(uniform(rng, -0.12, 0.12), uniform(rng, -0.12, 0.12)),
    )


def _sample_colours(rng: np.random.Generator) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Draws a mean colour and a crest; they differ in brightness, so that greyscale keeps them."""
    mean = tuple(float(value) for value in rng.integers(60, 196, size=3))
    contrast = uniform(rng, 35.0, 70.0) * (1 if rng.random() < 0.5 else -1)
    delta = tuple(contrast + float(value) for value in rng.integers(-18, 19, size=3))
    return mean, delta


def _unit_outline(rng: np.random.Generator, outline: str, rotation: float) -> tuple[tuple[float, float], ...]:
    """The outline in the unit disc: the shape, then a squeeze along one axis, then the rotation."""
    polar = _polar_outline(rng, outline)
    squeeze = uniform(rng, 0.85, 1.0)
    axis = float(rng.random())
    turn = 2 * math.pi * (axis + rotation)
    cos, sin = math.cos(turn), math.sin(turn)
    vertices = []
    for turns, radius in polar:
        angle = 2 * math.pi * (turns - axis)
        along, across = radius * math.cos(angle), radius * math.sin(angle) * squeeze
        vertices.append((along * cos - across * sin, along * sin + across * cos))
    return tuple(vertices)


def _polar_outline(rng: np.random.Generator, outline: str) -> list[tuple[float, float]]:
    """Vertices in order as (angle in turns, distance from the centre, at most 1): of a "round", "irregular" or "bar"."""
    if outline == "bar":
        corner = uniform(rng, 0.012, 0.025)
        return [(turns, 1.0) for turns in (corner, 0.5 - corner, 0.5 + corner, 1 - corner)]
    low, high = {"round": (0.0, 0.06), "irregular": (0.12, 0.36)}[outline]
    waves = [(order, uniform(rng, low, high), float(rng.random())) for order in (2, 3, 4)]
    radii = [1 + sum(a * math.cos(2 * math.pi * (k * index / 32 + shift)) for k, a, shift in waves) for index in range(32)]
    return [(index / 32, max(0.2, r / max(radii))) for index, r in enumerate(radii)]


@functools.lru_cache(maxsize=4096)
def _spline_weights(cells: int, length: int) -> np.ndarray:
    """Integer quadratic B-spline weights (length, cells + 2); each row sums to `_WEIGHT_ONE`."""
    weights = np.zeros((length, cells + 2), dtype=np.int32)
    for index in range(length):
        position = (index + 0.5) * cells / length
        cell = int(position)
        t = position - cell
        first, last = 0.5 * (1 - t) ** 2, 0.5 * t**2
        weights[index, cell] = round(first * _WEIGHT_ONE)
        weights[index, cell + 2] = round(last * _WEIGHT_ONE)
        weights[index, cell + 1] = _WEIGHT_ONE - weights[index, cell] - weights[index, cell + 2]
    return weights


def smooth_noise(rng: np.random.Generator, channels: int, cells: int, height: int, width: int) -> np.ndarray:
    """Draws smooth random fields with `cells` cells along each side: float32 (height, width, channels) in [-1, 1]."""
    grid = rng.integers(-256, 257, size=(channels, cells + 2, cells + 2), dtype=np.int32)
    # An integer product: a float one goes to BLAS, whose rounding depends on the CPU.
    field = _spline_weights(cells, height) @ grid @ _spline_weights(cells, width).T
    scale = np.float32(1 / (256 * _WEIGHT_ONE * _WEIGHT_ONE))
    return field.transpose(1, 2, 0).astype(np.float32) * scale


def _triangle_wave(u: np.ndarray) -> np.ndarray:
    """Period 1, range [-1, 1]; uniform phases give uniformly distributed values."""
    return 4 * np.abs(u - np.floor(u + np.float32(0.5))) - 1


def surface_field(rng: np.random.Generator, look: Look, left: int, top: int, height: int, width: int) -> np.ndarray:
    """Evaluates the look's surface on a window of pixels.

    Args:
        rng: Source of blotches.
        look: What to draw.
        left: x of the window's first column from the centre of the object, pixels.
        top: y of the window's first row from the centre of the object, pixels.
        height: Of the window.
        width: Of the window.

    Returns:
        A float32 array (height, width) in [-1, 1]: of stripes triangle waves of the same distribution in all quarters.
    """
    if look.surface == "plain":
        return np.zeros((height, width), dtype=np.float32)
    if look.surface == "blotched":
        cells = max(2, round(1.4 * max(height, width) / look.period))
        return np.clip(smooth_noise(rng, 1, cells, height, width)[..., 0] * (2 * look.gain), -1, 1)
    angle = 2 * math.pi * look.tilt
    # Rounded to 1/4096: the last bit of a cosine is the C library's choice.
    cos, sin = np.float32(round(math.cos(angle) * 4096) / 4096), np.float32(round(math.sin(angle) * 4096) / 4096)
    x = np.arange(width, dtype=np.float32) + np.float32(left)
    y = (np.arange(height, dtype=np.float32) + np.float32(top))[:, None]
    across, down = x * cos + y * sin, y * cos - x * sin
    scale = np.float32(1 / look.period)
    stripes = dict(
        vertical=_triangle_wave(across * scale + np.float32(look.phases[0])),
        horizontal=_triangle_wave(down * scale + np.float32(look.phases[1])),
    )
    quarters = [stripes[direction] for direction in look.surface]
    upper, lower = np.where(across < 0, quarters[0], quarters[1]), np.where(across < 0, quarters[2], quarters[3])
    return np.clip(np.where(down < 0, upper, lower) * np.float32(look.gain), -1, 1)


def outline_points(look: Look, centre: tuple[float, float]) -> np.ndarray:
    """The outline's vertices, int32 (n, 1, 2) in 1/16 pixels, as `cv2.fillPoly` wants them."""
    scale, (left, top) = look.diameter / 2 * _SUBPIXELS, centre
    points = [(round(left * _SUBPIXELS + x * scale), round(top * _SUBPIXELS + y * scale)) for x, y in look.vertices]
    return np.array(points, dtype=np.int32)[:, None, :]


def outline_area(look: Look) -> float:
    """Area of the whole outline, whether it is inside the image or not, square pixels."""
    return float(cv2.contourArea(outline_points(look, (0.0, 0.0)))) / _SUBPIXELS**2


def coverage(look: Look, centre: tuple[float, float], size: int) -> np.ndarray:
    """Antialiased coverage of each pixel by the outline, uint8 (size, size); 255 is inside."""
    alpha = np.zeros((size, size), dtype=np.uint8)
    cv2.fillPoly(alpha, [outline_points(look, centre)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return alpha


def paint(
    rng: np.random.Generator, canvas: np.ndarray, look: Look, centre: tuple[float, float], alpha: np.ndarray
) -> None:
    """Paints one thing over the canvas, in place.

    Args:
        rng: Source of blotches.
        canvas: float32 (size, size, 3), RGB in 0..255.
        look: What to paint.
        centre: Where (x, y), pixels.
        alpha: Its coverage, uint8 (size, size).
    """
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if rows.size == 0:
        return
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    from_left, from_top = int(left) - round(centre[0]), int(top) - round(centre[1])
    height, width = int(bottom - top), int(right - left)
    field = surface_field(rng, look, from_left, from_top, height, width)
    colour = np.array(look.mean, np.float32) + field[..., None] * np.array(look.delta, np.float32)
    per_pixel = [np.float32(slope * 2 / look.diameter) for slope in look.shading]
    x = np.arange(width, dtype=np.float32) + np.float32(from_left)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(from_top)
    colour *= (1 + x * per_pixel[0] + y * per_pixel[1])[..., None]
    weight = alpha[top:bottom, left:right, None].astype(np.float32) * np.float32(1 / 255)
    window = canvas[top:bottom, left:right]
    window += (colour - window) * weight


def scribble(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draws a random open line, 1 to 3 pixels wide, over a float32 canvas, in place."""
    size = canvas.shape[0]
    steps = rng.integers(-size // 4, size // 4 + 1, size=(int(rng.integers(3, 7)), 2))
    points = np.cumsum(steps, axis=0) + rng.integers(0, size, size=2)
    alpha = np.zeros((size, size), dtype=np.uint8)
    line = points.astype(np.int32)[:, None, :]
    cv2.polylines(alpha, [line], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    colour = np.array(_sample_colours(rng)[0], np.float32)
    canvas += (colour - canvas) * (alpha[..., None].astype(np.float32) * np.float32(1 / 255))


def background(rng: np.random.Generator, size: int, distractors: tuple[int, int], contrast: float) -> np.ndarray:
    """Draws a gradient with smooth noise at two scales, and distractors (bounds of their number, inclusive).

    Returns:
        A float32 canvas (size, size, 3), RGB, roughly in 0..255 (not clipped).
    """
    x = np.arange(size, dtype=np.float32) * np.float32(2 / size) - 1
    slopes = rng.integers(-40, 41, size=(2, 3)).astype(np.float32)
    canvas = x[None, :, None] * slopes[0] + x[:, None, None] * slopes[1]
    canvas += smooth_noise(rng, 3, int(rng.integers(2, 5)), size, size) * np.float32(70)
    # Up to the frequency of the stripes, so that fine structure alone does not mean object.
    fine = np.float32(uniform(rng, 10, 50))
    canvas += smooth_noise(rng, 1, int(rng.integers(8, 29)), size, size) * fine
    canvas *= np.float32(contrast)
    canvas += rng.integers(70, 186, size=3).astype(np.float32)
    for _ in range(int(rng.integers(*distractors, endpoint=True))):
        _distractor(rng, canvas)
    return canvas


def _distractor(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """A scribble, any surface in an irregular outline, or an object's outline without an arrangement."""
    size = canvas.shape[0]
    kind = rng.random()
    if kind < 0.4:
        scribble(rng, canvas)
        return
    outline = "irregular" if kind < 0.8 else "round"
    surface = pick(rng, ("plain", "blotched", *UNIFORM))
    look = sample_look(rng, outline, surface, size * log_uniform(rng, 0.16, 0.6))
    centre = (size * float(rng.random()), size * float(rng.random()))
    paint(rng, canvas, look, centre, coverage(look, centre, size))


def finish(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Applies uneven illumination and mild pixel noise to a canvas, and rounds it to uint8 (size, size, 3), RGB."""
    size = canvas.shape[0]
    light = smooth_noise(rng, 1, 2, size, size) * np.float32(0.35)
    image = canvas * (light + np.float32(uniform(rng, 0.85, 1.1)))
    strength = int(rng.integers(1, 6))
    image += rng.integers(-strength, strength + 1, size=(size, size, 1)).astype(np.float32)
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def arrange(rng: np.random.Generator, looks: Sequence[Look], size: int, margin: float) -> list[Part]:
    """Draws where in a (size, size) image a thing stands: its centre at least `margin` of its diameter from the border.

    Several looks are a crowd: they stand on a sunflower spiral, which packs evenly.
    """
    border = margin * looks[0].diameter
    x, y = (uniform(rng, border, size - border) for _ in range(2))
    if len(looks) == 1:
        return [(looks[0], (x, y))]
    start, parts = float(rng.random()), []
    for index, look in enumerate(looks):
        angle = 2 * math.pi * (start + 0.381966 * index)
        radius = 0.5 * look.diameter * math.sqrt(index + 0.5)
        parts.append((look, (x + radius * math.cos(angle), y + radius * math.sin(angle))))
    return parts


def mask_polygons(mask: np.ndarray) -> list[list[float]] | None:
    """Traces a bool mask (height, width) as COCO polygons, [x0, y0, x1, y1, ...] per part.

    Returns:
        Polygons that pycocotools rasterises to exactly this mask, or None if it has holes.
    """
    # OpenCV's contours run through pixel centres, half a pixel inside the outline that COCO means; with pixels doubled it is
    # a quarter, which does not move any pixel across
    doubled = mask.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if any(parent >= 0 for *_, parent in hierarchy[0]):
        return None
    return [((contour.ravel() + 0.5) / 2).tolist() for contour in contours]


def mask_rle(mask: np.ndarray) -> dict:
    """Encodes a bool mask (height, width) as COCO's uncompressed RLE, column by column."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    # Counts start with background, so that a mask that starts with foreground gets a zero first.
    starts = [0, *([0] if flat[0] else []), *changes.tolist(), flat.size]
    return {"size": list(mask.shape), "counts": np.diff(starts).tolist()}
