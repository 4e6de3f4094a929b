"""Batched views: the operations are torchvision's, the boxes RandomResizedCrop's, the whole is the chain per sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from pretrain.data import device_views
from pretrain.data.device_views import BatchedTwoViews
from pretrain.data.keyed_random import uniforms
from pretrain.data.views import TwoViews

BICUBIC = v2.InterpolationMode.BICUBIC


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Operations this small lose by a second thread, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_images(n: int, height: int = 32, width: int = 32) -> torch.Tensor:
    """Smooth random images with some noise, and one that is all gray, ``(n, 3, height, width)`` uint8."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(n, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(smooth, size=(height, width), mode="bicubic")
    images += 0.1 * torch.randn(n, 3, height, width, generator=generator)
    images[-1] = 0.5
    return (255 * images.clamp(0, 1)).round().to(torch.uint8)


def some_keys(n: int, seed: int = 3, epoch: int = 5) -> torch.Tensor:
    """Keys of images 0 ... n - 1."""
    return torch.tensor([[seed, epoch, index] for index in range(n)])


def drawn(n: int, count: int, stream: int = 9) -> torch.Tensor:
    """Uniform numbers ``(n, count)``."""
    return uniforms(some_keys(n), count, stream)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 64, 24), (17, 96, 32)])
def test_crop_equals_torchvisions(height, width, size):
    """Boxes of all sizes, enlarged and shrunk, mirrored or not, within 1e-4 of ``resized_crop`` on float."""
    n = 40
    images = some_images(n, height, width).float() / 255
    boxes = device_views.crop_boxes(drawn(n, 20), drawn(n, 2, 10), height, width, min_scale=0.01)
    boxes.top[0], boxes.left[0], boxes.height[0], boxes.width[0] = 0, 0, height, width
    boxes.top[1], boxes.left[1], boxes.height[1], boxes.width[1] = height - 1, width - 1, 1, 1
    flip = torch.arange(n) % 2 == 0
    got = device_views.resized_crop(images, boxes, flip, size)
    for i in range(n):
        box = [int(side[i]) for side in boxes]
        expected = tv.resized_crop(images[i], *box, [size, size], interpolation=BICUBIC, antialias=True)
        expected = tv.horizontal_flip(expected) if flip[i] else expected
        torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-4)


def torchvision_boxes(n: int, height: int, width: int, scale: tuple[float, float]) -> np.ndarray:
    """Top, left, height and width of torchvision's RandomResizedCrop, ``(n, 4)``."""
    crop = v2.RandomResizedCrop(8, scale=scale, ratio=(3 / 4, 4 / 3))
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [crop.make_params([image]) for _ in range(n)]
    return np.array([[box[side] for side in ("top", "left", "height", "width")] for box in boxes])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    """Two-sample Kolmogorov-Smirnov on every side of the box and on its area and ratio; and no box leaves the image."""
    n, m = 20_000, 3_000
    boxes = torch.stack(device_views.crop_boxes(drawn(n, 20), drawn(n, 2, 10), height, width, 0.08), dim=1).double().numpy()
    assert (boxes == boxes.round()).all()
    assert (boxes >= [0, 0, 1, 1]).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [height, width]).all()
    expected = torchvision_boxes(m, height, width, (0.08, 1.0))

    def with_derived(sides: np.ndarray) -> list[np.ndarray]:
        return [*sides.T, sides[:, 2] * sides[:, 3], sides[:, 3] / sides[:, 2]]

    for got, reference in zip(with_derived(boxes), with_derived(expected), strict=True):
        grid = np.unique(np.concatenate([got, reference]))
        shares = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (got, reference)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt((n + m) / (n * m))  # p = 0.001


@pytest.mark.parametrize(("height", "width"), [(16, 96), (96, 16)])
def test_central_crop_where_no_box_fits(height, width):
    """A share of 0.9 and more never fits a narrow image: torchvision's fallback, for all."""
    boxes = torch.stack(device_views.crop_boxes(drawn(9, 20), drawn(9, 2), height, width, 0.9), dim=1).numpy()
    assert (boxes == torchvision_boxes(1, height, width, (0.9, 1.0))).all()


ADJUSTMENTS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def test_jitter_equals_torchvisions_in_every_order():
    """All 24 orders side by side, with factors of full range, equal the four ``adjust_*`` called one after the other."""
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(row.tolist())) == 4 for row in orders]].repeat(3, 1)
    n = len(orders)
    assert n == 72
    images = some_images(n).float() / 255
    factors = device_views.jitter_factors(drawn(n, 4), torch.ones(n, 1, dtype=torch.bool), strength=1.0)
    got = device_views.jitter(images, factors, orders)
    for i in range(n):
        expected = images[i]
        for operation in orders[i].tolist():
            expected = ADJUSTMENTS[operation](expected, factors[i, operation].item())
        torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-5)


def test_hue_equals_torchvisions_on_the_colour_cube():
    """A grid of all colours, corners and grays included, for shifts over the whole circle."""
    cube = torch.cartesian_prod(*[torch.linspace(0, 1, 9)] * 3).T.reshape(3, 27, 27)
    shifts = torch.linspace(-0.5, 0.5, 21)
    got = device_views.adjust_hue(cube.expand(21, -1, -1, -1), shifts)
    for shift, turned in zip(shifts, got, strict=True):
        torch.testing.assert_close(turned, tv.adjust_hue(cube, shift.item()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_jitter_factors_fill_torchvisions_ranges(strength):
    """Uniform within the ranges that ColorJitter makes of the same strengths, and neutral where not applied."""
    n = 4_000
    ranges = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    factors = device_views.jitter_factors(drawn(n, 4), torch.ones(n, 1, dtype=torch.bool), strength)
    for name, column in zip(("brightness", "contrast", "saturation", "hue"), factors.T, strict=True):
        low, high = getattr(ranges, name)
        assert low <= column.min() < low + 0.01 * (high - low)
        assert high >= column.max() > high - 0.01 * (high - low)
        assert abs(column.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * n)
    neutral = device_views.jitter_factors(drawn(2, 4), torch.zeros(2, 1, dtype=torch.bool), strength)
    assert neutral.tolist() == [[1, 1, 1, 0]] * 2


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (32, 3), (64, 7), (96, 9)])
def test_blur_equals_torchvisions(size, kernel):
    """A sigma for each image, borders included; what is not blurred stays exactly as it is."""
    n = 12
    images = some_images(n, size, size).float() / 255
    sigma, blurred = torch.linspace(0.1, 2.0, n), torch.arange(n) % 3 > 0
    got = device_views.gaussian_blur(images, sigma, blurred, kernel)
    for i in range(n):
        if blurred[i]:
            torch.testing.assert_close(got[i], tv.gaussian_blur(images[i], kernel, sigma[i].item()), rtol=0, atol=1e-5)
        else:
            assert torch.equal(got[i], images[i])


def reference_view(image: torch.Tensor, numbers: list[float], options: dict) -> torch.Tensor:
    """One view, (3, S, S) float 0-255, from its uniform numbers: RandomResizedCrop's loop and torchvision's functions."""
    size, (height, width) = options["size"], image.shape[1:]
    areas, ratios, (top, left, flip, apply_jitter) = numbers[:10], numbers[10:20], numbers[20:24]
    strengths, shuffle, (gray, blur, sigma) = numbers[24:28], numbers[28:32], numbers[32:35]
    for share, ratio in zip(areas, ratios, strict=True):
        area = height * width * (options["min_scale"] + (1 - options["min_scale"]) * share)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * ratio)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        raise AssertionError("choose other keys: the reference has no fallback")
    box = int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    view = tv.resized_crop(image.float() / 255, *box, [size, size], interpolation=BICUBIC, antialias=True).clamp(0, 1)
    if flip < 0.5:
        view = tv.horizontal_flip(view)
    if apply_jitter < 0.8:
        s = options["color_strength"]
        for operation in sorted(range(4), key=shuffle.__getitem__):
            low, high = (-0.2 * s, 0.2 * s) if operation == 3 else (max(0, 1 - 0.8 * s), 1 + 0.8 * s)
            view = ADJUSTMENTS[operation](view, low + (high - low) * strengths[operation])
    if gray < options["grayscale"]:
        view = tv.rgb_to_grayscale(view, 3)
    if blur < options["blur"]:
        view = tv.gaussian_blur(view, max(3, int(0.1 * size) // 2 * 2 + 1), 0.1 + 1.9 * sigma)
    return 255 * view


@pytest.mark.parametrize("options", [
    dict(size=32, min_scale=0.08, color_strength=1.0, grayscale=0.2, blur=0.5),
    dict(size=64, min_scale=0.3, color_strength=0.5, grayscale=0.0, blur=1.0),
    dict(size=24, min_scale=0.2, color_strength=0.0, grayscale=1.0, blur=0.0),
])
def test_views_equal_the_chain_per_sample(options):
    """Rounded to 8 bits, each view is what torchvision's functions make of its image and numbers, one after the other."""
    n = 24
    images, keys = some_images(n, 32, 40), some_keys(n)
    got = BatchedTwoViews(**options)(images, keys)
    assert (got.shape, got.dtype) == ((n, 2, 3, options["size"], options["size"]), torch.uint8)
    for view in (0, 1):
        numbers = uniforms(keys, 35, stream=view).double().tolist()
        expected = torch.stack([reference_view(images[i], numbers[i], options) for i in range(n)])
        torch.testing.assert_close(got[:, view].float(), expected, rtol=0, atol=0.51)


def test_a_view_depends_on_its_key_and_image_alone():
    """Order and company do not matter; other seeds, epochs, indices and the two views differ."""
    images, views = some_images(16), BatchedTwoViews(32)
    whole = views(images, some_keys(16))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(views(images[order], some_keys(16)[order]), whole[order])
    alone = torch.cat([views(images[i : i + 1], some_keys(16)[i : i + 1]) for i in range(16)])
    assert (alone.int() - whole.int()).abs().max() <= 1  # sums may come in another order
    same = images[:1].expand(16, -1, -1, -1)
    assert len(views(same, some_keys(16)).flatten(0, 1).unique(dim=0)) == 32
    for other in (some_keys(16, seed=4), some_keys(16, epoch=6)):
        assert not (views(images, other) == whole).flatten(1).all(dim=1).any()


def test_statistics_are_those_of_the_pil_pipeline():
    """Mean, contrast and share of gray views over many draws agree with TwoViews on the same pictures."""
    images = some_images(4)[:3]
    batched = BatchedTwoViews(32)(images.repeat(500, 1, 1, 1), some_keys(1500)).flatten(0, 1).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pil, transform = [tv.to_pil_image(image) for image in images], TwoViews(32)
        reference = torch.cat([transform(pil[i % 3]) for i in range(300)]).float()

    def statistics(views: torch.Tensor) -> torch.Tensor:
        is_gray = (views.amax(1) - views.amin(1)).amax((1, 2)) <= 1
        steps = views.diff(dim=3).abs().mean((1, 2, 3))
        return torch.stack([views.mean((1, 2, 3)), views.std((1, 2, 3)), steps, is_gray.float()], dim=1)  # (views, 4)

    got, expected = statistics(batched), statistics(reference)
    error = (got.var(0) / len(got) + expected.var(0) / len(expected)).sqrt()
    assert ((got.mean(0) - expected.mean(0)).abs() < 4 * error).all()


def test_nothing_waits_for_the_device():
    """On fake CUDA tensors, which have no values, the views are drawn all the same, and no tensor is left on the CPU."""
    with FakeTensorMode():
        images = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="cuda")
        views = BatchedTwoViews(32)(images, torch.empty(8, 3, dtype=torch.int64, device="cuda"))
    assert (views.shape, views.device.type) == ((8, 2, 3, 32, 32), "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_draw_the_same_views():
    """The GPU's views differ by rounding only, and CUDA reports no synchronisation."""
    images, keys, views = some_images(64), some_keys(64), BatchedTwoViews(32)
    on_device = images.cuda(), keys.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = views(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (got.cpu().int() - views(images, keys).int()).abs().max() <= 1


@pytest.mark.parametrize(("options", "message"), [
    (dict(size=4), "view size is 4"),
    (dict(size=32, min_scale=-0.1), "min_scale is -0.1"),
    (dict(size=32, color_strength=3.0), "color_strength is 3.0"),
    (dict(size=32, grayscale=2), "grayscale is 2"),
    (dict(size=32, blur=1.5), "blur is 1.5"),
])
@pytest.mark.parametrize("views", [TwoViews, BatchedTwoViews])
def test_both_pipelines_refuse_the_same_options(views, options, message):
    """One check serves both; the offending value is in the message."""
    with pytest.raises(ValueError, match=message):
        views(**options)


def test_preprocessor_is_built_from_a_config():
    """By its registered name, with the options of the views."""
    preprocessor = MODELS.build(dict(type="BatchedTwoViewsPreprocessor", size=24, blur=0.0))
    images, keys = some_images(4), some_keys(4)
    got = preprocessor({"images": images, "keys": keys}, training=True)
    assert got.keys() == {"views"}
    assert torch.equal(got["views"], BatchedTwoViews(24, blur=0.0)(images, keys))


def test_the_second_view_may_have_options_of_its_own():
    """The first stays within a level (sums of another batch size), and solarization inverts what is bright."""
    images = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys = torch.stack([torch.zeros(5), torch.ones(5), torch.arange(5)], dim=1).long()
    plain = device_views.BatchedTwoViews(16, blur=0.0)(images, keys)
    other = device_views.BatchedTwoViews(16, blur=0.0, second=dict(solarize=1.0))(images, keys)
    assert (plain[:, 0].int() - other[:, 0].int()).abs().max() <= 1
    clear = (plain[:, 1].int() - 128).abs() > 1  # away from the threshold
    expected = torch.where(plain[:, 1] < 128, plain[:, 1], 255 - plain[:, 1]).int()
    assert ((expected - other[:, 1].int()).abs() <= 1)[clear].all()
    both = device_views.BatchedTwoViews(16, blur=0.0, solarize=0.5)(images, keys)
    solarized = (both.int() - plain.int()).abs().amax(dim=(2, 3, 4)) > 1  # (5, 2)
    assert 0 < solarized.sum() < 10
