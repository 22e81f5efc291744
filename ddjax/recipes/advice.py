"""Settings that are known to fail, or to do worse than others, and what to give instead; each was measured."""

from ddjax.recipes.schema import Recipe

_MANY = 10  # inner steps


def known_trouble(recipe: Recipe) -> list[str]:
    """A line for each combination of settings that did badly where it was tried; nothing is forbidden.

    The recipe is a valid one, as an experiment has it: without gates where its network has none.
    Figures are accuracies on held-out training data, in percent.
    """
    network, inner, outer = recipe.network, recipe.inner, recipe.outer
    steps = inner.steps * inner.epochs
    fresh = network.init == "random" and not (network.pool or network.checkpoint)
    found = []
    if network.gate_width > 0 and fresh:
        found.append(
            "surrogate gates did worse than none where every network is a fresh one (CIFAR-10: 20.8 against 28.8 after 50 "
            "outer steps): try --gate-width 0"
        )
    elif 0 < network.gate_width < 0.1 and steps >= _MANY:
        found.append(
            f"gates of {network.gate_width:g} made the meta-gradient explode through 30 inner steps on MNIST: try "
            "--gate-width 0.2"
        )
    if outer.basis == "components" and network.init == "fixed":
        found.append(
            "images for one fixed network did worse along components (digits after 300 outer steps, from real images: 70.7 "
            "against 88.8, from noise 74.1 against 81.9): try --basis values"
        )
    if network.model == "alexcifar" and network.init == "fixed" and steps >= _MANY and outer.lr_log_lrs >= outer.lr:
        found.append(
            "learning rates that move as fast as the images made training of alexcifar chaotic, and accuracy stood still: "
            "try --lr-log-lrs at a fifth of --lr"
        )
    if network.model == "alexcifar" and network.init == "fixed" and steps >= _MANY and outer.lr >= 0.05:
        found.append("images that move at 0.05 fell from 43 to 34 within 100 outer steps with alexcifar: try --lr 0.02")
    return found
