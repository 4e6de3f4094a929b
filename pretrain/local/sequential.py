"""Units trained strictly one after the other: each to its end, and frozen before the next begins."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from pretrain.local.units import LocalUnit


def check_separable(units: Sequence[LocalUnit]) -> None:
    """Refuses units that cannot be trained one after the other, in the order given.

    Raises:
        ValueError: a unit updates blocks that an earlier one's loss reaches, so that the earlier one is never finished.
    """
    for index, unit in enumerate(units):
        for later in units[index + 1:]:
            shared = [block for block in range(unit.start, unit.end) if later.trains(block)]
            if shared:
                raise ValueError(f"local unit {unit} cannot be finished before {later} begins, which updates its block(s) "
                                 f"{', '.join(map(str, shared))}; units that are trained one after the other must not "
                                 "overlap: choose another rule, such as dict(type='gim')")


@HOOKS.register_module()
class SequentialUnitsHook(Hook):
    """Trains the learner's units one after the other, from the lowest to the top.

    Which unit is trained follows from the epoch alone, so an interrupted run goes on where it was.

    Args:
        epochs_per_unit: epochs that every unit is trained.

    Raises:
        ValueError: ``epochs_per_unit`` is below 1.
    """

    def __init__(self, epochs_per_unit: int) -> None:
        if epochs_per_unit < 1:
            raise ValueError(f"epochs_per_unit of SequentialUnitsHook is {epochs_per_unit}; at least 1 is needed")
        self.epochs_per_unit = epochs_per_unit

    def check(self, runner) -> None:
        """Refuses a run that cannot be carried out, before it claims its work directory.

        Raises:
            ValueError: the units overlap, or the run's epochs are not those that all units take together.
        """
        units = learner_of(runner).units
        learner_of(runner).check_separable()
        needed = self.epochs_per_unit * len(units)
        if runner.max_epochs != needed:
            raise ValueError(f"train_cfg.max_epochs is {runner.max_epochs}, but {len(units)} units of "
                             f"{self.epochs_per_unit} epochs each take {needed}; set train_cfg.max_epochs={needed} or "
                             "change epochs_per_unit of SequentialUnitsHook")

    def before_train(self, runner) -> None:
        """Checks the run, in case it was not checked before."""
        self.check(runner)

    def before_train_epoch(self, runner) -> None:
        """Hands over to the epoch's unit, and drops the log histories of the others, which would be logged on and on."""
        learner = learner_of(runner)
        active = runner.epoch // self.epochs_per_unit
        learner.train_only(active)
        others = tuple(f"_{name}" for index, name in enumerate(learner.unit_names) if index != active)
        for name in [name for name in runner.message_hub.log_scalars if name.endswith(others)]:
            runner.message_hub.log_scalars.pop(name)


def learner_of(runner):
    """The learner that a Runner trains, within what wraps it for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
