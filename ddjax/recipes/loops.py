"""The settings of the two loops. Nothing here imports jax."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ddjax.recipes.part import DECAY, NOT_NEGATIVE, WHOLE, Part, Range


@dataclass(frozen=True)
class Inner(Part):
    """The inner loop: training on the distilled data, and what these start from."""

    steps: int = 1
    """S, gradient-descent steps that each have their own images."""
    epochs: int = 1
    """E, passes over those steps; each step of each pass has its own learning rate."""
    per_class: int = 1
    """Images of each class in each step."""
    images: int | None = None
    """Images in each step, if not `per_class` of every class: fewer than classes, say, which share them by learned labels."""
    subset_classes: int | None = None
    """Classes that a step of the unroll sees, drawn anew at each; None: all."""
    subset_images: int | None = None
    """Images of each class that a step of the unroll sees, drawn anew at each; None: all."""
    direction: Literal["gd", "momentum", "nesterov", "adam"] = "gd"
    """How the inner loop moves: gradient descent (the paper), with momentum, with Nesterov's, or Adam."""
    momentum: float = 0.9
    """Decay of the momentum, for the directions momentum and nesterov."""
    weight_decay: float = 0.0
    """Weight decay of the inner loop: part of the gradient, and beside the step of Adam."""
    inner_lr: float = 0.02
    """Value every inner learning rate starts from."""
    learn_rates: Literal["each", "step", "one", "none"] = "each"
    """Learning rates that are learned: of each step of each epoch (the paper), of each step, one for all, or none."""
    start: Literal["noise", "real"] = "noise"
    """What images start from: N(0, 1), as in the paper, or real training images of their class."""
    learn_labels: bool = False
    """Learn soft labels too (not in the paper, whose labels are fixed and one-hot)."""
    remat: bool = False
    """Keep the weights of each epoch only and compute those within it again: less memory, one more forward pass."""
    RANGES: ClassVar[Mapping[str, Range]] = {"momentum": DECAY, "weight_decay": NOT_NEGATIVE}


@dataclass(frozen=True)
class Outer(Part):
    """The outer loop: updates of the distilled data by the meta-gradient, with Adam."""

    objective: Literal["loss", "gradient"] = "loss"
    """What is minimised: the real loss after the inner loop, or, of one step, the angle between it and the real gradient."""
    window: int | None = None
    """Inner steps that are differentiated, from a start drawn at each outer step (RaT-BPTT); None: all of them."""
    window_early: float = 0.0
    """How the window's start is drawn: the first is e to this power times as likely as the last; 0: all alike (RaT-BPTT)."""
    outer_steps: int = 2000
    """Updates of the distilled data."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the outer rates do over the run: decay to zero along a cosine, or stay."""
    warmup: int = 0
    """Outer steps in which the outer rates rise from zero to their peak."""
    optimizer: Literal["adam", "adabelief", "lion", "nadam", "radam", "sgd"] = "adam"
    """Outer optimiser, by its name in optax; `b1` and `b2` are its decays, `b1` the momentum of sgd."""
    basis: Literal["values", "components"] = "values"
    """What the outer optimiser's coordinates of an image are: its values, or its principal components in real images."""
    num_nets: int = 1
    """N, initial networks drawn at each outer step."""
    narrow: int | None = None
    """Width of the networks of the first outer steps, which cost less (convnet, resnet); None: all are of `width`."""
    narrow_steps: int = 0
    """Outer steps that take networks of width `narrow`, at rates sqrt(width / narrow) as high as those of the others."""
    batch_size: int = 1024
    """Real examples at each outer step."""
    lr: float = 0.02
    """Peak rate of the outer optimiser for images (and labels), in units of normalised pixels a step."""
    lr_labels: float | None = None
    """Peak rate of the outer optimiser for learned labels, in units of their logits; None: that of the images."""
    lr_log_lrs: float = 0.02
    """Peak rate of the outer optimiser for the logarithms of the inner learning rates."""
    b1: float = 0.5
    """First-moment decay of the outer optimiser."""
    b2: float = 0.999
    """Second-moment decay of the outer optimiser."""
    clip: float | None = 1.0
    """Global-norm bound of the meta-gradient; None turns clipping off."""
    clip_relative: float | None = None
    """Bound of the meta-gradient's global norm in multiples of its running mean (decay 0.9); None: there is none."""
    clip_nets: float | None = None
    """Global-norm bound of the meta-gradient of each network, before their mean is taken; None: there is none."""
    ema: float = 0.99
    """Decay of the moving average of the iterates, a candidate beside the iterate itself whenever the best is chosen."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """What the factors of matrix products are rounded to in the outer step; weights, sums and all else stay float32."""
    RANGES: ClassVar[Mapping[str, Range]] = {
        "ema": DECAY,
        "b1": DECAY,
        "b2": DECAY,
        "warmup": WHOLE,
        "narrow_steps": WHOLE,
        "window_early": NOT_NEGATIVE,
    }
