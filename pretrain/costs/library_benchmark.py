"""SimCLR's training step beside that of lightly and solo-learn, in one process, in turns.

Three parts, each in images a second (an image has two views):

- ``step``: forward, backward and optimizer step on the same two views, already in memory as each library's loader yields
  them (ours as uint8, so that our step also normalises; theirs as normalised floats);
- ``views``: image files through each library's own data set and SimCLR augmentation, by the same number of workers;
- ``pipeline``: both, an epoch of training from image files.

Everyone trains the same torchvision ResNet from scratch with a projection head of two layers, as wide as the features and
then 128, at temperature 0.1 with the same SGD. What else differs is the libraries' own:

===========  =======================  ================  =============================  =======================
library      views go forward         batch norms in    besides                        resizing and blur of
                                      the head                                         the augmentation
===========  =======================  ================  =============================  =======================
ours         together                 1                 contrastive accuracy           bicubic, kernel of 10%
lightly      one after the other, as  2                                                bilinear, Pillow's blur
             in its documentation
lightly_cat  together, as in its      2                                                bilinear, Pillow's blur
             ImageNet benchmark
solo-learn   one after the other      0                 an online classifier of 10     bicubic, Pillow's blur
                                                        classes and its accuracies
===========  =======================  ================  =============================  =======================

solo-learn's ``training_step`` is called without Lightning's Trainer, whose overhead (loops, callbacks, logging) is left out;
its logging calls find no trainer and return. lightly's benchmark has an online classifier of its own, which is left out too.
Pillow's Gaussian blur is an approximation by box filters without a kernel size; everything else about crop, flip, jitter and
grayscale is set to the same values.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models as tv_models

from pretrain.data.dataset import KeyedSampler, TwoViewImages
from pretrain.data.decoding import list_images
from pretrain.data.synthetic_scenes import SyntheticConfig, render_scene
from pretrain.engine.work_dir import git_revision
from pretrain.learner import IMAGENET_MEAN, IMAGENET_STD, LocalContrastiveLearner

INSTALL = {
    "lightly": "pip install -c constraints.txt lightly",
    # Its own pins (torch 1.9, Lightning 1.4) would replace the stack; lightning-bolts knows Lightning up to 1.9.
    "solo-learn": "pip install --no-deps solo-learn lightning-bolts && "
    "pip install -c constraints.txt pytorch-lightning==1.9.5 torchmetrics einops scipy",
}
PARTS = ("step", "views", "pipeline")
OURS = "ours"
ENCODERS = ("resnet18", "resnet50")  # those that solo-learn has
SGD = dict(lr=0.03, momentum=0.9, weight_decay=1e-6)
TEMPERATURE, OUT_CHANNELS = 0.1, 128
CLASSES = 10  # of the labels that solo-learn's online classifier learns
WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Attributes:
        encoder: one of :data:`ENCODERS`.
        batch_size: images, at least 2.
        image_size: side of the views in pixels, at least 32.
        rounds: measurements of every library.
        epoch_batches: batches of an epoch from files.
        num_workers: loader processes, at least 1.
        source_size: side of the drawn JPEGs in pixels, 64 to 1024, where there is no data root.

    Raises:
        ValueError: a value is out of range.
    """

    encoder: str = "resnet18"
    batch_size: int = 64
    image_size: int = 64
    rounds: int = 12
    epoch_batches: int = 4
    num_workers: int = 1
    source_size: int = 384

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder is {self.encoder!r}; every library has {' and '.join(ENCODERS)}")
        least = dict(batch_size=2, image_size=32, rounds=1, epoch_batches=1, num_workers=1, source_size=64)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {low} is needed")


class Ours:
    """``LocalContrastiveLearner.train_step`` under SimCLR's rule.

    Args:
        config: what is measured.
        **options: further options of the learner.
    """

    def __init__(self, config: BenchmarkConfig, **options: Any) -> None:
        self.config = config
        objective = dict(type="NTXent", temperature=TEMPERATURE)
        self.learner = LocalContrastiveLearner(config.encoder, rule="simclr", objective=objective, **options)
        self.optimizer = OptimWrapper(torch.optim.SGD(self.learner.parameters(), **SGD))

    def in_memory(self, views: Tensor) -> dict[str, Tensor]:
        """A batch as the loader yields it, from ``(N, 2, 3, H, W)`` uint8."""
        return {"views": views}

    def loader(self, folder: Path) -> DataLoader:
        """Batches of two views of the images below a folder, see :func:`link_images`."""
        dataset = TwoViewImages(str(folder), views=dict(size=self.config.image_size))
        return _loader(dataset, self.config, sampler=KeyedSampler(dataset))

    def train_step(self, batch: dict[str, Tensor]) -> Tensor:
        """One optimisation step; returns the contrastive loss."""
        return self.learner.train_step(batch, self.optimizer)["loss"]


class Lightly:
    """lightly's SimCLR as its documentation has it, ``examples/pytorch/simclr.py``."""

    def __init__(self, config: BenchmarkConfig) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        self.config = config
        resnet = getattr(tv_models, config.encoder)()
        width = resnet.fc.in_features
        backbone = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
        self.model = nn.Sequential(backbone, SimCLRProjectionHead(width, width, OUT_CHANNELS))
        self.criterion = NTXentLoss(temperature=TEMPERATURE)
        self.optimizer = torch.optim.SGD(self.model.parameters(), **SGD)

    def in_memory(self, views: Tensor) -> tuple[list[Tensor], None, None]:
        """See :meth:`Ours.in_memory`."""
        return normalised(views), None, None

    def loader(self, folder: Path) -> DataLoader:
        """See :meth:`Ours.loader`."""
        from lightly.data import LightlyDataset
        from lightly.transforms import SimCLRTransform

        dataset = LightlyDataset(str(folder), transform=SimCLRTransform(input_size=self.config.image_size))
        return _loader(dataset, self.config, shuffle=True)

    def project(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """Projections ``(N, 128)`` of each of the two views ``(N, 3, H, W)``."""
        return [self.model(view) for view in views]

    def train_step(self, batch: tuple) -> Tensor:
        """See :meth:`Ours.train_step`."""
        loss = self.criterion(*self.project(batch[0]))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


class LightlyConcatenated(Lightly):
    """lightly's SimCLR with both views in one forward pass, as its ``benchmarks/imagenet/resnet50/simclr.py``."""

    def project(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """See :meth:`Lightly.project`."""
        return self.model(torch.cat(list(views))).chunk(len(views))


class SoloLearn:
    """solo-learn's ``SimCLR.training_step`` with the optimizer that its ``configure_optimizers`` makes."""

    def __init__(self, config: BenchmarkConfig) -> None:
        from solo.methods.simclr import SimCLR

        self.config = config
        width = getattr(tv_models, config.encoder)().fc.in_features
        unused = dict(max_epochs=1, lars=False, exclude_bias_n_norm=False, min_lr=0.0, warmup_start_lr=0.0, warmup_epochs=0)
        self.method = SimCLR(
            proj_output_dim=OUT_CHANNELS, proj_hidden_dim=width, temperature=TEMPERATURE, encoder=config.encoder,
            num_classes=CLASSES, backbone_args={}, batch_size=config.batch_size, optimizer="sgd", lr=SGD["lr"],
            weight_decay=SGD["weight_decay"], classifier_lr=SGD["lr"], accumulate_grad_batches=1, scheduler="none",
            extra_optimizer_args=dict(momentum=SGD["momentum"]), num_large_crops=2, num_small_crops=0, **unused,
        )
        self.optimizer = self.method.configure_optimizers()

    def in_memory(self, views: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """See :meth:`Ours.in_memory`."""
        indices = torch.arange(len(views))
        return indices, normalised(views), indices % CLASSES

    def loader(self, folder: Path) -> DataLoader:
        """See :meth:`Ours.loader`."""
        from solo.utils import pretrain_dataloader as solo_data

        transform = solo_data.prepare_transform(
            "imagenet", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, crop_size=self.config.image_size
        )
        views = solo_data.prepare_n_crop_transform([transform], num_crops_per_aug=[2])
        dataset = solo_data.prepare_datasets("custom", views, data_dir=folder.parent, train_dir=folder.name)
        return _loader(dataset, self.config, shuffle=True)

    def train_step(self, batch: Sequence) -> Tensor:
        """See :meth:`Ours.train_step`; the classifier's loss is part of what is descended, not of what is returned."""
        self.optimizer.zero_grad()
        loss = self.method.training_step(batch, 0)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def compare_libraries(config: BenchmarkConfig, others: Sequence[str], folder: Path) -> dict:
    """Measures our SimCLR and that of other libraries by turns.

    Every other round goes backwards, and rounds of warm-up come first. A ratio is the median over the rounds of ratios
    within a round, so that a machine that slows down slows all.

    Args:
        config: what is measured.
        others: libraries, keys of :data:`INSTALL`.
        folder: image files in class folders, see :func:`draw_images` and :func:`link_images`; at least an epoch of them.

    Returns:
        ``config``, ``versions``, ``threads`` and, for each of :data:`PARTS`, per library ``images_per_second`` (median) and
        ``ours_to_this``: our images a second to this library's, above 1 where ours is faster.

    Raises:
        ValueError: a library cannot be imported; the message has the command that installs it.
    """
    torch.manual_seed(0)
    runs = make_runs(config, others)
    views = torch.randint(0, 256, (config.batch_size, 2, 3, config.image_size, config.image_size), dtype=torch.uint8)
    tasks: dict[str, dict[str, Callable[[], object]]] = {part: {} for part in PARTS}
    for name, run in runs.items():
        loader = run.loader(folder)
        tasks["step"][name] = partial(run.train_step, run.in_memory(views))
        tasks["pipeline"][name] = partial(_exhaust, loader, run.train_step)
        if name in (OURS, *others):  # the other runs have the same loaders
            tasks["views"][name] = partial(_exhaust, loader)
    epoch = config.batch_size * config.epoch_batches
    images = {"step": config.batch_size, "views": epoch, "pipeline": epoch}
    packages = ("torch", "torchvision", "pillow", *others, *(["pytorch-lightning"] if "solo-learn" in others else []))
    return {
        "config": asdict(config),
        "threads": torch.get_num_threads(),
        "versions": {"loco-det": git_revision(), **{package: version(package) for package in packages}},
        **{part: _rates(paired_seconds(tasks[part], config.rounds), images[part]) for part in PARTS},
    }


def make_runs(config: BenchmarkConfig, others: Sequence[str]) -> dict[str, Ours | Lightly | SoloLearn]:
    """Our SimCLR, once more in channels-last layout and bfloat16, and those of the other libraries.

    Raises:
        ValueError: a library is unknown or cannot be imported.
    """
    makers = {"lightly": {"lightly": Lightly, "lightly_cat": LightlyConcatenated}, "solo-learn": {"solo-learn": SoloLearn}}
    runs = {OURS: Ours(config), "ours_channels_last_bfloat16": Ours(config, channels_last=True, autocast="bfloat16")}
    for library in others:
        if library not in INSTALL:
            raise ValueError(f"unknown library {library!r}; known are {', '.join(INSTALL)}")
        try:
            runs |= {name: maker(config) for name, maker in makers[library].items()}
        except ImportError as error:
            raise ValueError(f"{library} cannot be imported ({error}); install it in an environment of its own that has "
                             f"LoCo-Det's torch: {INSTALL[library]}") from error
    return runs


def paired_seconds(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every task in every round; every other round runs backwards, and what warms up is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for index in range(-WARM_UP_ROUNDS, rounds):
        for name in tasks if index % 2 == 0 else reversed(tasks):
            start = time.perf_counter()
            tasks[name]()
            if index >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def draw_images(folder: Path, config: BenchmarkConfig) -> Path:
    """Draws an epoch of JPEGs with :mod:`pretrain.data.synthetic` into a class folder below ``folder``; returns it."""
    class_folder = folder / "drawn"
    class_folder.mkdir(parents=True)
    synthetic = SyntheticConfig(image_size=config.source_size)
    for index in range(config.batch_size * config.epoch_batches):
        scene = render_scene(synthetic, "train2017", index)
        Image.fromarray(scene.image).save(class_folder / f"{index:06d}.jpg", quality=90)
    return folder


def link_images(folder: Path, data_root: str, config: BenchmarkConfig) -> Path:
    """Links an epoch of the images below ``data_root`` into a class folder below ``folder``, in turns if they are too few.

    The libraries differ in the folders that they can read; this is what all three can.

    Raises:
        ValueError: there is no image.
    """
    class_folder = folder / "linked"
    class_folder.mkdir(parents=True)
    paths = itertools.islice(itertools.cycle(list_images(data_root)), config.batch_size * config.epoch_batches)
    for index, path in enumerate(paths):
        file = Path(data_root, path).resolve()
        os.symlink(file, class_folder / f"{index:06d}{file.suffix.lower()}")
    return folder


def normalised(views: Tensor) -> list[Tensor]:
    """uint8 ``(N, 2, 3, H, W)`` -> the two views ``(N, 3, H, W)``, float32 with ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return [((view.float() - mean) / std).contiguous() for view in views.unbind(1)]


def _loader(dataset: Dataset, config: BenchmarkConfig, **order: Any) -> DataLoader:
    """Workers outlive the epochs, here so short that starting them would be a large part; between epochs they rest."""
    return DataLoader(dataset, config.batch_size, num_workers=config.num_workers, persistent_workers=True, drop_last=True,
                      **order)


def _exhaust(loader: DataLoader, use: Callable[[Any], object] = lambda batch: None) -> None:
    """Goes through an epoch."""
    for batch in loader:
        use(batch)


def _rates(seconds: Mapping[str, Sequence[float]], images: int) -> dict[str, dict[str, float]]:
    rates = {}
    for name, own in seconds.items():
        ratios = [other / ours for other, ours in zip(own, seconds[OURS], strict=True)]
        rates[name] = {"images_per_second": images / statistics.median(own), "ours_to_this": statistics.median(ratios)}
    return rates
