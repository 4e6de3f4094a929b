"""What an encoder costs: parameters, computation and activation memory, stage by stage (LoCo, section 5.6 and table 6).

The encoder runs once on tensors without data (torch's meta device), which takes neither its time nor its memory.

- *FLOPs* are multiply-adds of convolutions and linear layers; the stem belongs to the first stage. The totals of table 6 are
  1.3 % (ResNet-50) and 0.5 % (PResNet-50) higher; batch norm and ReLU at one operation an element each would explain two
  fifths of the former and most of the latter, the classifier of ResNet-50 almost nothing.
- *Memory* is the count that yields the memory column of table 6: elements of all convolution outputs in residual branches,
  each at the resolution of its stage's output, without the stem, the shortcuts and batch norm. For other networks it takes
  in linear layers, leaves out everything under the name ``downsample`` (in timm also what stands between stages), and
  counts outputs with fewer positions than the stage's (squeeze-and-excitation) as they are.
- *Activations* are what training keeps: bytes of the distinct storages that a forward pass in train mode and float32 saves
  for the backward pass, without parameters, buffers and the image. A storage belongs to the stage that saves it first.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from pretrain.encoders.base import Encoder
from pretrain.local.units import LocalUnit, Stages

BATCH = 2  # a batch norm in train mode refuses the single 1x1 map that the last stage yields for one small image
USUAL_SIZE = 224


@dataclass(frozen=True)
class StageComplexity:
    """Costs of one stage for one image.

    Attributes:
        name: the stage.
        parameters: number of its parameters.
        flops: multiply-adds of its convolutions and linear layers.
        memory_elements: table 6's count, see the module's docstring.
        activation_bytes: what it keeps for the backward pass, see the module's docstring.
        out_shape: ``(C, H, W)`` of its output.
    """

    name: str
    parameters: int
    flops: int
    memory_elements: int
    activation_bytes: int
    out_shape: tuple[int, int, int]


@dataclass(frozen=True)
class EncoderComplexity:
    """Costs of an encoder for one image of ``image_size`` pixels a side."""

    image_size: int
    stages: tuple[StageComplexity, ...]

    def total(self, cost: str) -> int:
        """The sum over the stages of an attribute of :class:`StageComplexity`."""
        return sum(getattr(stage, cost) for stage in self.stages)

    def percent(self, cost: str) -> dict[str, float]:
        """By stage, its share in :meth:`total`; 0 everywhere where that is 0."""
        total = self.total(cost) or 1
        return {stage.name: 100 * getattr(stage, cost) / total for stage in self.stages}

    def as_dict(self) -> dict:
        """Totals, and under ``stages`` every stage with its shares; for JSON."""
        flops, memory, activation = map(self.percent, ("flops", "memory_elements", "activation_bytes"))
        return {
            "input_size": self.image_size,
            "parameters": self.total("parameters"),
            "gflops": self.total("flops") / 1e9,
            "memory_elements": self.total("memory_elements"),
            "activation_bytes": self.total("activation_bytes"),
            "stages": [{
                "name": stage.name,
                "out_shape": list(stage.out_shape),
                "parameters": stage.parameters,
                "gflops": stage.flops / 1e9,
                "flops_percent": flops[stage.name],
                "memory_elements": stage.memory_elements,
                "memory_percent": memory[stage.name],
                "activation_bytes": stage.activation_bytes,
                "activation_percent": activation[stage.name],
            } for stage in self.stages],
        }


def stage_complexity(encoder: Encoder, image_size: int = USUAL_SIZE) -> EncoderComplexity:
    """Counts what every stage of an encoder costs; the encoder itself neither runs nor changes.

    Args:
        encoder: any encoder, on any device; frozen parameters count as trained ones.
        image_size: side of the square image.

    Raises:
        ValueError: a stage, which is named, cannot work on images of that size.
    """
    return EncoderComplexity(image_size, tuple(_measure_stages(encoder, encoder.stages, image_size)))


def unit_macs(encoder: Encoder, units: Sequence[LocalUnit], image_size: int = USUAL_SIZE) -> list[int]:
    """Multiply-adds of every local unit for one image: the forward pass through the blocks that its loss reaches.

    Heads are left out. Where each unit has a device of its own, the largest one sets the pace: the column "Max MACs" of
    Fournier et al., 2023, table 1, which is reproduced to 2.5 %. Arguments and errors as of :func:`stage_complexity`.
    """
    blocks = {f"{stage}, block {index},": (index, index + 1)
              for stage, (start, end) in encoder.stages.items() for index in range(start, end)}
    macs = [block.flops for block in _measure_stages(encoder, blocks, image_size)]
    return [sum(macs[unit.start:unit.end]) for unit in units]


def table_cells(complexity: EncoderComplexity) -> list[list[str]]:
    """The costs as cells of a table: titles of columns, then one row per stage and a last one with the totals."""
    report = complexity.as_dict()
    shares = dict(flops_percent=100, memory_percent=100, activation_percent=100)
    head = ["stage", "output", "parameters (M)", "GFLOPs", "FLOPs %", "memory %", "activations (MiB)", "activations %"]
    return [head, *(
        [row["name"], "×".join(map(str, row["out_shape"])), f"{row['parameters'] / 1e6:.2f}",
         f"{row['gflops']:.2f}", f"{row['flops_percent']:.2f}", f"{row['memory_percent']:.2f}",
         f"{row['activation_bytes'] / 2**20:.2f}", f"{row['activation_percent']:.2f}"]
        for row in (*report["stages"], {"name": "total", "out_shape": (), **report, **shares})
    )]


def format_table(complexity: EncoderComplexity) -> str:
    """The costs as a Markdown table, one line per stage and a last one with the totals."""
    head, *rows = table_cells(complexity)
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _measure_stages(encoder: Encoder, stages: Stages, image_size: int) -> Iterator[StageComplexity]:
    """Costs of an encoder by ``stages``, its own or other runs of blocks without gaps."""
    if image_size < 1:
        raise ValueError(f"image size is {image_size}; at least 1 pixel is needed")
    encoder = copy.deepcopy(encoder).to("meta", torch.float32).train().requires_grad_(True)
    x = torch.empty(BATCH, 3, image_size, image_size, device="meta")
    saved = _SavedForBackward((x, *encoder.parameters(), *encoder.buffers()))
    for name, (start, end) in stages.items():
        saved_before = saved.bytes
        layers = _branch_layers(encoder, start, end)
        with _naming_stage(name, image_size), saved.counting(), _output_sizes(layers) as sizes, \
                FlopCounterMode(display=False) as counter:
            x = encoder.run(x, start, end)
            if x.numel() == 0:
                raise ValueError("its output is empty")
        _, channels, height, width = x.shape
        yield StageComplexity(
            name=name,
            parameters=sum(parameter.numel() for parameter in encoder.parameters_of(start, end)),
            flops=counter.get_total_flops() // (2 * BATCH),  # torch counts a multiply-add as two
            # A strided block's first 1x1 works at the resolution of the stage below; table 6 does not see that.
            memory_elements=sum(depth * min(positions, height * width) for depth, positions in sizes),
            activation_bytes=(saved.bytes - saved_before) // BATCH,
            out_shape=(channels, height, width),
        )


@contextlib.contextmanager
def _naming_stage(stage: str, image_size: int) -> Iterator[None]:
    """Turns whatever a layer raises on an input that it cannot take into a ``ValueError`` with the stage's name."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:  # torch's, the encoders' and timm's
        raise ValueError(f"stage {stage} cannot work on images of {image_size} px: {error}; pass larger images") from error


def _branch_layers(encoder: Encoder, start: int, end: int) -> list[nn.Module]:
    """Convolutions and linear layers of the residual branches in a run of blocks."""
    paths = [path for index in range(start, end) for path in encoder.block_layers[index]]
    if start == 0:
        paths = paths[len(encoder.block_layers[0]) - 1:]  # what stands before block 0's last layer is the stem
    return [layer for path in paths for full_path, layer in encoder.get_submodule(path).named_modules(prefix=path)
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and "downsample" not in full_path.split(".")]


@contextlib.contextmanager
def _output_sizes(layers: Iterable[nn.Module]) -> Iterator[list[tuple[int, int]]]:
    """Collects channels and positions per image of everything that the layers put out meanwhile."""
    sizes = []

    def note_size(layer: nn.Module, _: tuple, output: Tensor) -> None:
        channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        sizes.append((channels, output.numel() // (BATCH * channels)))

    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(note_size))
        yield sizes


class _SavedForBackward:
    """Adds up the bytes of what autograd saves, every storage once.

    Args:
        free: tensors whose storages do not count.
    """

    def __init__(self, free: Iterable[Tensor]) -> None:
        self.bytes = 0
        self._seen = {StorageWeakRef(tensor.untyped_storage()) for tensor in free}

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which saved tensors count."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (reference := StorageWeakRef(storage)) not in self._seen:
            self._seen.add(reference)
            self.bytes += storage.nbytes()
        return tensor
