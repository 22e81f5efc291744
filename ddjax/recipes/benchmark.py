"""Today's benchmark: images per class for a ConvNet of fresh weights, whose settings go beyond the paper."""

from ddjax.recipes.loops import Inner, Outer
from ddjax.recipes.registry import recipe
from ddjax.recipes.schema import Data, Network, Recipe, Report


@recipe
def benchmark() -> Recipe:
    """The field's benchmark: images per class (`--per-class`) for fresh ConvNets of three blocks of 128 channels, on CIFAR-10.

    All images in every inner step, momentum, soft labels, one learned rate, and a window of the long inner loop at each outer
    step (RaT-BPTT); other data sets by `--data`.
    """
    return Recipe(
        data=Data(data="cifar10", zca=0.1, siamese="flip"),
        network=Network(model="convnet", init="random"),
        inner=Inner(
            steps=1, epochs=60, per_class=1, direction="momentum", inner_lr=0.01, learn_rates="one", learn_labels=True
        ),
        outer=Outer(
            window=20, outer_steps=2000, batch_size=512, lr=0.02, lr_log_lrs=0.02, clip=None, clip_relative=2.0
        ),
        report=Report(eval_every=100, valid_nets=4, test_nets=50),
    )
