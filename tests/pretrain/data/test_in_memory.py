"""Images in memory: the source's pixels, batched by key, as mmengine's Runner loads them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from pretrain.data.dataset import SampleKey
from pretrain.data.decoding import CorruptImageError, list_images
from pretrain.data.device_views import BatchedTwoViewsPreprocessor
from pretrain.data.in_memory import InMemoryDataset
from pretrain.learner import LocalContrastiveLearner


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Operations this small lose by a second thread, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pixels(path) -> torch.Tensor:
    """An image file as ``(3, H, W)`` uint8."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def image_paths(root):
    return [root / name for name in list_images(root)]


def keys(*indices: int) -> list[SampleKey]:
    """Keys of seed 4 and epoch 2."""
    return [SampleKey(4, 2, index) for index in indices]


def test_images_are_the_sources(image_folder):
    """Every image of one size, as it is, with its class; batches follow their keys."""
    dataset = InMemoryDataset(image_folder)
    expected = torch.stack([pixels(path) for path in image_paths(image_folder)])
    assert torch.equal(dataset.images, expected)
    assert dataset.classes == ("part0", "part1")
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    batch = dataset.__getitems__(keys(5, 0, 5))
    assert torch.equal(batch["images"], expected[[5, 0, 5]])
    assert batch["keys"].tolist() == [[4, 2, 5], [4, 2, 0], [4, 2, 5]]
    single = dataset[SampleKey(4, 2, 5)]
    assert torch.equal(single["images"], expected[5])
    assert single["keys"].tolist() == [4, 2, 5]


@pytest.mark.parametrize("image_size", [16, 64])
def test_images_of_any_size_are_brought_to_one(image_folder, image_size):
    """Shrunk and enlarged: what torchvision's Resize and CenterCrop make of each file."""
    Image.new("RGB", (90, 20), "teal").save(image_folder / "part0" / "wide.png")
    dataset = InMemoryDataset(image_folder, image_size=image_size)
    transform = v2.Compose([v2.Resize(image_size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(image_size)])
    expected = [v2.functional.pil_to_tensor(transform(Image.open(path))) for path in image_paths(image_folder)]
    assert torch.equal(dataset.images, torch.stack(expected))


def test_different_sizes_need_an_image_size(image_folder):
    """The error names the image, both sizes and the option."""
    Image.new("RGB", (90, 20)).save(image_folder / "part1" / "wide.png")
    with pytest.raises(ValueError, match=re.escape("wide.png is 90 × 20, but others are 48 × 40; set image_size")):
        InMemoryDataset(image_folder)


def test_corrupt_images_are_replaced_and_flagged(image_folder):
    """The next image that can be decoded stands in with its label, over the end too; the flags say for which."""
    paths = image_paths(image_folder)
    for index in (2, 3, 7):
        paths[index].write_bytes(b"")
    dataset = InMemoryDataset(image_folder)
    assert dataset.corrupt.tolist() == [0, 0, 1, 1, 0, 0, 0, 1]
    assert torch.equal(dataset.images, torch.stack([pixels(paths[i]) for i in (0, 1, 4, 4, 4, 5, 6, 0)]))
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("image_size", [None, 16])
def test_no_decodable_image_is_an_error(tmp_path, image_size):
    """With a size given and without."""
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(CorruptImageError, match="none of the 1 images"):
        InMemoryDataset(tmp_path, image_size=image_size)


def test_too_many_images_are_refused_before_they_are_decoded(image_folder):
    """The message says what they need; a limit above it is kept to."""
    needed = 8 * 3 * 1000**2 / 2**20
    with pytest.raises(ValueError, match=re.escape(f"8 images of 1000 × 1000 need {needed:.1f} MiB, more than max_mib, 22")):
        InMemoryDataset(image_folder, image_size=1000, max_mib=22)
    assert InMemoryDataset(image_folder, image_size=10, max_mib=8 * 3 * 10**2 / 2**20).images.shape == (8, 3, 10, 10)


def loader(image_folder, **options) -> DataLoader:
    """mmengine's loader from a config, with shuffled keys."""
    return Runner.build_dataloader(dict(
        dataset=dict(type="InMemoryDataset", data_root=str(image_folder), **options),
        sampler=dict(type="KeyedSampler", seed=3), batch_size=4, num_workers=0, collate_fn=dict(type="batched_already"),
    ))


def test_mmengine_loads_whole_batches(image_folder):
    """From a config alone; an epoch holds every image once, under its key."""
    batches = list(loader(image_folder))
    assert [batch["images"].shape for batch in batches] == [(4, 3, 40, 48)] * 2
    seen = torch.cat([batch["keys"] for batch in batches])
    assert seen[:, 2].sort().values.tolist() == list(range(8))
    assert (seen[:, :2] == torch.tensor([3, 0])).all()
    files = image_paths(image_folder)
    for image, index in zip(torch.cat([batch["images"] for batch in batches]), seen[:, 2], strict=True):
        assert torch.equal(image, pixels(files[index]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_on_the_gpu_stay_there(image_folder):
    """Batches are the CPU's, on the device."""
    batch, expected = (InMemoryDataset(image_folder, device=d).__getitems__(keys(5, 0)) for d in ("cuda", "cpu"))
    for name in ("images", "keys"):
        assert batch[name].device.type == "cuda"
        assert torch.equal(batch[name].cpu(), expected[name])


def test_a_learner_trains_from_memory(image_folder):
    """Data set, loader, views and GIM together: a step on each batch of an epoch; losses are finite and all weights move."""
    torch.manual_seed(0)
    learner = LocalContrastiveLearner(encoder=dict(type="resnet18", stem="small"), rule="gim",
                                      data_preprocessor=dict(type=BatchedTwoViewsPreprocessor, size=32))
    before = {name: weight.clone() for name, weight in learner.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1))
    logs = [learner.train_step(batch, wrapper) for batch in loader(image_folder, image_size=32)]
    assert len(logs) == 2
    assert all(value.isfinite() for step in logs for value in step.values())
    assert all(not torch.equal(weight, before[name]) for name, weight in learner.named_parameters())
