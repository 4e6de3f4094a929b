"""The two-view augmentation of contrastive learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from pretrain.options import build_with_options

CROP_RATIO = (3 / 4, 4 / 3)  # width over height
CROP_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop
JITTER_PROBABILITY = 0.8
BLUR_SIGMA = (0.1, 2.0)  # pixels
SOLARIZED_FROM = 128  # levels
LEVELS = np.arange(256, dtype=np.float32)
# the most random numbers that a view takes: area and ratio of every attempt; place; flip; whether to jitter, factors, order;
# gray; whether to blur, and sigma
DRAWS = 2 * CROP_ATTEMPTS + 2 + 1 + 1 + 4 + 4 + 1 + 2

Uniform = Callable[[], float]  # the next of a series of random numbers, uniform in [0, 1)


class Box(NamedTuple):
    """A crop box in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass
class ViewOptions:
    """The options that every implementation of the two views takes.

    Args:
        size: side of the square views in pixels.
        min_scale: smallest share of the image's area that a crop covers.
        color_strength: 1.0 is jitter 0.8 / 0.8 / 0.8 / 0.2 (brightness, contrast, saturation, hue), applied with p 0.8.
        grayscale: probability of a gray view.
        blur: probability of a Gaussian blur with sigma 0.1 to 2 and a kernel of 10% of the side.
        saturation: strength of the saturation's jitter at colour strength 1; None for 0.8. BYOL has 0.4 at 0.5.
        solarize: probability that levels of 128 and above are inverted, last of all; None for never.
        second: options of the second view where it differs from the first, as BYOL's does; None where it does not.

    Attributes:
        of_views: the options of both views.

    Raises:
        ValueError: the size is below 8 pixels, a share or probability lies outside [0, 1], the colour strength outside
            [0, 2.5], or the second view has another size.
    """

    size: int
    min_scale: float = 0.08
    color_strength: float = 1.0
    grayscale: float = 0.2
    blur: float = 0.5
    saturation: float | None = None
    solarize: float | None = None
    second: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.of_views = (self, self if self.second is None else self._second_view(self.second))
        if self.size < 8:
            raise ValueError(f"view size is {self.size}; at least 8 pixels are needed")
        for name in ("min_scale", "grayscale", "blur", "saturation", "solarize"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if not 0 <= self.color_strength <= 2.5:
            raise ValueError(f"color_strength is {self.color_strength}; it must lie in [0, 2.5] (at 2.5 every hue is drawn)")

    def _second_view(self, changes: Mapping[str, Any]) -> ViewOptions:
        own = {option.name: getattr(self, option.name) for option in fields(self) if option.name != "second"}
        second = build_with_options("views.second", type(self), {**own, **changes})
        if (second.size, second.second) != (self.size, None):
            raise ValueError(f"views.second is {dict(changes)}; it has the size of the first view, and no second of its own")
        return second


class TwoViews(ViewOptions):
    """SimCLR's augmentation, drawn twice (LoCo, section 5.1: random cropping, colour distortion, Gaussian blur).

    The distribution is that of torchvision's transforms of the same names. Pixels are rounded to 8 bits after each
    operation, as by PIL, from which the result of an operation differs by a few levels at most. All randomness comes from
    torch's default generator. Its options are those of :class:`ViewOptions`.
    """

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Two views ``(2, 3, size, size)`` uint8 of an RGB image, of PIL or ``(H, W, 3)`` uint8."""
        pixels = np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"the image is {pixels.shape} {pixels.dtype}; (H, W, 3) uint8 is needed, convert it to RGB")
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # workers have no use for more threads; torch limits its own in them, OpenCV does not
        views = torch.empty((2, 3, self.size, self.size), dtype=torch.uint8)
        # two rows of numbers at once, because a call of the generator costs more than the numbers do
        rows = torch.rand(2, DRAWS, dtype=torch.float64).tolist()
        for view, options, numbers in zip(views, self.of_views, rows, strict=True):
            drawn = options._view(pixels, uniform=iter(numbers).__next__)  # (size, size, 3)
            if options.solarize and torch.rand(()) < options.solarize:  # the others' numbers do not depend on it
                drawn = np.where(drawn < SOLARIZED_FROM, drawn, 255 - drawn)
            view.copy_(torch.from_numpy(drawn).permute(2, 0, 1))
        return views

    def _view(self, image: np.ndarray, uniform: Uniform) -> np.ndarray:
        height, width, _ = image.shape
        view = resized_crop(image, draw_box(height, width, self.min_scale, uniform), self.size)
        if uniform() < 0.5:
            view = cv2.flip(view, 1)
        if self.color_strength > 0 and uniform() < JITTER_PROBABILITY:
            view = jitter(view, self.color_strength, uniform, self.saturation)
        if uniform() < self.grayscale:
            view = to_gray(view)
        if uniform() < self.blur:
            view = gaussian_blur(view, _between(*BLUR_SIGMA, uniform()), blur_kernel_size(self.size))
        return view


def jitter_strengths(color_strength: float, saturation: float | None = None) -> tuple[float, float, float, float]:
    """Strength of brightness, contrast, saturation and hue jitter; see :class:`ViewOptions`."""
    return (0.8 * color_strength, 0.8 * color_strength, (0.8 if saturation is None else saturation) * color_strength,
            0.2 * color_strength)


def blur_kernel_size(size: int) -> int:
    """Side of the blur's kernel in pixels: 10% of the view's, odd, at least 3."""
    return max(3, int(0.1 * size) // 2 * 2 + 1)


def draw_box(height: int, width: int, min_scale: float, uniform: Uniform) -> Box:
    """RandomResizedCrop's box: area uniform, aspect ratio log-uniform, the first of ten attempts that fits.

    Returns:
        A box within an image of ``(height, width)`` pixels that covers at least ``min_scale`` of its area; the central crop
        of the nearest allowed ratio where no attempt fits.
    """
    low, high = CROP_RATIO
    for _ in range(CROP_ATTEMPTS):
        area = height * width * _between(min_scale, 1.0, uniform())
        ratio = math.exp(_between(math.log(low), math.log(high), uniform()))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return Box(int(uniform() * (height - h + 1)), int(uniform() * (width - w + 1)), h, w)
    h, w = min(height, round(width / low)), min(width, round(height * high))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resized_crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Crops a box and resizes it bicubically with antialiasing: ``(H, W, 3)`` -> ``(size, size, 3)`` uint8."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width].copy()  # PIL's pixels are read-only, which torch does not know
    crop = torch.from_numpy(crop).permute(2, 0, 1)[None]  # (1, 3, height, width) in channels-last order, far the fastest
    view = F.interpolate(crop, (size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(view[0].permute(1, 2, 0).numpy())


def jitter(view: np.ndarray, color_strength: float, uniform: Uniform, saturation: float | None = None) -> np.ndarray:
    """ColorJitter of ``(H, W, 3)`` uint8: brightness, contrast, saturation, hue by random factors in a random order."""
    *spreads, turn = jitter_strengths(color_strength, saturation)
    factors = [_between(max(0.0, 1 - spread), 1 + spread, uniform()) for spread in spreads]
    factors.append(_between(-turn, turn, uniform()))
    adjust = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for operation in sorted(range(4), key=lambda _: uniform()):
        view = adjust[operation](view, factors[operation])
    return view


def adjust_brightness(view: np.ndarray, factor: float) -> np.ndarray:
    """Scales the levels of ``(H, W, 3)`` uint8, exactly as PIL does."""
    return _stretch(view, 0, factor)


def adjust_contrast(view: np.ndarray, factor: float) -> np.ndarray:
    """Scales the levels' distance to the mean gray of ``(H, W, 3)`` uint8, as PIL does."""
    return _stretch(view, int(cv2.mean(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))[0] + 0.5), factor)


def adjust_saturation(view: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance to gray of ``(H, W, 3)`` uint8; within one level of PIL."""
    # PIL truncates where OpenCV rounds, so take off half a level, or just less: whole numbers stay what they are.
    return cv2.addWeighted(view, factor, to_gray(view), 1 - factor, -0.499)


def adjust_hue(view: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue of ``(H, W, 3)`` uint8 by ``shift`` in turns, -0.5 to 0.5; in HSV of 8 bits, as PIL does."""
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * shift) % 256)  # a full turn is 256 and wraps around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def to_gray(view: np.ndarray) -> np.ndarray:
    """Luma of ``(H, W, 3)`` uint8, in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(view: np.ndarray, sigma: float, kernel_size: int) -> np.ndarray:
    """Gaussian blur of ``(H, W, 3)`` uint8, mirrored at the border; sigma in pixels, the kernel's side odd."""
    return cv2.GaussianBlur(view, (kernel_size, kernel_size), sigma, borderType=cv2.BORDER_REFLECT_101)


def _stretch(view: np.ndarray, fixed: int, factor: float) -> np.ndarray:
    """Multiplies every level's distance to a fixed one, in float32 and truncated like PIL."""
    table = fixed + factor * (LEVELS - fixed)
    return cv2.LUT(view, table.clip(0, 255).astype(np.uint8))


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
