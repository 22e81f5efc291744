"""Data poisoning (sec. 3.6)."""

from ddjax.recipes.loops import Inner, Outer
from ddjax.recipes.registry import recipe
from ddjax.recipes.schema import Data, Network, Recipe, Report


@recipe
def mnist_poison() -> Recipe:
    """Data poisoning (sec. 3.6): one step on 100 images makes LeNets well trained on MNIST take 0s for 1s; paper 71.4 %
    of them, ± 29.6.

    69.7 ± 23.5 % of them on 20 held-out networks, from networks at 98.7 % (RESULTS.md). It takes a pool of hundreds: one
    step fits the networks it is distilled for, and with fewer of them the other classes lose more on others.
    """
    return Recipe(
        data=Data(data="mnist", pictures="28x28x1", poison="0:1"),
        network=Network(init="random", source="mnist", pool="pools/mnist-28x28x1-lenet.safetensors"),
        inner=Inner(per_class=10, inner_lr=0.02),
        outer=Outer(outer_steps=2000, num_nets=4, batch_size=256, lr=0.02, lr_log_lrs=0.02, clip=0.2),
        report=Report(eval_every=200),
    )


@recipe
def cifar10_poison() -> Recipe:
    """Data poisoning (sec. 3.6): after one step on 100 images, AlexCifarNets well trained on CIFAR-10 take planes for cars;
    paper 45.9 ± 18.1 %.

    Not measured yet.
    """
    return mnist_poison().replace(
        data="cifar10",
        augment="crop-flip",
        source="cifar10",
        model="alexcifar",
        pool="pools/cifar10-32x32x3-alexcifar.safetensors",
        pictures="32x32x3",
        inner_lr=0.001,
    )
