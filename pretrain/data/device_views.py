"""The two-view augmentation for a whole batch of small images at once, on the device that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor

from pretrain.data.keyed_random import uniforms
from pretrain.data.views import (
    BLUR_SIGMA,
    CROP_ATTEMPTS,
    CROP_RATIO,
    JITTER_PROBABILITY,
    SOLARIZED_FROM,
    ViewOptions,
    blur_kernel_size,
    jitter_strengths,
)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# how many random numbers a view takes for: attempts at area and ratio; place; flip; whether to jitter, factors, order; gray;
# whether to blur, and sigma
DRAWS = (2 * CROP_ATTEMPTS, 2, 1, 1, 4, 4, 1, 2)


class Boxes(NamedTuple):
    """Crop boxes in whole pixels, each ``(M,)`` float32."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


class BatchedTwoViews(ViewOptions):
    """:class:`~pretrain.data.views.TwoViews` for batches of equally large images, without a loop over the samples.

    The transforms, their order, distributions and options are those of ``TwoViews``. Two things differ: the random numbers
    are functions of each sample's key (:func:`~pretrain.data.keyed_random.uniforms`, the view's number as stream), and
    pixels stay float32 in [0, 1] to the end, where ``TwoViews`` rounds to 8 bits after each operation. A view depends on its
    key and image alone, up to one of 255 levels where float32 sums come in another order (device or batch size).

    Nothing waits for the device. Crop and blur are products with dense matrices per sample, which suits small images: their
    cost grows with the cube of the side.
    """

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Two views of every image, ``(N, 2, 3, size, size)`` uint8.

        Args:
            images: ``(N, 3, H, W)`` uint8, RGB.
            keys: ``(N, 3)`` int64 on the same device: seed, epoch and index of each.
        """
        numbers = [uniforms(keys, sum(DRAWS), stream=view) for view in (0, 1)]  # 2 x (N, draws)
        chances = [uniforms(keys, 1, stream=view) for view in (2, 3)] if self._solarizes() else [None, None]  # 2 x (N, 1)
        with torch.autocast(images.device.type, enabled=False):
            if self.second is not None:
                return torch.stack([options._view(images, *drawn)
                                    for options, *drawn in zip(self.of_views, numbers, chances, strict=True)], dim=1)
            twice = images[:, None].expand(-1, 2, -1, -1, -1).flatten(0, 1)  # (2N, 3, H, W), the views of an image together
            drawn = [None if each[0] is None else torch.stack(each, dim=1).flatten(0, 1) for each in (numbers, chances)]
            return self._view(twice, *drawn).unflatten(0, (len(images), 2))

    def _solarizes(self) -> bool:
        return any(options.solarize for options in self.of_views)

    def _view(self, images: Tensor, numbers: Tensor, chances: Tensor | None = None) -> Tensor:
        """A view of every image, ``(M, 3, S, S)`` uint8.

        Args:
            images: ``(M, 3, H, W)`` uint8.
            numbers: uniform numbers ``(M, sum(DRAWS))``.
            chances: as many for solarization, ``(M, 1)``; None without.
        """
        attempts, place, flip, apply_jitter, strengths, shuffle, gray, blur = numbers.split(DRAWS, dim=1)
        boxes = crop_boxes(attempts, place, *images.shape[-2:], self.min_scale)
        views = resized_crop(images.float() / 255, boxes, flip[:, 0] < 0.5, self.size).clamp_(0, 1)
        if self.color_strength > 0:
            factors = jitter_factors(strengths, apply_jitter < JITTER_PROBABILITY, self.color_strength, self.saturation)
            views = jitter(views, factors, order=shuffle.argsort(dim=1, stable=True))
        views = torch.where(_per_sample(gray < self.grayscale), to_gray(views), views)
        low, high = BLUR_SIGMA
        views = gaussian_blur(views, low + (high - low) * blur[:, 1], blur[:, 0] < self.blur, blur_kernel_size(self.size))
        if chances is not None:
            inverted = _per_sample(chances < (self.solarize or 0)) & (views >= SOLARIZED_FROM / 255)
            views = torch.where(inverted, 1 - views, views)
        return views.mul_(255).round_().to(torch.uint8)


@MODELS.register_module()
class BatchedTwoViewsPreprocessor(BaseDataPreprocessor):
    """Moves a batch of images to the model's device and draws two views of each there.

    Args:
        non_blocking: do not wait for the copy; only of use with pinned memory.
        **views: options of :class:`BatchedTwoViews`.

    Raises:
        ValueError: an option is unknown, missing or out of range.
    """

    def __init__(self, non_blocking: bool = False, **views: float) -> None:
        super().__init__(non_blocking)
        try:
            self.views = BatchedTwoViews(**views)
        except TypeError as error:
            raise ValueError(f"options of BatchedTwoViewsPreprocessor do not fit: {error}") from error

    def forward(self, data: Mapping[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """``{"images": (N, 3, H, W) uint8, "keys": (N, 3) int64}`` -> ``{"views": (N, 2, 3, size, size) uint8}``."""
        data = self.cast_data(data)
        return {"views": self.views(data["images"], data["keys"])}


def crop_boxes(attempts: Tensor, place: Tensor, height: int, width: int, min_scale: float) -> Boxes:
    """RandomResizedCrop's boxes: area uniform, aspect ratio log-uniform, the first of ten attempts that fits.

    Args:
        attempts: uniform numbers ``(M, 20)``: ten for the area and ten for the ratio.
        place: uniform numbers ``(M, 2)`` for top and left.
        height, width: of the images, in pixels.
        min_scale: smallest share of the area; the largest is 1.

    Returns:
        Boxes within the image; the central crop of the nearest allowed ratio where no attempt fits.
    """
    share, ratio = attempts.double().chunk(2, dim=1)  # (M, 10); in float32, devices would round some sides differently
    area = height * width * (min_scale + (1 - min_scale) * share)
    low, high = CROP_RATIO
    ratio = (math.log(low) + (math.log(high) - math.log(low)) * ratio).exp()
    widths, heights = (area * ratio).sqrt().round().float(), (area / ratio).sqrt().round().float()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, any_fits = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1)
    h = torch.where(any_fits, heights.gather(1, first)[:, 0], min(height, round(width / low)))
    w = torch.where(any_fits, widths.gather(1, first)[:, 0], min(width, round(height * high)))
    top = torch.where(any_fits, (place[:, 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(any_fits, (place[:, 1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return Boxes(top, left, h, w)


def resized_crop(images: Tensor, boxes: Boxes, flip: Tensor, size: int) -> Tensor:
    """Crops a box out of every image and resizes it bicubically with antialiasing; some are mirrored.

    Equals torchvision's ``resized_crop(..., interpolation=BICUBIC, antialias=True)`` on float images ``(M, 3, H, W)``;
    overshoots stay. ``flip`` ``(M,)`` bool says which to mirror left to right; the result is ``(M, 3, size, size)``.
    """
    rows = _resampling_matrices(boxes.top, boxes.height, torch.zeros_like(flip), images.shape[2], size)  # (M, S, H)
    columns = _resampling_matrices(boxes.left, boxes.width, flip, images.shape[3], size)  # (M, S, W)
    return _separable_product(rows, images, columns)


def _resampling_matrices(start: Tensor, extent: Tensor, flip: Tensor, length: int, size: int) -> Tensor:
    """Weights of ``length`` pixels in ``size`` samples of ``[start, start + extent)``: ``(M,)`` -> ``(M, size, length)``."""
    start, scale = start[:, None, None], extent[:, None, None] / size
    pixels = torch.arange(length, device=start.device) + 0.5 - start  # centres, from the box's edge; (M, 1, length)
    samples = torch.arange(size, device=start.device)[:, None] + 0.5  # (size, 1)
    centres = torch.where(flip[:, None, None], size - samples, samples) * scale  # (M, size, 1)
    weights = _cubic((pixels - centres) / scale.clamp(min=1))  # the kernel widens where it shrinks the image
    weights = weights * ((pixels > 0) & (pixels < extent[:, None, None]))
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys's cubic convolution kernel with a = -0.5, as PIL and torch's antialiased resize have it; zero from 2 on."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1  # |x| < 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2  # 1 <= |x| < 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def jitter_factors(numbers: Tensor, applied: Tensor, strength: float, saturation: float | None = None) -> Tensor:
    """ColorJitter's factors: uniform in 1 ± 0.8 strength, but not below 0, and hue shifts in ± 0.2 strength.

    ``saturation`` is in place of 0.8 for the saturation.

    Returns:
        ``(M, 4)`` of uniform numbers ``(M, 4)``: factors of brightness, contrast and saturation, and the hue's shift in
        turns; where ``applied`` ``(M, 1)`` is False, factors that change nothing.
    """
    columns = []
    for operation, spread in enumerate(jitter_strengths(strength, saturation)):
        neutral = 0.0 if operation == HUE else 1.0
        low = -spread if operation == HUE else max(0.0, 1 - spread)
        drawn = low + (neutral + spread - low) * numbers[:, operation : operation + 1]
        columns.append(torch.where(applied, drawn, neutral))
    return torch.cat(columns, dim=1)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of every image, in an order of its own.

    Each equals torchvision's ``adjust_*`` on float images. The hue costs most by far: it is turned once, for all samples,
    between three steps for what comes before it and three for what comes after.

    Args:
        images: ``(M, 3, H, W)`` in [0, 1].
        factors: ``(M, 4)``, see :func:`jitter_factors`.
        order: ``(M, 4)`` int64, a permutation of 0 to 3 in every row: which operation comes first, second, ...

    Returns:
        ``(M, 3, H, W)`` in [0, 1].
    """
    factors = factors.gather(1, order)  # (M, 4), in the order of application
    is_hue = order == HUE
    hue_at = is_hue.int().argmax(dim=1, keepdim=True)  # (M, 1)
    for step in (0, 1, 2):
        images = _blend(images, order[:, step, None], torch.where(step < hue_at, factors[:, step, None], 1))
    images = adjust_hue(images, factors.gather(1, hue_at)[:, 0])
    for step in (1, 2, 3):
        images = _blend(images, order[:, step, None], torch.where(step > hue_at, factors[:, step, None], 1))
    return images


def _blend(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Mixes each image with black (brightness), its mean gray (contrast) or its gray (saturation); both arguments (M, 1)."""
    gray = to_gray(images)  # (M, 1, H, W)
    mean = gray.mean(dim=(2, 3), keepdim=True)
    rest = 1 - factor
    other = gray.mul_(_per_sample(rest * (operation == SATURATION))).add_(mean * _per_sample(rest * (operation == CONTRAST)))
    return torch.addcmul(other, images, _per_sample(factor)).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of HSV by ``shift`` ``(M,)`` turns; images ``(M, 3, H, W)`` in [0, 1]."""
    r, g, b = images.unbind(dim=1)  # (M, H, W)
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    between = torch.where(value == r, g - b, torch.where(value == g, 2 * chroma + b - r, 4 * chroma + r - g))
    sixths = between / chroma.clamp(min=1e-12) + 6 * shift[:, None, None]  # of a turn from red; any number will do for gray
    turned = []
    for offset in (5, 3, 1):  # each channel of a saturated colour is a trapezoid over the circle of hues
        k = (sixths + offset).remainder_(6)
        turned.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(turned, dim=1)


def to_gray(images: Tensor) -> Tensor:
    """Luma of RGB ``(M, 3, H, W)``: ``(M, 1, H, W)``, with torchvision's weights."""
    return 0.2989 * images[:, 0:1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:3]


def gaussian_blur(images: Tensor, sigma: Tensor, blurred: Tensor, kernel_size: int) -> Tensor:
    """torchvision's ``gaussian_blur``, mirrored at the border, with a ``sigma`` ``(M,)`` in pixels for each image.

    Images ``(M, 3, S, S)`` stay as they are where ``blurred`` ``(M,)`` is False; the kernel's side is odd.
    """
    size, radius = images.shape[-1], kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device)  # (K,)
    kernels = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)  # (M, K)
    kernels = torch.where(blurred[:, None], kernels, (offsets == 0).float())
    mirrored = F.pad(torch.eye(size, device=images.device)[None], (radius, radius), mode="reflect")[0]  # (S, S + K - 1)
    shifts = mirrored.unfold(1, size, 1).permute(1, 2, 0)  # (K, S, S): which pixel each pixel sees at each offset
    matrices = (kernels @ shifts.flatten(1)).view(-1, size, size)  # (M, S, S)
    return _separable_product(matrices, images, matrices)


def _separable_product(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """``rows @ image @ columns^T`` for every channel: ``(M, S, H)``, ``(M, 3, H, W)``, ``(M, T, W)`` -> ``(M, 3, S, T)``."""
    wide = torch.bmm(images.flatten(1, 2), columns.transpose(1, 2))  # (M, 3H, T), one product for the three channels
    return rows[:, None] @ wide.unflatten(1, images.shape[1:3])


def _per_sample(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
