"""ddjax: dataset distillation in JAX (arXiv 1811.10959).

Turns a data set into a handful of synthetic examples plus learning rates, by differentiating through training itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddjax.core.distilled import (
        DistilledData as DistilledData,
        fixed_labels as fixed_labels,
        init_distilled as init_distilled,
        learned_labels as learned_labels,
    )
    from ddjax.core.inits import fixed_init as fixed_init, pool_init as pool_init
    from ddjax.core.inner import trajectory as trajectory, unroll as unroll
    from ddjax.core.losses import half_squared_error as half_squared_error, soft_cross_entropy as soft_cross_entropy
    from ddjax.core.matching import cosine_distance as cosine_distance
    from ddjax.core.meta import (
        Layout as Layout,
        Problem as Problem,
        meta_gradient as meta_gradient,
        meta_loss as meta_loss,
    )
    from ddjax.core.outer import (
        Distiller as Distiller,
        DistillState as DistillState,
        Info as Info,
        make_distiller as make_distiller,
    )
    from ddjax.core.rules import mixed_mode as mixed_mode, reverse_over_reverse as reverse_over_reverse
    from ddjax.data import (
        DATASETS as DATASETS,
        Dataset as Dataset,
        MissingDataError as MissingDataError,
        Split as Split,
        Standardise as Standardise,
        hold_out as hold_out,
        load_dataset as load_dataset,
        make_dataset as make_dataset,
        make_draw_batch as make_draw_batch,
        prepare as prepare,
    )
    from ddjax.errors import (
        DdjaxError as DdjaxError,
        InputError as InputError,
        InterruptedRunError as InterruptedRunError,
        LostProcessError as LostProcessError,
        NonFiniteError as NonFiniteError,
        StorageError as StorageError,
    )
    from ddjax.evaluation.measure import Evaluation as Evaluation, evaluate as evaluate
    from ddjax.experiment.distill import distill as distill
    from ddjax.experiment.optimizer import make_optimizer as make_optimizer
    from ddjax.experiment.outcome import Distillation as Distillation, Summary as Summary
    from ddjax.experiment.replay import evaluate_artifact as evaluate_artifact
    from ddjax.experiment.setup import make_problem as make_problem
    from ddjax.experiment.train import Trained as Trained, train_artifact as train_artifact
    from ddjax.models import (
        MLP as MLP,
        AlexCifarNet as AlexCifarNet,
        AlexNet as AlexNet,
        Conv as Conv,
        Dense as Dense,
        InstanceNorm as InstanceNorm,
        LeNet as LeNet,
        Model as Model,
        average_pool_2x2 as average_pool_2x2,
        build_model as build_model,
        check_model as check_model,
        fast_convolutions as fast_convolutions,
        freeze as freeze,
        from_linen as from_linen,
        from_nnx as from_nnx,
        load_model as load_model,
        load_weights as load_weights,
        max_pool_2x2 as max_pool_2x2,
        max_pool_3x3 as max_pool_3x3,
        trained_part as trained_part,
    )
    from ddjax.recipes import (
        RECIPES as RECIPES,
        Recipe as Recipe,
        get_recipe as get_recipe,
    )
    from ddjax.storage.artifact import (
        Artifact as Artifact,
        load_artifact as load_artifact,
        save_artifact as save_artifact,
    )
    from ddjax.storage.processes import first_process as first_process, leave_run as leave_run
    from ddjax.training.devices import (
        make_layout as make_layout,
        use_all_cores as use_all_cores,
        use_devices as use_devices,
    )
    from ddjax.training.pretrain import (
        Training as Training,
        pretrain as pretrain,
        pretrain_for as pretrain_for,
    )

# Where each public name comes from. It is imported when it is first used, so that `import ddjax` takes no time.
_PUBLIC = """
    core.distilled: DistilledData fixed_labels init_distilled learned_labels
    core.inits: fixed_init pool_init
    core.inner: trajectory unroll
    core.losses: half_squared_error soft_cross_entropy
    core.matching: cosine_distance
    core.meta: Layout Problem meta_gradient meta_loss
    core.outer: DistillState Distiller Info make_distiller
    core.rules: mixed_mode reverse_over_reverse
    data: DATASETS Dataset MissingDataError Split Standardise hold_out load_dataset make_dataset make_draw_batch prepare
    errors: DdjaxError InputError InterruptedRunError LostProcessError NonFiniteError StorageError
    evaluation.measure: Evaluation evaluate
    experiment.distill: distill
    experiment.outcome: Distillation Summary
    experiment.optimizer: make_optimizer
    experiment.replay: evaluate_artifact
    experiment.setup: make_problem
    experiment.train: Trained train_artifact
    models: MLP AlexCifarNet AlexNet LeNet Model build_model check_model from_linen from_nnx load_model
    models: Conv Dense InstanceNorm average_pool_2x2 fast_convolutions max_pool_2x2 max_pool_3x3
    models: freeze load_weights trained_part
    recipes: RECIPES Recipe get_recipe
    storage.artifact: Artifact load_artifact save_artifact
    storage.processes: first_process leave_run
    training.devices: make_layout use_all_cores use_devices
    training.pretrain: Training pretrain pretrain_for
"""
_HOME = {
    name: module for line in _PUBLIC.split("\n") for module, _, names in [line.partition(":")] for name in names.split()
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ddjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddjax.{_HOME[name].strip()}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
