"""Large pictures, from ImageNet weights (Table 3)."""

from ddjax.recipes.loops import Inner, Outer
from ddjax.recipes.registry import recipe
from ddjax.recipes.schema import Data, Network, Recipe


@recipe
def voc2007() -> Recipe:
    """Table 3, PASCAL VOC 2007: AlexNet with ImageNet weights, one image a class, S = 1, E = 3; paper 70.75 % (recalled).

    For an accelerator, and with torchvision's weights (--checkpoint); not measured yet.
    """
    return Recipe(
        data=Data(data="voc2007", pictures="224x224x3"),
        network=Network(model="alexnet", checkpoint="alexnet-owt-7be5be79.pth"),
        inner=Inner(epochs=3, inner_lr=0.001, remat=True),
        outer=Outer(outer_steps=4000, batch_size=256, lr=0.01, lr_log_lrs=0.01),
    )


@recipe
def cub200() -> Recipe:
    """Table 3, CUB-200: as `voc2007`, 200 classes of birds; paper 38.76 % (recalled). Not measured yet."""
    return voc2007().replace(data="cub200")
