"""Every setting of one distillation, in five parts, and which values make sense. Nothing here imports jax.

A setting has one name everywhere: as a field, as a flag of the command line, in the header of an artefact and in messages.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from ddjax.errors import InputError
from ddjax.recipes.part import DECAY, NOT_NEGATIVE, SEED, Part, Range


@dataclass(frozen=True)
class Data(Part):
    """The real data."""

    data: str = "digits"
    """Data set: a name (see `ddjax prepare --help`), a folder of pictures by class, or the path of an .npz file."""
    pictures: str | None = None
    """Height x width x channels, as 28x28x1, that pictures are brought to when they are loaded; None: as they are."""
    augment: Literal["none", "crop", "crop-flip"] = "none"
    """What real minibatches go through, each picture by chance: a crop moved by up to 4 pixels, or that and mirroring."""
    poison: str | None = None
    """Data poisoning (sec. 3.6), written K:T: the outer loss takes real examples of class K for class T."""

    def validate(self) -> None:
        super().validate()
        self.poisoned_classes()

    def poisoned_classes(self) -> tuple[int, int] | None:
        """K and T of `poison`; None without one.

        Raises:
          InputError: not written K:T, or the two are the same.
        """
        if self.poison is None:
            return None
        parts = self.poison.split(":")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise InputError(f"--poison is {self.poison!r}: give two class numbers as K:T, such as 0:1")
        from_class, to_class = map(int, parts)
        if from_class == to_class:
            raise InputError(f"--poison is {self.poison!r}: K and T are the same class, so nothing would change")
        return from_class, to_class


@dataclass(frozen=True)
class Network(Part):
    """The network, and the distribution p(theta_0) of the weights it starts from."""

    model: str = "lenet"
    """Network: lenet, alexcifar, convnet, alexnet, mlp, linear, or your own as path/to/file.py:Name."""
    width: int | None = None
    """Channels of every convolution, for the model convnet; None: its own, 128."""
    depth: int | None = None
    """Blocks of convolution and pooling, for the model convnet; None: its own, 3."""
    weights: Literal["xavier", "he"] = "xavier"
    """Distribution of fresh kernels: xavier (the paper's) or he, both normal; biases start at zero."""
    gate_width: float = 0.0
    """Width of the surrogate gates that let the meta-gradient see ReLUs and maxima switch; 0 is the exact derivative."""
    init: Literal["fixed", "random"] = "fixed"
    """Initial weights p(theta_0): one fixed network, or another every time; untrained, unless `pool` says otherwise."""
    source: str | None = None
    """Data set that the networks of `pool` are trained on (sec. 3.5); used by `ddjax pretrain`."""
    pool: str | None = None
    """Safetensors file of trained networks to start from (`ddjax pretrain` writes it); None: untrained ones."""
    checkpoint: str | None = None
    """ImageNet weights of torchvision's AlexNet (.pth or .safetensors) to start from, for the model alexnet."""
    RANGES: ClassVar[Mapping[str, Range]] = {"gate_width": NOT_NEGATIVE}

    def validate(self) -> None:
        super().validate()
        if self.pool and self.checkpoint:
            raise InputError("--pool and --checkpoint both say what to start from: give one of them")
        if self.checkpoint and self.model != "alexnet":
            raise InputError(
                f"--checkpoint holds weights of alexnet, but --model is {self.model}: give --model alexnet"
            )


@dataclass(frozen=True)
class Inner(Part):
    """The inner loop: training on the distilled data, and what these start from."""

    steps: int = 1
    """S, gradient-descent steps that each have their own images."""
    epochs: int = 1
    """E, passes over those steps; each step of each pass has its own learning rate."""
    per_class: int = 1
    """Images of each class in each step."""
    direction: Literal["gd", "momentum", "adam"] = "gd"
    """How the inner loop moves: gradient descent (the paper), momentum 0.9, or Adam."""
    inner_lr: float = 0.02
    """Value every inner learning rate starts from."""
    start: Literal["noise", "real"] = "noise"
    """What images start from: N(0, 1), as in the paper, or real training images of their class."""
    learn_labels: bool = False
    """Learn soft labels too (not in the paper, whose labels are fixed and one-hot)."""
    remat: bool = False
    """Keep the weights of each epoch only and compute those within it again: less memory, one more forward pass."""


@dataclass(frozen=True)
class Outer(Part):
    """The outer loop: updates of the distilled data by the meta-gradient, with Adam."""

    objective: Literal["loss", "gradient"] = "loss"
    """What is minimised: the real loss after the inner loop, or, of one step, the angle between it and the real gradient."""
    outer_steps: int = 2000
    """Updates of the distilled data; their rates decay to zero along a cosine of this length."""
    num_nets: int = 1
    """N, initial networks drawn at each outer step."""
    batch_size: int = 1024
    """Real examples at each outer step."""
    lr: float = 0.02
    """Peak rate of the outer Adam for images (and labels), in units of normalised pixels a step."""
    lr_log_lrs: float = 0.02
    """Peak rate of the outer Adam for the logarithms of the inner learning rates."""
    b1: float = 0.5
    """First-moment decay of the outer Adam."""
    b2: float = 0.999
    """Second-moment decay of the outer Adam."""
    clip: float | None = 1.0
    """Global-norm bound of the meta-gradient; None turns clipping off."""
    ema: float = 0.99
    """Decay of the moving average of the iterates, a candidate beside the iterate itself whenever the best is chosen."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """What the factors of matrix products are rounded to in the outer step; weights, sums and all else stay float32."""
    RANGES: ClassVar[Mapping[str, Range]] = {"ema": DECAY, "b1": DECAY, "b2": DECAY}


@dataclass(frozen=True)
class Report(Part):
    """What is measured on the way and at the end."""

    eval_every: int = 250
    """Outer steps between validations; the distilled data that did best on held-out training data is what is saved."""
    patience: int | None = None
    """Validations without a better iterate after which a run ends, whatever `outer_steps` says; None: never."""
    valid_nets: int = 8
    """Networks per validation when the initial weights are random."""
    test_nets: int = 200
    """Networks of the final report when the initial weights are random."""


@dataclass(frozen=True)
class Recipe(Part):
    """Every setting of one distillation. The help of each field says what it is; symbols are the paper's."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    inner: Inner = field(default_factory=Inner)
    outer: Outer = field(default_factory=Outer)
    report: Report = field(default_factory=Report)
    seed: int = 0
    """Seed of everything that is drawn."""
    RANGES: ClassVar[Mapping[str, Range]] = {"seed": SEED}

    def validate(self) -> None:
        """Raises InputError naming the first setting whose value makes no sense."""
        super().validate()
        for part in self._parts().values():
            part.validate()
        inner = self.inner
        if self.outer.objective == "gradient" and (inner.steps, inner.epochs, inner.direction) != (1, 1, "gd"):
            raise InputError(
                "--objective gradient matches the gradient of one step: give --steps 1 --epochs 1 --direction gd"
            )

    def _parts(self) -> dict[str, Part]:
        return {name: part for name, part in vars(self).items() if isinstance(part, Part)}

    def settings(self) -> dict[str, Any]:
        """Every setting by its name, whichever part it stands in."""
        return {k: v for part in self._parts().values() for k, v in vars(part).items()} | {"seed": self.seed}

    def replace(self, **changes: Any) -> Self:
        """The recipe with other values of some settings, by their names: `recipe.replace(steps=10, lr=0.05)`.

        Raises:
          InputError: there is no such setting.
        """
        known = self.settings()
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise InputError(
                    f"a recipe has no setting {name!r}: " + (f"did you mean {near[0]}?" if near else "see Recipe")
                )
        changed: dict[str, Any] = {
            name: dataclasses.replace(part, **own)  # type: ignore[type-var]
            for name, part in self._parts().items()
            if (own := {k: v for k, v in changes.items() if k in vars(part)})
        }
        return dataclasses.replace(self, **changed, seed=changes.get("seed", self.seed))

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON has them, part by part."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`, and the recipe that format version 1 wrote flat, with "" for None.

        Raises:
          InputError: a setting is unknown, or no recipe is what was given.
        """
        try:
            nested = (values if isinstance(values, Mapping) else {name: values} for name, values in settings.items())
            flat = {name: value for values in nested for name, value in values.items()}
        except AttributeError as error:
            raise InputError("the settings are no JSON object of a recipe") from error
        optional = {"pictures", "poison", "source", "pool", "checkpoint"}
        absent = {name: None for name, value in flat.items() if name in optional and value == ""}
        if flat.get("clip") == math.inf:
            absent["clip"] = None
        return cls().replace(**(flat | absent))


SETTINGS = frozenset(Recipe().settings())
