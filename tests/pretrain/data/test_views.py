"""The two views on the CPU: every operation beside PIL's or torchvision's, and the distributions of all that is random."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pretrain.data import views
from pretrain.data.views import Box, TwoViews

# torch says so where it is handed PIL's read-only pixels instead of a copy
pytestmark = pytest.mark.filterwarnings("error:The given NumPy array is not writable")
BICUBIC = v2.InterpolationMode.BICUBIC
ADJUSTMENTS = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
FACTORS = [0.0, 0.2, 0.37, 0.8, 1.0, 1.234, 1.8]
PLAIN = dict(color_strength=0.0, grayscale=0.0, blur=0.0)


@pytest.fixture(autouse=True)
def _as_in_a_worker():
    """Every test draws from the same state and leaves the generator as it was; one thread, as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, here and there saturated, ``(height, width, 3)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(1, 3, 5, 5, generator=generator)
    image = torch.nn.functional.interpolate(smooth, size=(height, width), mode="bicubic")[0] * 1.2 - 0.1
    image = image + 0.06 * torch.randn(3, height, width, generator=generator)
    return (255 * image.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy().copy()


def colour_cube() -> np.ndarray:
    """5832 colours on a grid, from black to white, ``(36, 162, 3)`` uint8."""
    return np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).astype(np.uint8).reshape(36, 162, 3)


def gray_ramp() -> np.ndarray:
    """All gray levels, ``(16, 16, 3)`` uint8."""
    return np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


IMAGES = {"photo": photo(48, 64), "colours": colour_cube(), "grays": gray_ramp(), "pixel": photo(1, 1)}
every_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)


def levels_apart(got: np.ndarray, expected: object) -> np.ndarray:
    """Absolute differences between two images of one shape."""
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    assert got.dtype == np.uint8
    return np.abs(got.astype(np.float64) - expected)


def uniforms(seed: int = 0) -> views.Uniform:
    """An endless series of uniform numbers."""
    return np.random.default_rng(seed).random


def assert_same_distribution(got: np.ndarray, expected: np.ndarray) -> None:
    """Two-sample Kolmogorov-Smirnov at p = 0.001; conservative where values repeat."""
    grid = np.unique(np.concatenate([got, expected]))
    shares = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (got, expected)]
    assert np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt(1 / len(got) + 1 / len(expected))


def assert_share(count: int, n: int, probability: float) -> None:
    """Within four standard deviations of a binomial's mean."""
    assert abs(count - n * probability) <= 4 * math.sqrt(n * probability * (1 - probability))


@pytest.mark.parametrize("factor", FACTORS)
@every_image
def test_brightness_and_contrast_are_pils(image, factor):
    """Every pixel equal: the same float32 arithmetic, truncated alike."""
    pil = Image.fromarray(image)
    assert levels_apart(views.adjust_brightness(image, factor), ImageEnhance.Brightness(pil).enhance(factor)).max() == 0
    assert levels_apart(views.adjust_contrast(image, factor), ImageEnhance.Contrast(pil).enhance(factor)).max() == 0


@pytest.mark.parametrize("factor", FACTORS)
@every_image
def test_saturation_is_pils_within_a_level(image, factor):
    """At most one level, where PIL's and OpenCV's luma round differently, and on average below 0.02 (measured: 0.012)."""
    error = levels_apart(views.adjust_saturation(image, factor), ImageEnhance.Color(Image.fromarray(image)).enhance(factor))
    assert error.max() <= 1
    assert error.mean() < 0.02


@pytest.mark.parametrize("image", [IMAGES["photo"], IMAGES["colours"], IMAGES["pixel"]], ids=["photo", "colours", "pixel"])
def test_hue_is_nearer_to_the_true_one_than_pils(image):
    """Over the whole circle of hues, against float arithmetic: at most 12 levels; on average below 0.9, and below PIL."""
    true_image = tv.to_dtype(tv.to_image(image), torch.float64, scale=True)
    errors, errors_of_pil = [], []
    for shift in np.linspace(-0.5, 0.5, 41).tolist():
        true = 255 * tv.adjust_hue(true_image, shift).permute(1, 2, 0).numpy()
        errors.append(levels_apart(views.adjust_hue(image, shift), true))
        errors_of_pil.append(levels_apart(np.asarray(tv.adjust_hue(Image.fromarray(image), shift)), true))
    assert np.max(errors) <= 12
    assert np.mean(errors) < min(0.9, np.mean(errors_of_pil))


@every_image
def test_gray_is_pils_luma(image):
    """Within one level of PIL's, the same in all channels."""
    gray = views.to_gray(image)
    assert levels_apart(gray, tv.to_grayscale(Image.fromarray(image), 3)).max() <= 1
    assert (gray == gray[..., :1]).all()


@pytest.mark.parametrize("size", [8, 32, 64, 96, 224])
def test_blur_is_torchvisions_within_a_level(size):
    """For sigmas of the whole range, borders included, with the kernel that belongs to the size; and unbiased."""
    image = photo(size, size)
    kernel_size = views.blur_kernel_size(size)
    for sigma in (0.1, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0):
        expected = tv.gaussian_blur(tv.to_image(image), [kernel_size] * 2, [sigma] * 2).permute(1, 2, 0).numpy()
        got = views.gaussian_blur(image, sigma, kernel_size)
        assert levels_apart(got, expected).max() <= 1
        assert abs(got.mean() - expected.mean()) < 0.1


@pytest.mark.parametrize("size", [8, 32, 97])
@pytest.mark.parametrize("box", [
    Box(0, 0, 48, 64), Box(47, 63, 1, 1), Box(0, 0, 1, 64), Box(5, 7, 48 - 5, 1), Box(2, 3, 17, 13), Box(1, 1, 30, 33),
])
def test_crop_is_pils_within_two_levels(box, size):
    """Enlarged and shrunk, from one pixel to the whole image, also of read-only pixels such as PIL's."""
    for seed in range(3):
        pil = Image.fromarray(photo(48, 64, seed))
        error = levels_apart(
            views.resized_crop(np.asarray(pil), box, size), tv.resized_crop(pil, *box, [size, size], interpolation=BICUBIC)
        )
        assert error.max() <= 2
        assert error.mean() < 0.05


def torchvision_boxes(n: int, height: int, width: int, scale: tuple[float, float]) -> np.ndarray:
    """Boxes of torchvision's RandomResizedCrop, ``(n, 4)`` in the order of :class:`Box`."""
    crop = v2.RandomResizedCrop(8, scale=scale, ratio=(3 / 4, 4 / 3))
    image = torch.zeros(3, height, width)
    drawn = [crop.make_params([image]) for _ in range(n)]
    return np.array([[box[side] for side in Box._fields] for box in drawn])


@pytest.mark.parametrize(("height", "width", "min_scale"), [(32, 32, 0.08), (24, 48, 0.3), (500, 375, 0.08), (3, 2, 0.08)])
def test_boxes_are_distributed_as_torchvisions(height, width, min_scale):
    """Every side of the box, its area and its ratio; and no box leaves the image."""
    uniform = uniforms()
    boxes = np.array([views.draw_box(height, width, min_scale, uniform) for _ in range(6_000)])
    assert (boxes >= [0, 0, 1, 1]).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [height, width]).all()
    expected = torchvision_boxes(3_000, height, width, (min_scale, 1.0))
    for got, reference in zip(boxes.T, expected.T, strict=True):
        assert_same_distribution(got, reference)
    assert_same_distribution(boxes[:, 2] * boxes[:, 3], expected[:, 2] * expected[:, 3])
    assert_same_distribution(boxes[:, 3] / boxes[:, 2], expected[:, 3] / expected[:, 2])


@pytest.mark.parametrize(("height", "width"), [(16, 96), (96, 16), (1, 7), (7, 1), (1, 1)])
def test_central_crop_where_no_box_fits(height, width):
    """A share of 0.99 and more hardly ever fits: torchvision's fallback, the whole image where its ratio is allowed."""
    boxes = [views.draw_box(height, width, 0.99, uniforms(seed)) for seed in range(20)]
    assert {tuple(box) for box in boxes} == {tuple(torchvision_boxes(1, height, width, (0.99, 1.0))[0].tolist())}


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, float | None]]:
    """Name of each operation and its factor or sigma, in order, while the real ones run."""
    made = []

    def record(name):
        original = getattr(views, name)

        def recording(view, *amounts):
            made.append((name, amounts[0] if amounts else None))
            return original(view, *amounts)

        monkeypatch.setattr(views, name, recording)

    for name in (*ADJUSTMENTS, "to_gray", "gaussian_blur"):
        record(name)
    return made


def test_jitter_and_blur_are_drawn_as_torchvision_draws_them(calls):
    """Probabilities 0.8 and 0.5, all 24 orders alike, factors and sigma uniform over the ranges of the paper."""
    n = 2_000
    transform, image = TwoViews(8), photo(8, 8)
    for _ in range(n):
        transform(image)
    ranges = {
        "adjust_brightness": (0.2, 1.8), "adjust_contrast": (0.2, 1.8), "adjust_saturation": (0.2, 1.8),
        "adjust_hue": (-0.2, 0.2), "gaussian_blur": (0.1, 2.0),
    }
    for name, (low, high) in ranges.items():
        amounts = np.array([amount for made, amount in calls if made == name])
        assert_share(len(amounts), 2 * n, 0.5 if name == "gaussian_blur" else 0.8)
        assert low <= amounts.min() <= amounts.max() <= high
        assert_same_distribution(amounts, np.linspace(low, high, 10_000))
    names = [name for name, _ in calls if name in ADJUSTMENTS]
    orders = Counter(itertools.zip_longest(*[iter(names)] * 4))
    expected = len(names) / 4 / 24
    assert set(orders) == set(itertools.permutations(ADJUSTMENTS))
    assert sum((count - expected) ** 2 / expected for count in orders.values()) < 49.73  # chi-square, 23 degrees, p = 0.001


def test_half_of_the_views_are_mirrored():
    """A ramp that rises to the right falls in every other view, independently of the other one."""
    ramp = np.arange(0, 250, 10, dtype=np.uint8)[None, :, None] * np.ones((25, 1, 3), dtype=np.uint8)
    transform, n = TwoViews(8, min_scale=0.5, **PLAIN), 1_000
    mirrored = torch.stack([transform(ramp)[:, 0, 0].float().diff(dim=1).sum(dim=1) < 0 for _ in range(n)])
    assert_share(int(mirrored.sum()), 2 * n, 0.5)
    assert_share(int((mirrored[:, 0] == mirrored[:, 1]).sum()), n, 0.5)


@pytest.mark.parametrize(("option", "operation"), [("grayscale", "to_gray"), ("blur", "gaussian_blur")])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_probabilities_are_those_of_the_options(option, operation, probability, calls):
    """None at 0, all at 1; and nothing else is done."""
    transform = TwoViews(8, **{**PLAIN, option: probability})
    for _ in range(400):
        transform(IMAGES["photo"])
    assert_share(len(calls), 800, probability)
    assert {name for name, _ in calls} <= {operation}


def test_the_longest_view_takes_all_numbers():
    """Nine attempts that do not fit a narrow image, then everything applied: not one number too few, none left over."""
    numbers = iter([0.999] * 18 + [0.0] * (views.DRAWS - 18))
    TwoViews(16)._view(photo(16, 96), uniform=numbers.__next__)
    assert not list(numbers)


def reference_view(image: Image.Image, numbers: list[float], size: int, min_scale: float) -> np.ndarray:
    """A view of SimCLR's default strengths by PIL and torchvision, from the numbers that TwoViews draws."""
    uniform = iter(numbers).__next__
    for _ in range(10):
        area = image.height * image.width * (min_scale + (1 - min_scale) * uniform())
        ratio = (3 / 4) ** (1 - 2 * uniform())
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= image.height and 0 < w <= image.width:
            break
    else:
        raise AssertionError("choose another seed: the reference has no fallback")
    top, left = int(uniform() * (image.height - h + 1)), int(uniform() * (image.width - w + 1))
    view = tv.resized_crop(image, top, left, h, w, [size, size], interpolation=BICUBIC)
    if uniform() < 0.5:
        view = tv.horizontal_flip(view)
    if uniform() < 0.8:
        factors = [0.2 + 1.6 * uniform(), 0.2 + 1.6 * uniform(), 0.2 + 1.6 * uniform(), -0.2 + 0.4 * uniform()]
        keys = [uniform() for _ in range(4)]
        for _, name, factor in sorted(zip(keys, ADJUSTMENTS, factors, strict=True)):
            view = getattr(tv, name)(view, factor)
    if uniform() < 0.2:
        view = tv.to_grayscale(view, 3)
    view = tv.to_image(view)
    if uniform() < 0.5:
        view = tv.gaussian_blur(view, [max(3, int(0.1 * size) // 2 * 2 + 1)] * 2, [0.1 + 1.9 * uniform()] * 2)
    return view.numpy()


@pytest.mark.parametrize(("size", "min_scale"), [(32, 0.08), (64, 0.2), (96, 0.5)])
def test_views_are_those_of_pils_chain(size, min_scale):
    """From the same numbers PIL and torchvision make the same views, up to the rounding of every step."""
    errors = []
    for seed in range(20):
        image = photo(80, 100, seed)
        torch.manual_seed(seed)
        got = TwoViews(size, min_scale)(image).numpy()
        torch.manual_seed(seed)
        numbers = torch.rand(2, views.DRAWS, dtype=torch.float64).tolist()
        expected = np.stack([reference_view(Image.fromarray(image), row, size, min_scale) for row in numbers])
        errors.append(levels_apart(got, expected).mean(axis=(1, 2, 3)))
    assert np.max(errors) < 3.5  # levels, mean of a whole view
    assert np.mean(errors) < 0.8


def test_torchs_generator_alone_decides():
    """One seed, one pair of views, whatever numpy's state and for PIL's image as for its array; two seeds, two pairs."""
    transform, image = TwoViews(24), photo(40, 30)
    pairs = []
    for seed, form in ((1, image), (1, Image.fromarray(image)), (2, image)):
        np.random.seed(len(pairs))
        torch.manual_seed(seed)
        pairs.append(transform(form))
    assert torch.equal(pairs[0], pairs[1])
    assert not torch.equal(pairs[0], pairs[2])
    assert not torch.equal(pairs[0][0], pairs[0][1])
    assert (pairs[0].shape, pairs[0].dtype, pairs[0].is_contiguous()) == ((2, 3, 24, 24), torch.uint8, True)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3), (6000, 30)])
def test_images_of_any_shape(height, width):
    """One pixel, one row, one column, far smaller and far larger than the view; and the image stays as it is."""
    image = photo(height, width)
    before = image.copy()
    for _ in range(20):
        assert TwoViews(16)(image).shape == (2, 3, 16, 16)
    assert np.array_equal(image, before)
    if image.size == 3:
        assert (TwoViews(16, **PLAIN)(image) == torch.from_numpy(image).view(3, 1, 1)).all()


@pytest.mark.parametrize("image", [Image.new("L", (9, 9)), Image.new("RGBA", (9, 9)), np.zeros((9, 9, 3), np.float32)])
def test_other_images_are_refused(image):
    """Gray, transparent and float ones, with the shape and type that they have."""
    with pytest.raises(ValueError, match=r"the image is \(9, 9.*convert it to RGB"):
        TwoViews(16)(image)


class ThreadCounts(Dataset):
    """OpenCV's threads in the process that draws the views."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        TwoViews(224, blur=1.0)(photo(64, 64))
        return cv2.getNumThreads()


@pytest.fixture
def _opencv_with_threads():
    threads = cv2.getNumThreads()
    cv2.setNumThreads(3)
    cv2.GaussianBlur(photo(512, 512), (23, 23), 2.0)  # starts them
    yield
    cv2.setNumThreads(threads)


@pytest.mark.usefixtures("_opencv_with_threads")
def test_opencv_has_one_thread_in_workers():
    """In the workers of a plain DataLoader, forked while OpenCV's threads run; what the main process has it keeps."""
    assert list(DataLoader(ThreadCounts(), batch_size=None, num_workers=2, timeout=60)) == [1, 1, 1, 1]
    assert list(DataLoader(ThreadCounts(), batch_size=None)) == [3, 3, 3, 3]


def test_the_second_view_may_have_options_of_its_own():
    """The first stays as it is to the bit; solarization comes last, as PIL has it, and shifts no other random number."""
    def drawn(**options) -> torch.Tensor:
        torch.manual_seed(0)
        return TwoViews(16, **options)(photo(40, 48))

    plain, other = drawn(), drawn(second=dict(solarize=1.0))
    assert torch.equal(plain[0], other[0])
    expected = ImageOps.solarize(Image.fromarray(plain[1].permute(1, 2, 0).numpy()))
    assert np.array_equal(other[1].permute(1, 2, 0).numpy(), np.asarray(expected))
    gray = drawn(second=dict(grayscale=1.0, blur=0.0))
    assert torch.equal(gray[0], plain[0])
    assert (gray[1] == gray[1, :1]).all()
    assert views.jitter_strengths(0.5, saturation=0.4) == pytest.approx((0.4, 0.4, 0.2, 0.1))  # BYOL's
    with pytest.raises(ValueError, match="size of the first"):
        TwoViews(16, second=dict(size=24))
    with pytest.raises(ValueError, match="solarize is 1.5"):
        TwoViews(16, second=dict(solarize=1.5))
