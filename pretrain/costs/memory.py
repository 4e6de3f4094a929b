"""Peak memory and computation of one training step, counted without a GPU (LoCo, section 5.6 and table 7).

The step of the real learner runs on fake tensors, which have shapes and lifetimes but no data, while every allocation and
release is counted. What is counted is exact for the tensors of the step; what a device adds (workspaces of convolution
algorithms, rounding of its allocator, its context) is not in it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import conv_flop_count, flop_registry

from pretrain.costs.complexity import stage_complexity
from pretrain.costs.methods import BASELINE, CHECKPOINTED, named_method
from pretrain.learner import LocalContrastiveLearner

MEASURED = {  # what pretrain.costs.step_benchmark may add to a report: key -> heading, factor
    "measured_bytes": ("measured peak (GB)", 1e-9), "measured_saving_ratio": ("measured saving", 1),
    "seconds": ("s per step", 1), "time_ratio": ("time ratio", 1),
}


@dataclass(frozen=True)
class StepCost:
    """What one training step takes; optimizer state left out of ``peak_bytes``.

    Attributes:
        peak_bytes: everything alive at the peak, ``parameter_bytes + gradient_bytes + activation_bytes``.
        parameter_bytes: parameters of the encoder, the heads and the objectives, and of a target network.
        gradient_bytes: of the parameter gradients, those alive at the peak.
        activation_bytes: everything else alive at the peak.
        account: ``activation_bytes`` by kind: images, buffers, activations (made in forward passes, repeated ones
            included), in_flight (made in backward passes: gradients on their way, recomputed activations).
        optimizer_bytes: state of an optimizer with one momentum buffer per parameter (LARS, SGD); comes on top.
        flops: multiply-adds of the step's convolutions and matrix products.
    """

    peak_bytes: int
    parameter_bytes: int
    gradient_bytes: int
    activation_bytes: int
    account: dict[str, int]
    optimizer_bytes: int
    flops: int


def step_cost(
    encoder: str | Mapping,
    method: str | Mapping,
    *,
    batch_size: int = 32,
    image_size: int = 224,
    recompute: str = "none",
    autocast: str | None = None,
) -> StepCost:
    """Counts one training step of a method.

    Args:
        encoder: name or config of the encoder.
        method: a name in :data:`~pretrain.costs.methods.METHODS`, :data:`CHECKPOINTED`, or the learner's options.
        batch_size: images of the step, of each of which two views pass through the encoder, where the objective has it so.
        image_size: side of the views.
        recompute: see :data:`pretrain.local.segments.RECOMPUTE`.
        autocast: type of the forward passes, see :class:`~pretrain.learner.LocalContrastiveLearner`; by torch's rules for
            the CPU, which keep the same activations in half precision as those for CUDA where convolutional encoders go.

    Raises:
        ValueError: unknown names or modes, a single image, or sizes that do not fit the encoder.
    """
    learner = build_learner(encoder, method, recompute, autocast)
    stage_complexity(learner.encoder, image_size)  # refuses a size that a stage cannot take
    mode = FakeTensorMode()
    _make_fake(learner, mode)
    with mode:
        data = {"views": torch.empty(views_shape(batch_size, image_size), dtype=torch.uint8)}
        with LiveBytes(_kinds(learner, data)) as live:
            train_step(learner, data, checkpointed=method == CHECKPOINTED)
    gradients = {live.serial(p.grad) for p in learner.parameters() if p.grad is not None}
    at_peak = Counter()
    for serial, (size, kind) in live.at_peak.items():
        at_peak["gradients" if serial in gradients else kind] += size
    parameters, gradient_bytes = at_peak.pop("parameters"), at_peak.pop("gradients", 0)
    return StepCost(
        peak_bytes=live.peak,
        parameter_bytes=parameters,
        gradient_bytes=gradient_bytes,
        activation_bytes=live.peak - parameters - gradient_bytes,
        account=dict(at_peak),
        optimizer_bytes=sum(p.numel() * p.element_size() for p in learner.parameters() if p.requires_grad),
        flops=live.flops // 2,  # torch counts a multiply-add as two
    )


def compare_methods(
    encoder: str | Mapping,
    methods: Mapping[str, str | Mapping],
    *,
    batch_size: int = 32,
    image_size: int = 224,
    recompute: str = "none",
    autocast: str | None = None,
) -> dict:
    """Step costs of several methods with their ratios to SimCLR, SimCLR and checkpointed SimCLR always among them.

    Args:
        encoder: name or config of the encoder.
        methods: name for the report -> method, see :func:`step_cost`.
        batch_size: images of a step.
        image_size: side of the views.
        recompute: mode of every method but checkpointed SimCLR; the baseline of the ratios is SimCLR without.
        autocast: see :func:`step_cost`; of the baseline, too.

    Returns:
        ``{"batch_size", "input_size", "recompute", "autocast", "baseline": {...}, "methods": {name: {...}}}``; every cost is
        :class:`StepCost` as a dict, methods have ``saving_ratio`` and ``flops_ratio`` besides.
    """
    sizes = {"batch_size": batch_size, "image_size": image_size, "autocast": autocast}
    baseline = step_cost(encoder, BASELINE, **sizes)
    report = {}
    for name, method in shown_methods(methods).items():
        cost = step_cost(encoder, method, recompute=recompute, **sizes)
        report[name] = {
            **asdict(cost),
            "saving_ratio": baseline.peak_bytes / cost.peak_bytes,
            "flops_ratio": cost.flops / baseline.flops,
        }
    settings = {"batch_size": batch_size, "input_size": image_size, "recompute": recompute, "autocast": autocast}
    return {**settings, "baseline": asdict(baseline), "methods": report}


def shown_methods(methods: Mapping[str, str | Mapping]) -> dict[str, str | Mapping]:
    """The methods, with SimCLR before and checkpointed SimCLR behind them."""
    return {BASELINE: BASELINE, **methods, CHECKPOINTED: CHECKPOINTED}


def format_table(report: Mapping) -> str:
    """The report of :func:`compare_methods` as a Markdown table, with whatever was measured besides as further columns."""
    head = ["method", "peak (GB)", "parameters", "gradients", "activations", "in flight", "optimizer (on top)",
            "saving", "GFLOPs", "FLOPs ratio"]
    measured = [key for key in MEASURED if all(key in row for row in report["methods"].values())]
    shown = dict(report["methods"])
    if report["recompute"] != "none":
        shown = {f"{BASELINE} (none)": {**report["baseline"], "saving_ratio": 1.0, "flops_ratio": 1.0}, **shown}
    rows = []
    for name, row in shown.items():
        in_flight = row["account"].get("in_flight", 0)
        sizes = (row["peak_bytes"], row["parameter_bytes"], row["gradient_bytes"], row["activation_bytes"] - in_flight,
                 in_flight, row["optimizer_bytes"])
        rows.append([name, *(f"{size / 1e9:.3f}" for size in sizes), f"{row['saving_ratio']:.2f}",
                     f"{row['flops'] / 1e9:.0f}", f"{row['flops_ratio']:.3f}"])
        rows[-1] += [f"{row[key] * MEASURED[key][1]:.3f}" if key in row else "" for key in measured]
    head += [MEASURED[key][0] for key in measured]
    rule = ["---", *["---:"] * (len(head) - 1)]
    settings = f"{report['autocast'] or 'float32'}, recompute={report['recompute']}"
    caption = (f"{report['batch_size']} images of {report['input_size']} px, two views each, {settings}; "
               "GB of 10^9 bytes, ratios to SimCLR without recomputation")
    return "\n".join([caption, "", *(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))])


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive, their peak, and FLOPs, while operations run.

    Args:
        known: tensors that are alive already, with their kinds.

    Attributes:
        peak: highest number of bytes alive at once, each storage once.
        at_peak: what was alive then: serial number -> ``(bytes, kind)``.
        flops: as torch counts them, two a multiply-add.
    """

    def __init__(self, known: Iterable[tuple[Tensor, str]]) -> None:
        super().__init__()
        self.peak, self.flops = 0, 0
        self.at_peak: dict[int, tuple[int, str]] = {}
        self._alive: dict[int, tuple[int, str]] = {}
        self._bytes, self._serials = 0, 0
        self._pending = False  # whether the last operation may have to be counted as one in place
        for tensor, kind in known:
            self._watch(tensor, kind)

    def serial(self, tensor: Tensor) -> int | None:
        """Number of the tensor's storage; storages are numbered as they appear."""
        return getattr(tensor.untyped_storage(), "live_bytes_serial", None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # no computation, only a question that the autograd engine asks
            return func(*args, **kwargs)
        if self._pending:
            self._note_peak()
        out = func(*args, **kwargs)
        in_backward = torch._C._current_graph_task_id() != -1
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor, "in_flight" if in_backward else "activations")
        # The autograd engine adds gradients up in place, but not while a dispatch mode watches: then it makes a new tensor
        # and drops the old one right afterwards. So such a sum is looked at when the next operation begins.
        self._pending = in_backward and func is torch.ops.aten.add.Tensor
        if not self._pending:
            self._note_peak()
        self.flops += _flops(func, args, kwargs, out)
        return out

    def _watch(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        if getattr(storage, "live_bytes_serial", None) is not None:
            return
        self._serials += 1
        storage.live_bytes_serial = self._serials
        self._alive[self._serials] = (storage.nbytes(), kind)
        self._bytes += storage.nbytes()
        weakref.finalize(storage, self._forget, self._serials)

    def _forget(self, serial: int) -> None:
        self._bytes -= self._alive.pop(serial)[0]

    def _note_peak(self) -> None:
        if self._bytes > self.peak:
            self.peak, self.at_peak = self._bytes, dict(self._alive)


def _flops(func, args: tuple, kwargs: dict, out) -> int:
    """FLOPs of one operation, two a multiply-add; torch's own count of a convolution's backward pass ignores groups."""
    operation = func._overloadpacket
    if operation is torch.ops.aten.convolution_backward:
        grad, x, weight, _, _, _, _, transposed, _, _, wanted = args
        return (wanted[0] + wanted[1]) * conv_flop_count(x.shape, weight.shape, grad.shape, transposed)
    return flop_registry[operation](*args, **kwargs, out_val=out) if operation in flop_registry else 0


def build_learner(
    encoder: str | Mapping, method: str | Mapping, recompute: str, autocast: str | None = None
) -> LocalContrastiveLearner:
    """The learner of a method, see :func:`step_cost`."""
    options = named_method(method) if isinstance(method, str) else method
    return LocalContrastiveLearner(**{**options, "encoder": encoder, "recompute": recompute, "autocast": autocast,
                                     "total_steps": 1})


def views_shape(batch_size: int, image_size: int) -> tuple[int, ...]:
    """Shape of a step's views.

    Raises:
        ValueError: the batch is of fewer than two images.
    """
    if batch_size < 2:
        raise ValueError(f"batch size is {batch_size}; a contrastive step needs at least 2 images")
    return batch_size, 2, 3, image_size, image_size


def train_step(learner: LocalContrastiveLearner, data: dict[str, Tensor], checkpointed: bool) -> None:
    """One step; its optimizer keeps no state and changes nothing in the peak, which lies in the backward pass."""
    if not checkpointed:
        learner.train_step(data, OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
        return
    x = learner.normalise(data["views"].transpose(0, 1).flatten(0, 1))
    for index in range(learner.encoder.num_blocks):
        with learner.autocast_context():
            x = checkpoint(learner.encoder.block(index), x, use_reentrant=False, preserve_rng_state=False)
    with learner.autocast_context():
        loss, _ = learner.objectives[0](learner.heads[0](x))
    loss.backward()


def _make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces parameters and buffers by fake ones, in place; some encoders cannot be built under the mode."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(mode.from_tensor(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)


def _kinds(learner: LocalContrastiveLearner, data: Mapping[str, Tensor]) -> list[tuple[Tensor, str]]:
    return [
        *((parameter, "parameters") for parameter in learner.parameters()),
        *((buffer, "buffers") for buffer in learner.buffers()),
        *((images, "images") for images in data.values()),
    ]
