"""Training objectives of local units, one file each."""

from pretrain.objectives.base import OBJECTIVES, Objective, build_objective, objective_type
from pretrain.objectives.ntxent import NTXent

__all__ = ["OBJECTIVES", "NTXent", "Objective", "build_objective", "objective_type"]
