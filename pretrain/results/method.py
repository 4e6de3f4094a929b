"""What was trained: the identity that every run, checkpoint and exported backbone carries, and every table and figure reads.

An identity is plain data in three parts. The *method* is what makes a way of pretraining what it is: learning rule,
objective, projection head ("decoder" in the papers), soft sharing, order of training, each with all options, and an optional
name. The *setting* is what methods are compared in: encoder, data, image size, epochs, batch size, optimizer, views,
precision. The *repetition* is what averages go over: the seed, and in detection the split. Tables have one row for each
method and setting.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.data.dataset import TwoViewImages
from pretrain.data.device_views import BatchedTwoViews
from pretrain.data.in_memory import InMemoryDataset
from pretrain.data.synthetic_scenes import SyntheticConfig
from pretrain.data.views import TwoViews
from pretrain.encoders import encoder_spec
from pretrain.engine.optimizers import LARS
from pretrain.engine.work_dir import EXECUTION_KEYS
from pretrain.heads import STANDARD_HEAD, ProjectionHead, head_type
from pretrain.local.units import RULES, LocalUnit, Stages, build_units
from pretrain.objectives import head_options, objective_type

if TYPE_CHECKING:
    from pretrain.learner import LocalContrastiveLearner

RANDOM, SUPERVISED = "random", "supervised"  # encoders that this project has not trained
RULE_LABELS = {"simclr": "SimCLR", "gim": "GIM", "loco": "LoCo", "upper_gradient": "upper gradient only"}
FAMILIES = (RANDOM, SUPERVISED, "file", *RULE_LABELS, "sharing", "decoupled", "units")  # the order of rows
# What labels leave out. The papers' standard heads: LoCo, section 5.4; Fournier et al., appendix, "Split details".
STANDARD_HEADS = {**dict.fromkeys(("loco", "upper_gradient", "sharing"), dict(conv_blocks=1)),
                  "decoupled": dict(conv_blocks="plain_conv", norm="none")}
STANDARD_OBJECTIVES = {"decoupled": dict(temperature=0.5)}  # Fournier et al., section 4; LoCo does not state its temperature
# How the data are held in memory and computed with, not what they are.
EXECUTION_OPTIONS = EXECUTION_KEYS | {"channels_last", "non_blocking", "max_mib"}
_TAKES_OPTIONS = {  # what the options of a config's ``type`` are given to, for their defaults
    "TwoViewImages": TwoViewImages, "InMemoryDataset": InMemoryDataset, "BatchedTwoViewsPreprocessor": BatchedTwoViews,
    "LARS": LARS,
}
NAMED_BY_ROOT = ("folder", "file_list", "webdataset", "coco_objects")  # sources that may be any data set
VIEW_OPTIONS = tuple(inspect.signature(TwoViews).parameters)
# Keys of a config's model that are the method, the encoder, or how the run is carried out.
MODEL_OPTIONS = EXECUTION_OPTIONS | {"type", "encoder", "rule", "head", "objective", "soft_sharing", "method_name",
                                     "weights", "total_steps",
                                     "autocast", "compile", "recompute", "allow_untrained", "data_preprocessor"}
# Parts that are described by their options, or have no part in what is trained. All others belong to the setting.
STANDARD_PARTS = frozenset({
    "LocalContrastiveLearner", "TwoViewImages", "InMemoryDataset", "BatchedTwoViewsPreprocessor", "BaseDataPreprocessor",
    "CorruptImagesHook", "ProgressBarHook", "SequentialUnitsHook",
})


@dataclass(frozen=True)
class Method:
    """A method as tables and figures show it.

    Attributes:
        key: equal for equal methods, and for them alone.
        label: for readers, such as ``LoCo, window 3`` or ``decoupled, K = 8, T = 0``.
        family: what has a colour and a place in the order: ``loco``, ``decoupled8``, ``random``, ...
        subsampled: whether pairs of low similarity are left out.
        loss: the objective with its unit, such as ``NT-Xent (nats)``; empty for encoders from elsewhere.
    """

    key: str
    label: str
    family: str
    subsampled: bool = False
    loss: str = ""

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts methods: random and supervised first, then by rule, those of one family by label."""
        name = self.family.rstrip("0123456789")
        number = self.family[len(name):]
        return (FAMILIES.index(name) if name in FAMILIES else len(FAMILIES), int(number or 0), self.label)


def method_of_learner(learner: LocalContrastiveLearner, epochs_per_unit: int | None = None) -> dict[str, Any]:
    """The method that a learner was built with.

    Args:
        learner: the learner.
        epochs_per_unit: epochs of every unit where units are trained one after the other; None where all are at once.
    """
    options = learner.config
    return describe_method(
        options["rule"], options["objective"], options["head"], options["soft_sharing"], epochs_per_unit,
        options["method_name"], learner.encoder.stages, options["weights"],
    )


def describe_method(
    rule: str | Mapping | Sequence,
    objective: str | Mapping = "NTXent",
    head: Mapping | None = None,
    soft_sharing: Mapping | None = None,
    epochs_per_unit: int | None = None,
    name: str | None = None,
    stages: Stages | None = None,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A method as plain data, options at their defaults written out.

    Args:
        rule: as :func:`pretrain.local.units.build_units` takes it. A list of units that is SimCLR's, GIM's or LoCo's on
            these stages is that rule.
        objective: as :func:`pretrain.objectives.build_objective` takes it.
        head: options of the heads, beside those that the objective brings.
        soft_sharing: options of soft sharing.
        epochs_per_unit: see :func:`method_of_learner`.
        name: what to call it instead of a label made of its options.
        stages: of the encoder; needed where ``rule`` is a list of units.
        weights: of the units' losses; all 1 mean the same as None.

    Returns:
        ``rule``, ``objective``, ``head``, ``soft_sharing``, ``epochs_per_unit``, ``name``, and ``weights`` if any, of which
        the method's ``key`` is made, and its ``label`` and ``loss``, see :class:`Method`.
    """
    objective_options = {"type": objective} if isinstance(objective, str) else dict(objective)
    make = objective_type(objective_options)
    weighted = {} if weights is None or set(weights) == {1} else {"weights": weights}  # absent, keys are as they were
    content = plain_data({
        "rule": _rule(rule, stages),
        "objective": {"type": objective_options["type"], **_defaults(make), **objective_options},
        "head": _head(head_options(make, head)),
        "soft_sharing": None if soft_sharing is None else dict(soft_sharing),
        "epochs_per_unit": epochs_per_unit,
        "name": name,
        **weighted,
    })
    loss = make.label + (f" ({make.unit})" if make.unit else "")
    return {**content, "key": _key(content), "label": name or _label(content, make.label), "loss": loss}


def standard_method(
    rule: str | Mapping,
    objective: Mapping | None = None,
    head: Mapping | None = None,
    soft_sharing: Mapping | None = None,
) -> dict[str, Any]:
    """The method of a rule with the head and the objective of its paper, but for what is given.

    Args and returns: as for :func:`describe_method`.
    """
    name = rule if isinstance(rule, str) else rule["type"]
    objective = {"type": "NTXent"} | dict(objective or {})
    if objective["type"] == "NTXent":
        objective = STANDARD_OBJECTIVES.get(name, {}) | objective
    return describe_method(rule, objective, STANDARD_HEADS.get(name, {}) | dict(head or {}), soft_sharing)


def foreign_method(source: str, name: str | None = None) -> dict[str, Any]:
    """The method of an encoder that this project has not trained.

    Args:
        source: :data:`RANDOM`, :data:`SUPERVISED`, or ``"file"``.
        name: of a file, what to call it.
    """
    content = {"source": source, "name": name}
    return {**content, "key": _key(content), "label": name or source, "loss": ""}


def backbone_identity(
    meta: Mapping[str, Any], path: str | Path, sha256: str, encoder: str | Mapping, source: str = "file"
) -> dict[str, Any]:
    """The identity of the weights in a file.

    Args:
        meta: the file's record; without a method of ours in it, only the arguments are known.
        path: the file.
        sha256: its hash.
        encoder: its encoder.
        source: of a file without a record, see :func:`foreign_method`.

    Returns:
        ``method``, ``setting`` and ``repetition``; the setting of a pretraining that had not ended has ``epochs_done``.
    """
    if "method" not in meta:
        method = foreign_method(source, Path(path).stem if source == "file" else None)
        return {"method": method, "setting": {"encoder": encoder_spec(encoder), "weights": sha256[:8]}, "repetition": {}}
    setting = dict(meta["setting"])
    if meta["epoch"] < setting["epochs"]:
        setting["epochs_done"] = meta["epoch"]
    return {"method": meta["method"], "setting": setting, "repetition": dict(meta["repetition"])}


def random_identity(encoder: str | Mapping, seed: int | None) -> dict[str, Any]:
    """The identity of weights as they are initialised with a seed; None where every repetition draws its own."""
    return {"method": foreign_method(RANDOM), "setting": {"encoder": encoder_spec(encoder)},
            "repetition": {} if seed is None else {"seed": seed}}


def learner_options(method: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Options of :class:`~pretrain.learner.LocalContrastiveLearner` that build what was trained.

    Raises:
        ValueError: the encoder is from elsewhere, so that no such options are known.
    """
    if "rule" not in method:
        raise ValueError(f"{method['label']} was not trained by this project: its learning rule is not known")
    rule = method["rule"]
    return dict(encoder=setting["encoder"], rule=rule["units"] if rule["type"] == "units" else rule,
                head=method["head"], objective=method["objective"], soft_sharing=method["soft_sharing"],
                weights=method.get("weights"), method_name=method["name"], allow_untrained=True)


def dataset_name(data: Mapping[str, Any]) -> str:
    """What to call the data of a setting: by the source where that says which set it is, otherwise by the folder."""
    name = _source_name(data)
    return name if name is not None and name not in NAMED_BY_ROOT else data.get("root") or "images"


def shown_method(method: Mapping[str, Any]) -> Method:
    """A method of :func:`describe_method` or :func:`foreign_method` as it is shown."""
    if "source" in method:
        return Method(method["key"], method["label"], method["source"])
    rule = method["rule"]
    family = rule["type"] + str(rule.get("k") or "") * (rule["type"] == "decoupled")
    return Method(method["key"], method["label"], family, method["objective"].get("threshold") is not None, method["loss"])


def unique_labels(methods: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """A label for every method, by key; those of equal labels have what they differ in added."""
    by_key = {method["key"]: method for method in methods}
    times = Counter(method["label"] for method in by_key.values())
    labels = {}
    for key, method in by_key.items():
        alike = [other for other in by_key.values() if other["label"] == method["label"]]
        hints = differences(_content(method), [_content(other) for other in alike]) if times[method["label"]] > 1 else {}
        labels[key] = ", ".join([method["label"], *(f"{name}={value}" for name, value in hints.items())])
    return labels


def setting_of_config(config: Mapping[str, Any], num_images: int | None) -> dict[str, Any]:
    """What a pretraining config trains its method in; how the run is carried out and folders of this machine are left out.

    Args:
        config: resolved, as plain data.
        num_images: of the data set; None where it was not opened.

    Returns:
        Plain data: ``encoder``, ``data``, ``images``, ``image_size``, ``views``, ``epochs`` (of the whole schedule),
        ``batch_size`` (of all processes), ``optimizer``, ``schedule``, ``precision``; and ``learner``, ``dataset_type``,
        ``preprocessor``, ``hooks`` where they are not this project's.
    """
    model, dataset = config["model"], _with_defaults(config["train_dataloader"]["dataset"])
    preprocessor = model.get("data_preprocessor") or config.get("data_preprocessor") or {}
    on_device = preprocessor.get("type") == "BatchedTwoViewsPreprocessor"
    views = _with_defaults(preprocessor) if on_device else _defaults(TwoViews) | (dataset.get("views") or {})
    data = {key: value for key, value in dataset.items() if key not in ("views", "type", "data_root")}
    data["root"] = Path(dataset["data_root"]).name
    if isinstance(data.get("source"), Mapping):  # of which absolute paths are this machine's
        data["source"] = {key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
                          for key, value in data["source"].items()}
    if "synthetic_data" in config:
        data["synthetic_data"] = _defaults(SyntheticConfig) | config["synthetic_data"]
        data["synthetic_data"].pop("root", None)
    optimizer = dict(config["optim_wrapper"], optimizer=_with_defaults(config["optim_wrapper"]["optimizer"]))
    setting = {
        "encoder": encoder_spec(model["encoder"]),
        "data": _without_execution(data),
        "images": num_images,
        "image_size": views.pop("size", None),
        "views": {key: value for key, value in views.items() if key in VIEW_OPTIONS and value is not None},
        "epochs": config["train_cfg"]["max_epochs"],
        "batch_size": config["train_dataloader"]["batch_size"],
        "optimizer": optimizer,
        "schedule": config.get("param_scheduler"),
        "precision": model.get("autocast") or "float32",
        **_other_parts(config, preprocessor),
    }
    return plain_data(setting)


def epochs_per_unit(config: Mapping[str, Any]) -> int | None:
    """Epochs of every unit where a pretraining config trains them one after the other; None where it trains all at once."""
    hooks = [hook for hook in config.get("custom_hooks", []) if hook["type"] == "SequentialUnitsHook"]
    return hooks[0]["epochs_per_unit"] if hooks else None


def differences(one: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The leaves of nested data in which one differs from any of the others, by the shortest clear ending of their names."""
    mine, rest = dict(leaves(one)), [dict(leaves(other)) for other in others]
    names = sorted(set(mine).union(*rest))
    differing = [name for name in names if any(other.get(name) != mine.get(name) for other in rest)]
    return {_short(name, differing): mine.get(name) for name in differing}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested data by dotted names; lists of plain values are leaves, and None is as good as left out."""
    if isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from leaves(child, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value


def plain_data(value: Any) -> Any:
    """What JSON makes of nested data, with whole numbers as integers: 1 and 1.0 are one value of an option."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _short(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for length in range(1, len(parts)):
        ending = ".".join(parts[-length:])
        clear = sum(f".{other}".endswith(f".{ending}") for other in names) == 1
        if clear and parts[-length] != "type" and not parts[-length].isdigit():
            return ending
    return name


def _rule(rule: str | Mapping | Sequence, stages: Stages | None) -> dict[str, Any]:
    if isinstance(rule, str | Mapping):
        options = {"type": rule} if isinstance(rule, str) else dict(rule)
        return {"type": options["type"], **_defaults(RULES[options["type"]]), **options}
    units = build_units(rule, stages, allow_untrained=True)
    for name in ("simclr", "gim", "loco"):
        if units == build_units(name, stages):
            return _rule(name, stages)
    return {"type": "units", "units": [dict(start=u.start, end=u.end, updates=u.updates) for u in units]}


def _head(options: Mapping[str, Any]) -> dict[str, Any]:
    """A head's options with its defaults; ``type`` where it is not the usual one."""
    defaults = {name: value for name, value in _defaults(head_type(options)).items() if name != "fresh_encoder"}
    return defaults | {name: value for name, value in options.items() if (name, value) != ("type", STANDARD_HEAD)}


def _label(content: Mapping[str, Any], objective: str) -> str:
    """The rule, and how it differs from its standard; what is left out is added where labels would be equal."""
    rule, options = content["rule"], content["objective"]
    name = rule["type"]
    parts = [_rule_label(rule)]
    if options["type"] != "NTXent":
        parts.append(objective)
    parts += _objective_hints(options)
    parts += _head_hints(content["head"], objective_type(options).head | STANDARD_HEADS.get(name, {}))
    if "weights" in content:
        parts.append(f"weights {', '.join(f'{weight:g}' for weight in content['weights'])}")
    if content["soft_sharing"]:
        parts.append(f"soft sharing {content['soft_sharing']['coefficient']:g}")
    if content["epochs_per_unit"] is not None:
        parts.append("one unit after the other")
    return ", ".join(parts)


def _rule_label(rule: Mapping[str, Any]) -> str:
    options = {key: value for key, value in rule.items() if key != "type"}
    name = rule["type"]
    if name == "units":
        units = [LocalUnit(**unit | {"updates": unit["updates"] and tuple(unit["updates"])}) for unit in options["units"]]
        return f"units {', '.join(map(str, units))}"
    if name == "sharing":
        return f"sharing {options['blocks']} block{'s' * (options['blocks'] != 1)}"
    label = RULE_LABELS.get(name, name)
    if name == "decoupled":
        k, cuts = options.pop("k"), options.pop("cuts")
        label += f", K = {k}" if cuts is None else f" at {', '.join(map(str, cuts))}"
    standard = _defaults(RULES[name]) if name in RULES else {}
    hints = {key: value for key, value in options.items() if key not in standard or value != standard[key]}
    words = {"window": f"window {hints.get('window')}", "res2_loss": "no res2 loss"}
    return ", ".join([label, *(words.get(key, f"{key}={value}") for key, value in hints.items())])


def _objective_hints(options: Mapping[str, Any]) -> list[str]:
    """What differs from the defaults; of NT-Xent without the temperature, which differs by data set."""
    defaults = _defaults(objective_type(options["type"]))
    hints = {key: value for key, value in options.items()
             if key != "type" and (key not in defaults or value != defaults[key])}
    if options["type"] != "NTXent":
        return [f"{key}={value}" for key, value in hints.items()]
    if "threshold" not in hints:
        return []
    pairs = f" on {hints['on']}" if "on" in hints else ""
    mean = [f"mean over {hints['average_over']}"] if "average_over" in hints else []
    return [f"T = {hints['threshold']:g}{pairs}", *mean]


def _head_hints(head: Mapping[str, Any], standard: Mapping[str, Any]) -> list[str]:
    if "type" in head:
        defaults, parts = _defaults(head_type(head)), [f"head {head['type']}"]
    else:
        defaults, parts = _defaults(ProjectionHead) | standard, []
    for key, value in head.items():
        if key == "type" or (key in defaults and value == defaults[key]):
            continue
        if key == "conv_blocks":
            words = {0: "no conv block", "plain_conv": "3x3 conv", "expand": "1x1 conv", "stage": "1 stage",
                     "network": "full network"}
            parts.append(words.get(value, f"{value} conv block{'s' * (value != 1)}"))
        else:
            parts.append({"downsample": "w/o downsampling", "mlp_layers": f"{value}-layer MLP"}.get(key, f"{key}={value}"))
    return parts


def _source_name(data: Mapping[str, Any]) -> str | None:
    source = data.get("source")
    return source["type"] if isinstance(source, Mapping) else source


def _other_parts(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Learner, data set, preprocessor and hooks that are not this project's, and what a learner of the user's adds."""
    model = config["model"]
    learner = {key: value for key, value in model.items() if key not in MODEL_OPTIONS}
    if model.get("type", "LocalContrastiveLearner") not in STANDARD_PARTS:
        learner["type"] = model["type"]
    types = {"dataset_type": config["train_dataloader"]["dataset"].get("type"), "preprocessor": preprocessor.get("type")}
    parts = {key: name for key, name in types.items() if name is not None and name not in STANDARD_PARTS}
    if "preprocessor" in parts:
        parts["preprocessor"] = dict(preprocessor)
    hooks = [hook for hook in config.get("custom_hooks", []) if hook["type"] not in STANDARD_PARTS]
    return ({"learner": learner} if learner else {}) | parts | ({"hooks": hooks} if hooks else {})


def _content(method: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in method.items() if key not in ("key", "label", "loss")}


def _key(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain_data(content), sort_keys=True).encode()).hexdigest()[:12]


def _defaults(make: Callable) -> dict[str, Any]:
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    make = _TAKES_OPTIONS.get(options.get("type"))
    return (_defaults(make) if make else {}) | dict(options)


def _without_execution(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in EXECUTION_OPTIONS}
