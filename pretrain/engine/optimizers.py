"""LARS and what it leaves alone, loss scaling for float16, learning rates by batch size, and schedules that fit the run."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

LR_RULES = ("linear", "sqrt")
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # batch and instance norms of every kind are _NormBase


@OPTIMIZERS.register_module()
class LARS(torch.optim.Optimizer):
    r"""Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, algorithm 1), the paper's optimizer (section 5.1).

    For every parameter tensor ``w`` with gradient ``g`` and weight decay ``b``::

        local_lr = trust_coefficient * |w| / (|g| + b |w| + eps)        1 where |w| or |g| is zero
        v        = momentum * v + lr * local_lr * (g + b w)
        w        = w - v

    The learning rate enters the velocity, as in the paper and in SimCLR's code. ``torch.optim.SGD`` keeps it out
    (``v = momentum * v + g; w = w - lr * v``): the same at a constant rate, but when the rate changes SGD rescales what has
    been accumulated, and here every gradient keeps the rate of its own step.

    Groups with ``adapt=False`` have ``local_lr = 1``: SGD with momentum. This flag alone decides, never the weight decay.

    Args:
        params: parameters or parameter groups.
        lr: global learning rate.
        momentum: as above.
        weight_decay: L2 coefficient ``b``.
        trust_coefficient: the paper's eta.
        eps: added to the denominator.
        adapt: whether a group that does not say so itself is adapted.

    Raises:
        ValueError: an option of any group is negative.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        adapt: bool = True,
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay,
                                      trust_coefficient=trust_coefficient, eps=eps, adapt=adapt))

    def add_param_group(self, param_group: dict) -> None:
        """Adds a group; options that it lacks are the optimizer's."""
        options = {**self.defaults, **param_group}
        for name in ("lr", "momentum", "weight_decay", "trust_coefficient", "eps"):
            if not options[name] >= 0:
                raise ValueError(f"{name} of LARS is {options[name]!r}; it must be at least 0")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; the device is never waited for."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params in _alike(p for p in group["params"] if p.grad is not None):
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: Mapping[str, Any]) -> None:
        """The update of parameters of one group, device and dtype."""
        grads = [p.grad for p in params]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        velocities = [self.state[p]["momentum_buffer"] for p in params]
        decay = group["weight_decay"]
        decayed = torch._foreach_add(grads, params, alpha=decay) if decay else grads
        torch._foreach_mul_(velocities, group["momentum"])
        if group["adapt"]:
            steps = torch._foreach_mul(decayed, self._local_rates(params, grads, group))
            torch._foreach_add_(velocities, steps, alpha=group["lr"])
        else:
            torch._foreach_add_(velocities, decayed, alpha=group["lr"])
        torch._foreach_sub_(params, velocities)

    @staticmethod
    def _local_rates(params: list[Tensor], grads: list[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
        """``local_lr`` of every parameter, as scalars on its device."""
        w = torch.stack(torch._foreach_norm(params))  # (len(params),)
        g = torch.stack(torch._foreach_norm(grads))
        rates = group["trust_coefficient"] * w / (g + group["weight_decay"] * w + group["eps"])
        return list(torch.where((w > 0) & (g > 0), rates, torch.ones_like(rates)).unbind())


def _alike(params: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters sorted into lists of one device and dtype, which multi-tensor kernels need."""
    lists = defaultdict(list)
    for p in params:
        lists[p.device, p.dtype].append(p)
    yield from lists.values()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ContrastiveOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer with at most two groups: weights, and what is neither decayed nor adapted.

    Contrastive pretraining excludes the parameters of normalisation layers and all biases from weight decay and from LARS's
    adaptation (SimCLR, section 2.3 and its code, following You et al.).

    Args:
        optim_wrapper_cfg: mmengine's config of wrapper and optimizer, its ``lr_scaling`` resolved
            (:func:`resolve_lr`).
        paramwise_cfg: ``exclude_norm_and_bias``, True or False; there is no default. And ``excluded_lr_mult``, the factor of
            what is excluded on the learning rate, 1 by default (0.024 for Barlow Twins).

    Raises:
        ValueError: the options are others than these.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        if self.paramwise_cfg.keys() - {"excluded_lr_mult"} != {"exclude_norm_and_bias"}:
            raise ValueError(f"paramwise_cfg of {type(self).__name__} is {self.paramwise_cfg}; it must be "
                             "dict(exclude_norm_and_bias=True) or the same with False")
        if "lr_scaling" in self.optim_wrapper_cfg:
            raise ValueError("optim_wrapper has lr_scaling; pass the config through pretrain.engine.optimizers.resolve_lr")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: bool | None = None) -> None:
        """Appends the groups of all of ``module``'s trainable parameters to ``params``."""
        if self.paramwise_cfg["exclude_norm_and_bias"]:
            weights, excluded = split_norm_and_bias(module)
        else:
            weights, excluded = [p for p in module.parameters() if p.requires_grad], []
        no_adaptation = {"adapt": False} if self.optimizer_cfg["type"] in ("LARS", LARS) else {}
        factor = self.paramwise_cfg.get("excluded_lr_mult", 1)
        rate = {} if factor == 1 else {"lr": self.base_lr * factor}
        groups = [{"params": weights}, {"params": excluded, "weight_decay": 0.0, **rate, **no_adaptation}]
        params.extend(group for group in groups if group["params"])


def split_norm_and_bias(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters, each once: those that are weights, and those that are biases or of normalisation layers."""
    weights: dict[nn.Parameter, None] = {}  # ordered sets
    excluded: dict[nn.Parameter, None] = {}
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad:
                (excluded if isinstance(layer, NORMS) or name.endswith("bias") else weights)[parameter] = None
    return [p for p in weights if p not in excluded], list(excluded)


@OPTIM_WRAPPERS.register_module()
class LossScalingOptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` that keeps float16 gradients from vanishing by dynamic loss scaling, on any device.

    Gradients are taken of :meth:`scale` of the loss; :meth:`step` divides them by the scale again, and leaves parameters and
    optimizer as they are where a gradient is not finite, after which the scale is halved. The scale is logged.

    Args:
        device: device type of the parameters; by default the first parameter's.
        init_scale: first loss scale.
        growth_interval: steps with finite gradients after which the scale is doubled.
        **options: mmengine's, such as ``optimizer`` and ``clip_grad``.
    """

    def __init__(
        self, *, device: str | None = None, init_scale: float = 2.0**16, growth_interval: int = 2000, **options: Any
    ) -> None:
        super().__init__(**options)
        device = device or self.optimizer.param_groups[0]["params"][0].device.type
        self.scaler = torch.amp.GradScaler(device, init_scale=init_scale, growth_interval=growth_interval)

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied with now."""
        return self.scaler.get_scale()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times :attr:`loss_scale`, differentiable."""
        return self.scaler.scale(loss)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backpropagates the scaled loss; see :class:`mmengine.optim.OptimWrapper`."""
        super().backward(self.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Unscales and clips the gradients, steps where they are finite, and updates the scale."""
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()
        self.message_hub.update_scalar("train/loss_scale", self.loss_scale)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, with the scaler's under ``loss_scaler``."""
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what :meth:`state_dict` gave; the scale starts again where a run without loss scaling saved it."""
        state = dict(state_dict)
        scaler_state = state.pop("loss_scaler", None)
        if scaler_state is not None:
            self.scaler.load_state_dict(scaler_state)
        super().load_state_dict(state)


def check_no_accumulation(optim_wrapper_config: Mapping[str, Any]) -> None:
    """Refuses gradient accumulation.

    Raises:
        ValueError: ``accumulative_counts`` is not 1.
    """
    counts = optim_wrapper_config.get("accumulative_counts", 1)
    if counts != 1:
        raise ValueError(f"optim_wrapper.accumulative_counts is {counts}; contrastive losses cannot be accumulated over "
                         "smaller batches, whose images would see fewer negatives. Remove it and save memory by "
                         "model.recompute (norm, stage or block), more processes or model.autocast=bfloat16")


def scaled_lr(base_lr: float, batch_size: int, rule: str) -> float:
    """Learning rate for a global batch of ``batch_size`` images.

    ``"linear"``: ``base_lr * batch_size / 256`` (Goyal et al. 2017; SimCLR, section 2.3, with 0.3, which is the LoCo paper's
    4.8 at 4096). ``"sqrt"``: ``base_lr * sqrt(batch_size)`` (SimCLR, appendix B.1, with 0.075, which is the same at 4096 and
    more at smaller batches).

    Raises:
        ValueError: there is no such rule.
    """
    if rule not in LR_RULES:
        raise ValueError(f"unknown rule of lr_scaling {rule!r}; known are {', '.join(LR_RULES)}")
    return base_lr * (batch_size / 256 if rule == "linear" else math.sqrt(batch_size))


def resolve_lr(optim_wrapper_config: Mapping[str, Any], global_batch_size: int) -> dict[str, Any]:
    """Replaces ``lr_scaling=dict(rule=..., base_lr=...)`` of an optimizer wrapper's config by the ``optimizer.lr`` it gives.

    Args:
        optim_wrapper_config: mmengine's config with one of the two; left as it is.
        global_batch_size: images per step over all processes.

    Returns:
        A copy with ``optimizer.lr`` and without ``lr_scaling``.

    Raises:
        ValueError: both or neither are given, or ``lr_scaling`` does not fit :func:`scaled_lr`.
    """
    config = copy.deepcopy(dict(optim_wrapper_config))
    scaling = config.pop("lr_scaling", None)
    lr = config["optimizer"].get("lr")
    if (scaling is None) == (lr is None):
        raise ValueError(f"optim_wrapper has optimizer.lr={lr} and lr_scaling={scaling!r}; set one of them, such as "
                         "lr_scaling=dict(rule='linear', base_lr=0.3), and the other to None")
    if scaling is None:
        return config
    if not isinstance(scaling, Mapping) or scaling.keys() != {"rule", "base_lr"}:
        raise ValueError(f"lr_scaling is {scaling!r}; it must be dict(rule=..., base_lr=...)")
    config["optimizer"]["lr"] = scaled_lr(scaling["base_lr"], global_batch_size, scaling["rule"])
    return config


def check_schedule(param_scheduler: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, max_epochs: int) -> None:
    """Refuses a schedule that does not end when training does.

    Args:
        param_scheduler: mmengine's configs; those without ``end`` run to the last epoch. None for a constant learning rate.
        max_epochs: epochs of the run.

    Raises:
        ValueError: there is no epoch, a phase begins after the last one, or the schedule ends earlier or later.
    """
    if max_epochs < 1:
        raise ValueError(f"train_cfg.max_epochs is {max_epochs}; at least 1 is needed")
    schedulers = [param_scheduler] if isinstance(param_scheduler, Mapping) else list(param_scheduler or [])
    for index, scheduler in enumerate(schedulers):
        begin = scheduler.get("begin", 0)
        if "end" not in scheduler and scheduler.get("by_epoch", True) and begin >= max_epochs:
            raise ValueError(f"{scheduler['type']} (param_scheduler.{index}) begins after epoch {begin}, but "
                             f"train_cfg.max_epochs is {max_epochs}; train longer, or shorten the warm-up before it (with "
                             f"--cfg-options: param_scheduler.{max(index - 1, 0)}.end and param_scheduler.{index}.begin)")
    ends = [scheduler["end"] for scheduler in schedulers if "end" in scheduler and scheduler.get("by_epoch", True)]
    if len(ends) == len(schedulers) > 0 and max(ends) != max_epochs:  # with an open end, one phase follows the run
        last = ends.index(max(ends))
        raise ValueError(f"{schedulers[last]['type']} (param_scheduler.{last}) ends with epoch {max(ends)}, but "
                         f"train_cfg.max_epochs is {max_epochs}; leave its end out in the config, so that it follows")
