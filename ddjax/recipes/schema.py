"""Every setting of one distillation, and which values make sense. Nothing here imports jax."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ddjax.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Every setting of one distillation. The help of each field says what it is; symbols are the paper's."""

    data: str = "digits"
    """Data set: a name (see `ddjax prepare --help`) or the path of an .npz file with x_train, y_train, x_test, y_test."""
    pictures: str = ""
    """Height x width x channels, as 28x28x1, that pictures are brought to when they are loaded; empty: as they are."""
    poison: str = ""
    """Data poisoning (sec. 3.6), written K:T: the outer loss takes real examples of class K for class T."""
    start: Literal["noise", "real"] = "noise"
    """What images start from: N(0, 1), as in the paper, or real training images of their class."""
    model: str = "lenet"
    """Network: lenet, alexcifar, alexnet, mlp or linear."""
    weights: str = "xavier"
    """Distribution of fresh kernels: xavier (the paper's, here cut off at two deviations) or he; biases start at zero."""
    init: Literal["fixed", "random"] = "fixed"
    """Initial weights p(theta_0): one fixed network, or another every time; untrained, unless `pool` says otherwise."""
    source: str = ""
    """Data set that the networks of `pool` are trained on (sec. 3.5); used by `ddjax pretrain`."""
    pool: str = ""
    """Safetensors file of trained networks to start from (`ddjax pretrain` writes it); empty: untrained ones."""
    checkpoint: str = ""
    """ImageNet weights of torchvision's AlexNet (.pth or .safetensors) to start from, for the model alexnet."""
    steps: int = 1
    """S, gradient-descent steps that each have their own images."""
    epochs: int = 1
    """E, passes over those steps; each step of each pass has its own learning rate."""
    per_class: int = 1
    """Images of each class in each step."""
    direction: Literal["gd", "momentum", "adam"] = "gd"
    """How the inner loop moves: gradient descent (the paper), momentum 0.9, or Adam."""
    gate_width: float = 0.0
    """Width of the surrogate gates that let the meta-gradient see ReLUs and maxima switch; 0 is the exact derivative."""
    learn_labels: bool = False
    """Learn soft labels too (not in the paper, whose labels are fixed and one-hot)."""
    inner_lr: float = 0.02
    """Value every inner learning rate starts from."""
    num_nets: int = 1
    """N, initial networks drawn at each outer step."""
    batch_size: int = 1024
    """Real examples at each outer step."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """What the factors of matrix products are rounded to in the outer step; weights, sums and all else stay float32."""
    remat: bool = False
    """Keep the weights of each epoch only and compute those within it again: less memory, one more forward pass."""
    outer_steps: int = 2000
    """Updates of the distilled data."""
    lr: float = 0.02
    """Peak rate of the outer Adam for images (and labels), in units of normalised pixels a step."""
    lr_log_lrs: float = 0.02
    """Peak rate of the outer Adam for the logarithms of the inner learning rates."""
    b1: float = 0.5
    """First-moment decay of the outer Adam."""
    b2: float = 0.999
    """Second-moment decay of the outer Adam."""
    clip: float = 1.0
    """Global-norm bound of the meta-gradient; inf turns clipping off."""
    ema: float = 0.99
    """Decay of the moving average of the iterates, a candidate beside the iterate itself whenever the best is chosen."""
    eval_every: int = 250
    """Outer steps between validations; the distilled data that did best on held-out training data is what is saved."""
    valid_nets: int = 8
    """Networks per validation when the initial weights are random."""
    test_nets: int = 200
    """Networks of the final report when the initial weights are random."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def validate(self) -> "Recipe":
        """Returns itself, or raises InputError naming the first field whose value makes no sense."""
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            flag = "--" + field.name.replace("_", "-")
            kind = type(field.default)
            choices = get_args(field.type)
            given = type(value)
            if given is not kind and not (kind is float and given is int):
                raise InputError(f"{flag} is {value!r}: give a value of type {kind.__name__}")
            if choices and value not in choices:
                raise InputError(f"{flag} is {value!r}: choose one of {', '.join(choices)}")
            if field.name in ("ema", "b1", "b2"):
                if not 0 <= value < 1:
                    raise InputError(f"{flag} is {value}: give a number in [0, 1)")
            elif field.name == "seed":
                if not 0 <= value < 2**32:
                    raise InputError(f"{flag} is {value}: give an integer from 0 to 4294967295")
            elif field.name == "gate_width":
                if not 0 <= value < float("inf"):
                    raise InputError(f"{flag} is {value}: give a finite number, zero or above")
            elif isinstance(value, (int, float)) and not isinstance(value, bool) and not value > 0:
                raise InputError(f"{flag} is {value}: give a number above zero")
            elif value == float("inf") and field.name != "clip":
                raise InputError(f"{flag} is infinite: give a finite number")
        if self.poison:
            self.poisoned_classes()
        if self.pool and self.checkpoint:
            raise InputError("--pool and --checkpoint both say what to start from: give one of them")
        return self

    def poisoned_classes(self) -> tuple[int, int]:
        """K and T of `poison`.

        Raises:
          InputError: not written K:T, or the two are the same.
        """
        parts = self.poison.split(":")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise InputError(f"--poison is {self.poison!r}: give two class numbers as K:T, such as 0:1")
        from_class, to_class = map(int, parts)
        if from_class == to_class:
            raise InputError(f"--poison is {self.poison!r}: K and T are the same class, so nothing would change")
        return from_class, to_class
