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
from ddjax.recipes.loops import Inner, Outer
from ddjax.recipes.part import MANY, NOT_NEGATIVE, SEED, Part, Range


@dataclass(frozen=True)
class Data(Part):
    """The real data."""

    data: str = "digits"
    """Data set: a name (see `ddjax prepare --help`), a folder of pictures by class, or the path of an .npz file."""
    pictures: str | None = None
    """Height x width x channels, as 28x28x1, that pictures are brought to when they are loaded; None: as they are."""
    zca: float | None = None
    """ZCA whitening of pictures, with so much added to the variances, as 0.1; None: standardised alone."""
    augment: str = "none"
    """What real minibatches go through, each picture by chance: crop (moved by up to 4 pixels), flip, scale, rotate,
    brightness, saturation, contrast, cutout, joined by -, as crop-flip."""
    siamese: str = "none"
    """What distilled images, anew in every inner step of the unroll, and real minibatches both go through; as `augment`."""
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
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise InputError(f"--poison is {self.poison!r}: give two class numbers as K:T, such as 0:1")
        from_class, to_class = map(int, parts)
        if from_class == to_class:
            raise InputError(f"--poison is {self.poison!r}: K and T are the same class, so nothing would change")
        return from_class, to_class


@dataclass(frozen=True)
class Network(Part):
    """The network, and the distribution p(theta_0) of the weights it starts from."""

    model: str = "lenet"
    """Network: lenet, alexcifar, convnet, resnet, alexnet, mlp, linear, or your own as path/to/file.py:Name."""
    width: int | None = None
    """Channels of every convolution of the model convnet, or of the first stage of resnet; None: its own, 128 or 32."""
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
    RANGES: ClassVar[Mapping[str, Range]] = {"valid_nets": MANY, "test_nets": MANY}


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
        inner, outer = self.inner, self.outer
        if outer.window is not None and outer.window > inner.steps * inner.epochs:
            raise InputError(
                f"--window is {outer.window}, but the inner loop has {inner.steps * inner.epochs} steps: lower it, or leave "
                "it out"
            )
        if outer.window_early and outer.window is None:
            raise InputError("--window-early moves the start of a window: give --window")
        if (outer.narrow is None) != (outer.narrow_steps == 0):
            raise InputError("--narrow and --narrow-steps say how wide networks are at first, and how long: give both")
        if outer.narrow is not None and (self.network.init, self.network.pool) != ("random", None):
            raise InputError("--narrow draws other networks at first: give --init random, and no --pool")
        if self.data.zca is not None and (self.network.pool or self.network.checkpoint):
            raise InputError(
                "--zca changes what networks read, and --pool and --checkpoint have not seen it: leave it out"
            )
        if inner.images is not None and not inner.learn_labels:
            raise InputError("--images of no class of their own need labels that are learned: give --learn-labels")
        if inner.learn_labels and self.data.poison:
            raise InputError("--learn-labels would learn the labels that --poison sets: give one of them")
        if outer.warmup >= outer.outer_steps:
            raise InputError(
                f"--warmup is {outer.warmup} of {outer.outer_steps} --outer-steps: lower it, for the rates would never peak"
            )
        if outer.objective == "gradient" and (inner.steps, inner.epochs, inner.direction) != (1, 1, "gd"):
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
