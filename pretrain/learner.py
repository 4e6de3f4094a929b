"""The learner that ties encoder, units, heads and loss together: for plain torch, and a model for mmengine's Runner."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import Tensor, nn

from pretrain.distributed.comm import GradientAverager, average
from pretrain.encoders import Encoder, build_encoder
from pretrain.heads import build_head
from pretrain.local.executor import LocalBackprop
from pretrain.local.sequential import check_separable
from pretrain.local.soft_sharing import SoftSharing, SoftSharingBackprop
from pretrain.local.target import TargetNetwork
from pretrain.local.units import LocalUnit, build_units, unit_names, untrained_blocks
from pretrain.objectives import OBJECTIVES, Objective, build_objective, head_options, objective_type
from pretrain.options import build_with_options, check_known

AUTOCAST = {None: torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0-255
IMAGENET_STD = (58.395, 57.12, 57.375)


def check_model(model: Mapping) -> None:
    """Checks the options of a config's ``model``, if that is a :class:`LocalContrastiveLearner`.

    Raises:
        ValueError: there is no such option.
    """
    if model.get("type") == LocalContrastiveLearner.__name__:
        options = [key for key in model if key != "type"]
        check_known("model", options, inspect.signature(LocalContrastiveLearner).parameters)


@MODELS.register_module()
class LocalContrastiveLearner(BaseModel):
    """Trains an encoder with one loss per local unit.

    In plain torch it takes the place of model and loss; mmengine's Runner calls :meth:`train_step` instead::

        encoder = ResNetEncoder(torchvision.models.resnet50())
        learner = LocalContrastiveLearner(encoder, rule="loco", head=dict(conv_blocks=1))
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
        optimizer.zero_grad()
        logs = learner.backward(views)  # (N, 2, 3, H, W), RGB 0-255
        optimizer.step()

    Args:
        encoder: an encoder, or a name or config for :func:`pretrain.encoders.build_encoder`.
        rule: learning rule or list of block ranges, see :func:`pretrain.local.units.build_units`.
        head: options of the heads, the same for every unit, see :func:`pretrain.heads.build_head`; they take precedence
            over those that the objective brings.
        objective: name or config of the objective, the same for every unit, see
            :func:`pretrain.objectives.build_objective`.
        weights: what every unit's loss is multiplied with, in the units' order; None for 1.
        total_steps: steps of the whole training, where the objective needs it (BYOL); ``tools/pretrain.py`` sets it.
        autocast: ``"bfloat16"`` or ``"float16"`` to run the forward passes in that type, None for float32; float16 needs the
            :class:`~pretrain.engine.optimizers.LossScalingOptimWrapper`. Losses are computed in float32 whatever this is.
        channels_last: keep convolution weights and inputs in channels-last order.
        compile: backend of torch.compile for the encoder's blocks and the heads (``"inductor"``), None to run them as
            they are. A compiled block's backward pass always computes weight gradients, also where the executor wants the
            gradient to the input alone: it pays for rules without overlap.
        allow_untrained: whether blocks that no unit updates may stay untrained, which is then logged.
        recompute: what is run forward again to save memory, see :data:`pretrain.local.segments.RECOMPUTE`.
        soft_sharing: options of :class:`~pretrain.local.soft_sharing.SoftSharing` to give LoCo's units their own copies of
            shared stages; None to share the stages themselves.
        method_name: what tables call the method instead of a label made of its options; None for that.
        data_preprocessor: mmengine's; by default batches are only moved to the device.

    Attributes:
        config: the options that say what is trained, as they were given.
        target: the momentum average of encoder and heads, for objectives that need one; otherwise None.

    Raises:
        ValueError: an argument does not fit; the message says which and what would.
    """

    def __init__(
        self,
        encoder: Encoder | str | Mapping,
        rule: str | Mapping | Sequence,
        head: Mapping | None = None,
        objective: str | Mapping = "NTXent",
        weights: Sequence[float] | None = None,
        total_steps: int | None = None,
        autocast: str | None = None,
        channels_last: bool = False,
        compile: str | None = None,
        allow_untrained: bool = False,
        recompute: str = "none",
        soft_sharing: Mapping | None = None,
        method_name: str | None = None,
        data_preprocessor: Mapping | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        if autocast not in AUTOCAST:
            raise ValueError(f"autocast is {autocast!r}; None, 'bfloat16' or 'float16' is needed")
        if compile is not None and recompute != "none":
            raise ValueError(f"compile={compile!r} cannot be combined with recompute={recompute!r}, which takes the blocks' "
                             "graphs apart; leave one of them out")
        self.config = dict(encoder=encoder, rule=rule, head=head, objective=objective, weights=weights,
                           soft_sharing=soft_sharing, method_name=method_name)
        self.autocast = autocast
        given = isinstance(encoder, Encoder)
        self.encoder = encoder if given else build_encoder(encoder)
        self.units = build_units(rule, self.encoder.stages, allow_untrained)
        self.unit_names = unit_names(self.units, self.encoder.stages)
        untrained = untrained_blocks(self.units, self.encoder.num_blocks)
        if untrained:
            print_log(f"allow_untrained: no local unit updates blocks {', '.join(map(str, untrained))}; they stay as they "
                      "are initialised", logger="current", level=logging.WARNING)
        self.weights = _checked_weights(weights, self.units)
        make = objective_type(objective)
        options, fresh_encoder = head_options(make, head), None if given else partial(build_encoder, encoder)
        heads = [build_head(options, self.encoder, unit.end - 1, fresh_encoder) for unit in self.units]
        self.objectives = nn.ModuleList(build_objective(objective, getattr(head, "out_channels", None)) for head in heads)
        self.soft_sharing = None
        if soft_sharing is not None:
            if make.target_views is not None:
                raise ValueError(f"soft_sharing cannot be combined with {make.label}, which needs a target network; "
                                 f"objectives without one: {', '.join(_without_target())}")
            self.soft_sharing = build_with_options("soft_sharing", SoftSharing, soft_sharing, self.encoder, self.units)
            heads = self.soft_sharing.extend(heads)
        self.heads = nn.ModuleList(heads)
        self.target = None if make.target_views is None else TargetNetwork(self.encoder, self.heads, self.units)
        self.total_steps = total_steps
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.allow_untrained, self.recompute = allow_untrained, recompute
        self._alone: int | None = None  # the only unit that is trained now
        self.gradient_averager: GradientAverager | None = None  # where this is one of many processes
        if compile is not None:
            self._compile(compile)
        self.backprop = self._executor(self.units, allow_untrained)

    def train_step(self, data: Mapping[str, Tensor], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimisation step.

        Args:
            data: what the data preprocessor makes ``{"views": (N, 2, 3, H, W) uint8}`` of; by default that itself.
            optim_wrapper: a plain mmengine ``OptimWrapper``, with float16 a ``LossScalingOptimWrapper``.

        Returns:
            As :meth:`backward`.
        """
        self.check_optim_wrapper(optim_wrapper)
        views = self.data_preprocessor(data, training=True)["views"]
        optim_wrapper.zero_grad()
        logs = self.backward(views, getattr(optim_wrapper, "scale", None))
        optim_wrapper.step()
        return logs

    def backward(self, views: Tensor, scale: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """Accumulates the gradients of all units' losses, as ``loss.backward()`` does of one.

        Args:
            views: two views of every image, ``(N, 2, 3, H, W)``, RGB 0-255.
            scale: applied to every loss before its backward pass, such as ``torch.amp.GradScaler.scale`` with float16.

        Returns:
            Log variables: ``loss`` (weighted sum over units), per unit ``loss_<unit>`` and what else the objective measures,
            such as ``accuracy_<unit>``; with soft sharing ``penalty``, which ``loss`` does not contain. All are of the
            global batch.
        """
        scale = scale or nn.Identity()
        active = range(len(self.units)) if self._alone is None else [self._alone]
        targets = self._targets(views)
        losses = {self.unit_names[index]: _UnitLoss(self.heads[index], self.objectives[index], targets[index],
                                                    self.weights[index], scale) for index in active}
        images = _images_of(views, self.objectives[0].views)
        self.backprop.step(self.normalise(images), list(losses.values()))  # no name, so that the executor can free them
        if self.gradient_averager is not None:
            self.gradient_averager.finish()
        logs = _logs_of(losses)
        if self.soft_sharing is not None:
            logs["penalty"] = self.soft_sharing.descend(scale)
        return logs

    def _targets(self, views: Tensor) -> Sequence[tuple[Tensor, ...]]:
        """What each unit's objective gets of the target network, which follows the last step's weights first."""
        if self.target is None:
            return [()] * len(self.units)
        objective, last_step = self.objectives[0], max(0, self.target.step - 1)
        self.target.follow(self.encoder, self.heads, objective.target_momentum(last_step, self.total_steps))
        with self.autocast_context():
            return [(z,) for z in self.target(self.normalise(_images_of(views, objective.target_views)))]

    def check_separable(self) -> None:
        """Refuses, with a ``ValueError``, what cannot be trained one unit after the other, see :meth:`train_only`."""
        if self.target is not None:
            raise ValueError(f"units cannot be trained one after the other with {self.objectives[0].label}, whose target "
                             f"network averages all of them; objectives without one: {', '.join(_without_target())}")
        check_separable(self.units)

    def train_only(self, index: int | None) -> None:
        """Trains unit ``index`` alone from now on, or all of them again.

        Below the unit, blocks run in eval mode, so that not even their batch norm statistics change; above it they do not
        run. What is not trained has no gradient, and optimizers leave it as it is.

        Raises:
            ValueError: there is no such unit, or the units cannot be trained one after the other, see
                :func:`pretrain.local.sequential.check_separable`, or not with this objective.
        """
        if index is None:
            self.backprop = self._executor(self.units, self.allow_untrained)
        else:
            if index not in range(len(self.units)):
                raise ValueError(f"there is no unit {index!r}; the {len(self.units)} units are counted from 0")
            self.check_separable()
            self.backprop = self._executor([self.units[index]], allow_untrained=True)
        self._alone = index
        if self.gradient_averager is not None:
            self.gradient_averager.forget_order()
        self.train(self.training)

    def train(self, mode: bool = True) -> LocalContrastiveLearner:
        """Sets train or eval mode; under :meth:`train_only` the blocks that the unit does not update stay in eval mode."""
        super().train(mode)
        if self._alone is not None:
            for block in range(self.encoder.num_blocks):
                if not self.units[self._alone].trains(block):
                    self.encoder.block(block).eval()
        return self

    def forward(self, inputs: Tensor, data_samples=None, mode: str = "tensor") -> dict[str, Tensor]:
        """Feature maps of every stage for images ``(B, 3, H, W)``, RGB 0-255; training goes through :meth:`train_step`."""
        if mode != "tensor":
            raise ValueError(f"mode is {mode!r}; only 'tensor' is served, since the learner trains by train_step")
        return self.encoder(self.normalise(inputs))

    def normalise(self, images: Tensor) -> Tensor:
        """RGB 0-255, any dtype -> float32 with ImageNet's mean and standard deviation, in the model's memory format."""
        return ((images.float() - self.mean) / self.std).contiguous(memory_format=self.memory_format)

    def _executor(self, units: Sequence[LocalUnit], allow_untrained: bool) -> LocalBackprop:
        executor = LocalBackprop if self.soft_sharing is None else SoftSharingBackprop
        return executor(self.encoder, units, self.autocast_context, allow_untrained, self.recompute)

    def autocast_context(self) -> torch.autocast:
        """The context in which forward passes run."""
        device = next(self.parameters()).device.type
        return torch.autocast(device, AUTOCAST[self.autocast], enabled=self.autocast is not None)

    def check_optim_wrapper(self, optim_wrapper: OptimWrapper) -> None:
        """Refuses an optimizer wrapper that accumulates gradients or does not fit the precision."""
        scales = hasattr(optim_wrapper, "scale")
        if not (scales or type(optim_wrapper) is OptimWrapper) or optim_wrapper._accumulative_counts != 1:
            raise ValueError("the learner steps a plain OptimWrapper without accumulation: contrastive losses do not add up "
                             f"over smaller batches, and autocast is an option of the model; got {optim_wrapper}")
        if scales != (self.autocast == "float16"):
            raise ValueError(f"model.autocast is {self.autocast!r}, but the optimizer wrapper is "
                             f"{type(optim_wrapper).__name__}; float16 needs LossScalingOptimWrapper, all else OptimWrapper")

    def _compile(self, backend: str) -> None:
        """Compiles the encoder's composite layers and the heads in place; names of weights stay."""
        torch._functorch.config.donated_buffer = False  # a graph serves several backward passes
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)  # one code, many blocks
        paths = {path for block in self.encoder.block_layers for path in block}
        composite = [layer for layer in map(self.encoder.get_submodule, sorted(paths)) if any(layer.children())]
        for module in [*composite, *self.heads]:
            module.compile(backend=backend)


def _images_of(views: Tensor, which: slice) -> Tensor:
    """Views ``(N, 2, 3, H, W)`` -> images ``(V N, 3, H, W)`` of the ``V`` views asked for, one view after the other."""
    return views[:, which].transpose(0, 1).flatten(0, 1)


def _checked_weights(weights: Sequence[float] | None, units: Sequence[LocalUnit]) -> list[float]:
    """One weight per unit."""
    if weights is None:
        return [1.0] * len(units)
    numbers = isinstance(weights, Sequence) and all(isinstance(weight, int | float) for weight in weights)
    if not numbers or len(weights) != len(units) or not all(0 <= weight < float("inf") for weight in weights):
        raise ValueError(f"weights is {weights!r}; {len(units)} finite numbers of at least 0 are needed, one per unit")
    return list(weights)


def _without_target() -> list[str]:
    return sorted(name for name, make in OBJECTIVES.module_dict.items() if make.target_views is None)


class _UnitLoss:
    """A unit's head and objective for one step.

    Attributes:
        weight: of the loss among the units.
        loss: of this process's rows, detached and not weighted.
        metrics: what else the objective measures on these rows by name, such as the contrastive accuracy.
    """

    def __init__(
        self,
        head: nn.Module,
        objective: Objective,
        targets: tuple[Tensor, ...],
        weight: float,
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        self._head, self._objective, self._targets, self._scale = head, objective, targets, scale
        self.weight = weight
        self.loss: Tensor | None = None
        self.metrics: dict[str, Tensor] = {}

    def __call__(self, features: Tensor) -> Tensor:
        """Feature map ``(2N, C, h, w)`` -> the loss, weighted and scaled for the backward pass."""
        loss, self.metrics = self._objective(self._head(features), *self._targets)
        if taken := [name for name in self.metrics if name.startswith("loss")]:
            raise ValueError(f"{type(self._objective).__name__} logs {taken[0]!r}, but names that begin with 'loss' are "
                             "the losses of units in the log; rename it")
        self.loss = loss.detach()
        return self._scale(loss if self.weight == 1 else self.weight * loss)


def _logs_of(losses: Mapping[str, _UnitLoss]) -> dict[str, Tensor]:
    """Losses and metrics by unit, means over all processes, and the weighted sum of the losses."""
    by_unit = {unit: {"loss": each.loss, **each.metrics} for unit, each in losses.items()}
    values = average(torch.stack([torch.stack([*quantities.values()]) for quantities in by_unit.values()]))  # (units, q)
    weights = [each.weight for each in losses.values()]
    logs = {"loss": (values[:, 0] if set(weights) == {1} else values[:, 0] * values.new_tensor(weights)).sum()}
    for quantity, column in zip(next(iter(by_unit.values())), values.T, strict=True):
        logs |= {f"{quantity}_{unit}": value for unit, value in zip(by_unit, column, strict=True)}
    return logs
