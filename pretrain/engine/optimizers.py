"""LARS, what it leaves alone, and loss scaling for float16."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

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
        lr: global learning rate, >= 0.
        momentum: in [0, 1).
        weight_decay: L2 coefficient ``b``, >= 0.
        trust_coefficient: the paper's eta, > 0.
        eps: added to the denominator, >= 0.
        adapt: whether a group that does not say so itself is adapted.

    Raises:
        ValueError: an option is out of range, of whichever group.
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
        """Adds a group; options that it lacks are the optimizer's.

        Raises:
            ValueError: an option is out of range.
        """
        options = {**self.defaults, **param_group}
        ranges = {
            "lr": (lambda x: x >= 0, "at least 0"),
            "momentum": (lambda x: 0 <= x < 1, "in [0, 1)"),
            "weight_decay": (lambda x: x >= 0, "at least 0"),
            "trust_coefficient": (lambda x: x > 0, "above 0"),
            "eps": (lambda x: x >= 0, "at least 0"),
            "adapt": (lambda x: isinstance(x, bool), "True or False"),
        }
        for name, (fits, needed) in ranges.items():
            if not fits(options[name]):
                raise ValueError(f"{name} of LARS is {options[name]!r}; it must be {needed}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; the device is never waited for.

        Raises:
            ValueError: a gradient is sparse.
        """
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
        if any(grad.is_sparse for grad in grads):
            raise ValueError("LARS does not take sparse gradients; build the layer with sparse=False")
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
            (:func:`pretrain.engine.learning_rates.resolve_lr`).
        paramwise_cfg: ``exclude_norm_and_bias``, True or False; there is no default.

    Raises:
        ValueError: the options are others than these.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        if self.paramwise_cfg.keys() != {"exclude_norm_and_bias"}:
            raise ValueError(f"paramwise_cfg of {type(self).__name__} is {self.paramwise_cfg}; it must be "
                             "dict(exclude_norm_and_bias=True) or the same with False")
        if "lr_scaling" in self.optim_wrapper_cfg:
            raise ValueError("optim_wrapper has lr_scaling; pass the config through "
                             "pretrain.engine.learning_rates.resolve_lr")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: bool | None = None) -> None:
        """Appends the groups of all of ``module``'s trainable parameters to ``params``."""
        if self.paramwise_cfg["exclude_norm_and_bias"]:
            weights, excluded = split_norm_and_bias(module)
        else:
            weights, excluded = [p for p in module.parameters() if p.requires_grad], []
        no_adaptation = {"adapt": False} if self.optimizer_cfg["type"] in ("LARS", LARS) else {}
        groups = [{"params": weights}, {"params": excluded, "weight_decay": 0.0, **no_adaptation}]
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
        **options: mmengine's, ``optimizer`` and ``clip_grad`` for two.
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
        """Loads what :meth:`state_dict` gave; the scale starts anew where a run without loss scaling saved it."""
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
