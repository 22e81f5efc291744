"""ddjax: dataset distillation in JAX (arXiv 1811.10959).

Turns a data set into a handful of synthetic examples plus learning rates, by differentiating through training itself.
"""

from ddjax.core.distilled import DistilledData, fixed_labels, init_distilled, learned_labels
from ddjax.core.inits import fixed_init, pool_init
from ddjax.core.inner import mixed_mode, reverse_over_reverse, trajectory, unroll
from ddjax.core.meta import Layout, Problem, meta_gradient, meta_loss
from ddjax.core.outer import Distiller, DistillState, Info, make_distiller
from ddjax.data import DATASETS, Dataset, Split, draw_batch, hold_out, load_dataset, normalise, prepare
from ddjax.errors import InputError
from ddjax.evaluation.measure import Evaluation, evaluate
from ddjax.experiment.distill import distill
from ddjax.experiment.replay import evaluate_artifact
from ddjax.experiment.setup import make_problem
from ddjax.models import MLP, AlexCifarNet, LeNet, Model, build_model, from_linen, from_nnx
from ddjax.recipes import RECIPES, Recipe, get_recipe
from ddjax.storage.artifact import Artifact, load, save

__all__ = [
    "DATASETS",
    "MLP",
    "RECIPES",
    "AlexCifarNet",
    "Artifact",
    "Dataset",
    "DistillState",
    "DistilledData",
    "Distiller",
    "Evaluation",
    "Info",
    "InputError",
    "Layout",
    "LeNet",
    "Model",
    "Problem",
    "Recipe",
    "Split",
    "build_model",
    "distill",
    "draw_batch",
    "evaluate",
    "evaluate_artifact",
    "fixed_init",
    "fixed_labels",
    "from_linen",
    "from_nnx",
    "get_recipe",
    "hold_out",
    "init_distilled",
    "learned_labels",
    "load",
    "load_dataset",
    "make_distiller",
    "make_problem",
    "meta_gradient",
    "meta_loss",
    "mixed_mode",
    "normalise",
    "pool_init",
    "prepare",
    "reverse_over_reverse",
    "save",
    "trajectory",
    "unroll",
]
