"""Training objectives of local units, one file each."""

from pretrain.objectives.barlow_twins import BarlowTwins
from pretrain.objectives.base import OBJECTIVES, Objective, build_objective, head_options, objective_type
from pretrain.objectives.byol import BYOL
from pretrain.objectives.moco import MoCoV2
from pretrain.objectives.ntxent import NTXent
from pretrain.objectives.simsiam import SimSiam
from pretrain.objectives.vicreg import VICReg

__all__ = ["BYOL", "OBJECTIVES", "BarlowTwins", "MoCoV2", "NTXent", "Objective", "SimSiam", "VICReg", "build_objective",
           "head_options", "objective_type"]
