"""The methods whose training steps are compared: by name, or of a config file."""

from __future__ import annotations

from argparse import Namespace

from mmengine.utils import import_modules_from_strings

from pretrain.engine.cli import load_config
from pretrain.options import unknown_name

METHODS: dict[str, dict] = {  # options of the learner; heads as in the paper's main results (LoCo, sections 5.1 and 5.4)
    "simclr": dict(rule="simclr"),
    "gim": dict(rule="gim"),
    "loco": dict(rule="loco", head=dict(conv_blocks=1)),
    "loco_no_res2_loss": dict(rule=dict(type="loco", res2_loss=False), head=dict(conv_blocks=1)),
    "loco_window3": dict(rule=dict(type="loco", window=3), head=dict(conv_blocks=1)),
    "upper_gradient": dict(rule="upper_gradient", head=dict(conv_blocks=1)),
    "sharing1": dict(rule=dict(type="sharing", blocks=1), head=dict(conv_blocks=1)),
    "sharing2": dict(rule=dict(type="sharing", blocks=2), head=dict(conv_blocks=1)),
}
BASELINE = "simclr"
LEFT_OUT = ("type", "encoder", "recompute", "autocast", "compile", "data_preprocessor")  # of a config's model
CHECKPOINTED = "simclr_checkpointed"  # what a user would do instead of local learning: torch's checkpointing of every block


def named_method(name: str) -> dict:
    """The learner's options of a method in :data:`METHODS`, or of SimCLR for :data:`CHECKPOINTED`.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in (*METHODS, CHECKPOINTED):
        raise unknown_name("method", name, [*METHODS, CHECKPOINTED], ", and pretraining configs, configs/pretrain/*.py")
    return METHODS[BASELINE if name == CHECKPOINTED else name]


def method_options(text: str) -> str | dict:
    """A method by its name, or the learner's options of a pretraining config file.

    Encoder, recomputation and autocast are left out: the caller chooses them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name is unknown, or the file is not a pretraining config.
    """
    if not text.endswith(".py"):
        named_method(text)
        return text
    config = load_config(text, Namespace(cfg_options=None, work_dir=None), "", ["model.rule"])
    import_modules_from_strings(**config.get("custom_imports", {"imports": []}))  # such as an objective of its own
    return {key: value for key, value in config.model.to_dict().items() if key not in LEFT_OUT}
