"""Mutation testing: defects put into the library one at a time, by hand, to see that tests notice.

    python tests/mutants.py [--only WORD] [--again]

copies the repository, changes one text in one file of the copy, runs the tests that should fail, and says which changes no
test noticed; results are kept in mutants.json in the current folder, and what stands there is not run again without --again.
Mutants whose `named` is set must not survive, whatever the share of the others.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIMIT = 900.0  # seconds for the tests of one mutant
BAR = 0.9


class Mutant(NamedTuple):
    """What is broken, in which file, by which change of a text that occurs there once, and the tests that are to notice."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    named: bool = False  # one that has once passed the tests, or that would spoil every figure


W = "tests/test_wiring.py"
HOST = "tests/test_host.py"
WATCHED = f"{W}::test_each_split_is_read_for_what_it_is_for"
STREAMS = f"{W}::test_each_draw_has_a_stream_of_its_own"
SIZES = f"{W}::test_a_step_has_the_networks_the_batch_and_the_memory_that_are_asked_for"
SUMMARY = f"{W}::test_the_summary_is_what_numpy_finds_from_the_artefact"
METRICS = f"{W}::test_the_metrics_are_what_numpy_finds_from_the_states"
AVERAGE = f"{W}::test_the_average_decays_as_the_recipe_says"
FILE = f"{W}::test_the_file_alone_gives_the_figures_again"
KEPT = f"{W}::test_the_candidate_that_does_better_is_kept"
SHARP = f"{W}::test_learned_labels_start_sharp_and_become_targets_by_softmax"
OPTIMISER = f"{W}::test_the_optimiser_is_adam_as_written_down"
ADAM = f"{W}::test_adam_inside_is_adam_with_a_root_that_stays_away_from_zero"
SETTING = f"{W}::test_every_setting_changes_what_a_run_computes_or_reports"
AUGMENTED = f"{W}::test_real_minibatches_are_augmented_wherever_networks_learn_from_them"
SIZE = "tests/test_cli.py::test_a_network_of_another_size_is_the_same_one_everywhere"
VARIANTS = "tests/test_augment.py::test_every_crop_and_mirror_image_occurs_and_nothing_else"
APART = (
    "tests/test_experiment.py::test_random_pretrained_keeps_apart_what_it_draws_what_it_chooses_by_and_what_it_reports"
)
EXPERIMENT, INNER, OUTER = "tests/test_experiment.py", "tests/test_inner.py", "tests/test_outer.py"
FAST = "tests/test_fast.py"
EVALUATE, BASELINES, POISON = "tests/test_evaluate.py", "tests/test_baselines.py", "tests/test_poisoning.py"
PRETRAIN = "tests/test_pretrain.py"
PROCESSES, AS_ONE = "tests/test_processes.py", "test_two_processes_give_what_one_gives"
GOES = "test_a_process_that_goes_ends_the_others_and_the_run_goes_on"
EACH = "tests/test_evaluate.py::test_each_network_is_computed_once_and_in_its_place"
OWN_DATA, FROZEN, TRAIN = "tests/test_own_data.py", "tests/test_frozen.py", "tests/test_train.py"
EXPORT, REPORT = "tests/test_export.py", "tests/test_report.py"
FOLDER, STRANGER = "tests/test_folder.py", "tests/test_stranger.py"
LAYERS = "tests/test_examples.py::test_the_layers_of_the_header_are_the_network"


def of_setting(name: str) -> tuple[str, ...]:
    return (f"{SETTING}[{name}]",)


# A table: ruff would give every entry eight lines.
# fmt: off
MUTANTS = (
    # Which split is read for what
    Mutant("the iterate is chosen on the test set", "experiment/outer.py", "experiment.outer(experiment.valid)",
           "experiment.outer(experiment.test)", (WATCHED,), named=True),
    Mutant("the full-data baseline is trained on the test set", "experiment/outcome.py",
           "plain, experiment.outer(train), test,", "plain, test, test,", (WATCHED,), named=True),
    Mutant("the full-data baseline is trained on the test set, further down", "training/fit.py",
           "params = fit(key_j, problem.inner_loss, start, train, draw_batch",
           "params = fit(key_j, problem.inner_loss, start, test, draw_batch", (WATCHED,), named=True),
    Mutant("the full-data baseline is scored on what it was trained on", "training/fit.py",
           "return 100.0 * score(problem.apply, params, test)[0]",
           "return 100.0 * score(problem.apply, params, train)[0]", (WATCHED,), named=True),
    Mutant("random real images come from held-out ones", "experiment/outcome.py",
           "plain, best, train, valid, test, **nets)", "plain, best, valid, valid, test, **nets)", (WATCHED,)),
    Mutant("the rate of random real images is chosen on the test set", "experiment/outcome.py",
           "plain, best, train, valid, test, **nets)", "plain, best, train, test, test, **nets)",
           (WATCHED,), named=True),
    Mutant("the report is of the held-out examples", "experiment/outcome.py",
           "plain, best, experiment.outer(experiment.test), piece",
           "plain, best, experiment.outer(experiment.valid), piece", (WATCHED,)),
    Mutant("outer steps draw held-out examples", "experiment/setup.py",
           "return StepData(self.outer(self.train)", "return StepData(self.outer(self.valid)",
           (WATCHED,), named=True),
    # Which key draws what
    Mutant("validation networks are drawn from the test stream", "experiment/starts.py",
           'fresh_networks(model, stream(key, "valid")', 'fresh_networks(model, stream(key, "test")',
           (STREAMS,), named=True),
    Mutant("all streams are one", "experiment/streams.py", "2**31 + i for", "2**31 + 0 * i for", (STREAMS,)),
    Mutant("streams collide with steps", "experiment/streams.py", "2**31 + i for", "1 + i for", (STREAMS,)),
    Mutant("the report draws from the stream of validation", "experiment/outcome.py",
           'test = evaluate(experiment.stream("test")', 'test = evaluate(experiment.stream("valid")', (STREAMS,)),
    Mutant("the fixed network is drawn from the stream of images", "experiment/starts.py",
           'model.init(stream(key, "weights"))', 'model.init(stream(key, "images"))', (STREAMS,)),
    Mutant("the seed is ignored", "experiment/setup.py", "key = jax.random.key(recipe.seed)", "key = jax.random.key(0)",
           of_setting("seed"), named=True),
    # Settings on their way to the optimiser
    Mutant("clip is ignored", "experiment/optimizer.py", "optax.identity() if outer.clip is None",
           "optax.identity() if True", (OPTIMISER,), named=True),
    Mutant("b1 is ignored", "experiment/optimizer.py", "rate, recipe), outer.b1,", "rate, recipe), 0.5,",
           (OPTIMISER,), named=True),
    Mutant("b2 is ignored", "experiment/optimizer.py", "outer.b1, outer.b2)", "outer.b1, 0.999)", (OPTIMISER,), named=True),
    Mutant("rates of images are those of log rates", "experiment/optimizer.py", 'images = at(outer.lr)',
           'images = at(outer.lr_log_lrs)', (OPTIMISER,), named=True),
    Mutant("rates of log rates are those of images", "experiment/optimizer.py", 'else at(outer.lr_log_lrs)',
           'else at(outer.lr)', (OPTIMISER,), named=True),
    Mutant("no cosine in the outer loop", "experiment/optimizer.py",
           "optax.cosine_decay_schedule(rate, after)", "optax.constant_schedule(rate)",
           (OPTIMISER,), named=True),
    Mutant("labels move at the rate of log rates", "experiment/optimizer.py", 'outer.lr if outer.lr_labels is None',
           'outer.lr_log_lrs if outer.lr_labels is None',
           (OPTIMISER,)),
    # Settings on their way to the outer step
    Mutant("the decay of the average is ignored", "experiment/outer.py", "ema_decay=settings.ema", "ema_decay=0.99",
           (AVERAGE,), named=True),
    Mutant("one network a step", "experiment/outer.py", "num_nets=settings.num_nets", "num_nets=1",
           (SIZES,), named=True),
    Mutant("the batch size is ignored", "experiment/outer.py", "make_draw_batch(settings.batch_size,",
           "make_draw_batch(64,", (SIZES,), named=True),
    Mutant("the precision is ignored", "experiment/outer.py", "jax.default_matmul_precision(settings.precision)",
           'jax.default_matmul_precision("float32")', of_setting("precision"), named=True),
    Mutant("remat is ignored", "experiment/distill.py", "remat=recipe.inner.remat", "remat=False",
           (SIZES,), named=True),
    Mutant("remat is lost in the layout", "core/meta.py", "remat=layout.remat", "remat=False", of_setting("remat")),
    # Augmentation of real minibatches
    Mutant("augment is ignored", "experiment/setup.py", "make_augment(recipe.data.augment,", 'make_augment("none",',
           of_setting("augment"), named=True),
    Mutant("outer steps are not augmented", "experiment/outer.py", "return experiment.augment, siamese",
           "return None, siamese", (AUGMENTED,), named=True),
    Mutant("training on all the data is not augmented", "experiment/outcome.py", "augment=experiment.augment",
           "augment=None", (AUGMENTED,), named=True),
    Mutant("training on all the data is not augmented, further down", "training/fit.py",
           "make_draw_batch(batch_size, num_classes, augment)", "make_draw_batch(batch_size, num_classes, None)",
           (AUGMENTED,)),
    Mutant("a pool is not trained on the data that are given", "paper/reproduce.py",
           'options["dataset"] = self.dataset', "pass",
           ("tests/test_reproduce.py::test_networks_are_trained_on_the_given_data_where_they_are_the_source_too",)),
    Mutant("colour pictures are learned no longer than others", "paper/budgets.py",
           "**_LONGER.get(recipe.data.data, {})", "**{}",
           (f"{BASELINES}::test_colour_pictures_are_learned_for_as_long_as_the_table_says",), named=True),
    Mutant("all the data are learned for another time than is told", "paper/budgets.py",
           "nets.update(self.on_all(experiment.recipe))", "nets.update(self.full_data)",
           (f"{BASELINES}::test_colour_pictures_are_learned_for_as_long_as_the_table_says",)),
    Mutant("the paper's full-data baseline is not augmented", "paper/budgets.py", 'nets["augment"] = experiment.augment',
           'nets["augment"] = None', (AUGMENTED,)),
    Mutant("pools are not augmented", "training/pretrain.py", "dataset.num_classes, augment)",
           "dataset.num_classes, None)", (AUGMENTED,)),
    Mutant("pools do not tell their augmentation", "training/pretrain.py", "None if changed_by is None else augment,",
           "None,", (f"{PRETRAIN}::test_an_augmented_pool_is_another_pool",), named=True),
    Mutant("crops begin a pixel further on", "data/augment.py", "jnp.abs(start + jnp", "jnp.abs(1 + start + jnp",
           (VARIANTS,), named=True),
    Mutant("no crop begins behind the picture's own", "data/augment.py", "-PADDING, PADDING + 1", "-PADDING, PADDING",
           (VARIANTS,), named=True),
    Mutant("rows and columns move together", "data/augment.py", "_window(row_key, count, height)",
           "_window(column_key, count, height)", (VARIANTS,), named=True),
    Mutant("pictures are turned upside down", "data/augment.py", "pictures[:, :, ::-1]", "pictures[:, ::-1]",
           (VARIANTS,), named=True),
    Mutant("all pictures are mirrored, or none", "data/augment.py", "shape=(len(pictures), 1, 1, 1)",
           "shape=(1, 1, 1, 1)", (VARIANTS,)),
    Mutant("digits are mirrored", "data/augment.py", '"crop": crop,', '"crop": flip,', (VARIANTS,), named=True),
    Mutant("pictures smaller than the padding are taken", "data/augment.py", "min(input_shape[:2]) < smallest",
           "min(input_shape[:2]) < 1", ("tests/test_augment.py::test_examples_that_cannot_be_augmented",)),
    # Settings on their way to where a run starts
    Mutant("start is ignored", "experiment/outer.py", 'if settings.start == "real":', "if False:",
           of_setting("start"), named=True),
    Mutant("per_class is ignored", "experiment/outer.py", "per_class=settings.per_class", "per_class=1",
           of_setting("per_class"), named=True),
    Mutant("steps are ignored", "experiment/outer.py", "steps=settings.steps", "steps=1", of_setting("steps")),
    Mutant("epochs are ignored", "experiment/outer.py", "epochs=settings.epochs", "epochs=1", of_setting("epochs")),
    Mutant("inner_lr is ignored", "experiment/outer.py", "learning_rate=settings.inner_lr", "learning_rate=0.02",
           of_setting("inner_lr")),
    Mutant("learned labels start as one-hot logits", "experiment/outer.py",
           "sharpness=4.0 if settings.learn_labels else 1.0", "sharpness=1.0",
           (SHARP,)),
    Mutant("rates start at their own logarithm's argument", "core/distilled.py", "jnp.log(learning_rate)",
           "jnp.asarray(learning_rate)", (f"{W}::test_precision_rounds_the_factors_of_products_and_nothing_else",)),
    # Settings on their way to the network and the problem
    Mutant("the gate width never reaches the network", "models/__init__.py", "gate_width=network.gate_width",
           "gate_width=0.0", of_setting("gate_width"), named=True),
    Mutant("the gate width never reaches the module", "models/__init__.py", '{"gate_width": gate_width, **options}',
           '{"gate_width": 0.0, **options}', of_setting("gate_width"), named=True),
    Mutant("weights are always xavier", "models/__init__.py", "weights=network.weights", 'weights="xavier"',
           of_setting("weights"), named=True),
    Mutant("the width is ignored", "models/__init__.py", '"width": network.width', '"width": None', of_setting("width"),
           named=True),
    Mutant("the depth is ignored", "models/__init__.py", '"depth": network.depth', '"depth": None', of_setting("depth"),
           named=True),
    Mutant("the width of a network of one's own is made up", "experiment/setup.py", "model=OWN, width=None, depth=None",
           "model=OWN", (f"{W}::test_the_size_of_a_network_that_is_given_is_its_own",)),
    Mutant("an artefact's network has its usual size", "experiment/replay.py", "model=name, gate_width=0.0",
           "model=name, gate_width=0.0, width=None", (SIZE,), named=True),
    Mutant("a pool's networks have their usual size", "training/pretrain.py", "replace(network, gate_width=0.0)",
           "replace(network, gate_width=0.0, depth=None)", (SIZE,), named=True),
    Mutant("pools do not tell the size of their networks", "training/pretrain.py", '("model", "width", "depth", "weights")',
           '("model", "weights")', (SIZE,)),
    Mutant("the width of a pool's networks is no flag", "cli/pretrain.py", '"model", "width", "depth", "pool")',
           '"model", "depth", "pool")', (SIZE,)),
    Mutant("momentum is 0.5", "experiment/setup.py", "optax.trace(inner.momentum),", "optax.trace(0.5),",
           (SUMMARY,), named=True),
    Mutant("Adam has nothing under its root", "experiment/setup.py", "optax.scale_by_adam(eps_root=1e-8)",
           "optax.scale_by_adam()", (ADAM,), named=True),
    Mutant("the direction is ignored", "experiment/setup.py", "direction=directions(inner)", "direction=None",
           of_setting("direction")),
    Mutant("labels are never learned", "experiment/setup.py",
           "targets=learned_labels if learn_labels else fixed_labels", "targets=fixed_labels",
           (SHARP,), named=True),
    Mutant("pictures keep their shape", "experiment/setup.py", "pictures=recipe.data.pictures", "pictures=None",
           of_setting("pictures"), named=True),
    Mutant("nothing is poisoned", "experiment/setup.py", "taken_for[from_class] = to_class",
           "taken_for[from_class] = from_class", of_setting("poison"), named=True),
    Mutant("the poison is the other way round", "experiment/setup.py", "taken_for[from_class] = to_class",
           "taken_for[to_class] = from_class", (f"{POISON}::test_the_summary_is_what_numpy_finds_from_the_files",)),
    Mutant("outer steps take true labels", "experiment/setup.py", "return StepData(self.outer(self.train)",
           "return StepData(self.train", (f"{POISON}::test_labels_are_modified_outside_and_true_inside",)),
    # Initial weights
    Mutant("valid_nets is ignored", "experiment/starts.py", "jax.random.split(key, valid_nets)",
           "jax.random.split(key, 8)", of_setting("valid_nets"), named=True),
    Mutant("test_nets is ignored", "experiment/starts.py", "valid, Nets(test_nets))", "valid, Nets(200))",
           (f"{W}::test_networks_are_as_many_as_asked",), named=True),
    Mutant("networks that choose the iterate are drawn too", "experiment/starts.py",
           "pool_init(part(slice(valid_nets, None)))", "pool_init(part(slice(0, None)))", (APART,)),
    Mutant("the report is of networks that were distilled for", "experiment/starts.py", "Nets(held_out, pool.test)",
           "Nets(held_out, pool.train)", (APART,), named=True),
    Mutant("the one network of a pool is always its first", "experiment/starts.py", "leaf[recipe.seed % count]",
           "leaf[0 % count]", (f"{EXPERIMENT}::test_fixed_pretrained_is_one_network_to_distil_with",)),
    Mutant("the last network of a pool is never drawn", "core/inits.py", "jax.random.randint(key, (), 0, size)",
           "jax.random.randint(key, (), 0, size - 1)", (APART,)),
    # What a run keeps and tells
    Mutant("the average wins and the iterate is kept", "training/under_way.py", "candidates[winner]", "candidates[0]",
           (KEPT,), named=True),
    Mutant("the iterate wins and the average is kept", "training/under_way.py", "candidates[winner]", "candidates[1]",
           (KEPT,), named=True),
    Mutant("the last candidate is kept, however it does", "training/under_way.py", "if best > self.current.best_accuracy:",
           "if True:", (KEPT,), named=True),
    Mutant("of equals the later is kept", "training/under_way.py", "if best > self.current.best_accuracy:",
           "if best >= self.current.best_accuracy:", (KEPT,)),
    Mutant("only the iterate is a candidate", "training/under_way.py", "best = max(accuracy, average_accuracy)",
           "best = accuracy", (KEPT,)),
    Mutant("eval_every is ignored", "training/loop.py", "if going.step % eval_every == 0 or", "if",
           (METRICS,), named=True),
    Mutant("eval_every does not reach the loop", "experiment/distill.py", "eval_every=recipe.report.eval_every",
           "eval_every=3 if recipe.report.eval_every == 3 else 1000", of_setting("eval_every"), named=True),
    Mutant("the logged loss is the last step's", "training/under_way.py", "float(np.mean([i.loss for i in good]))",
           "float(infos[-1].loss)", (METRICS,)),
    Mutant("a metric mislabelled: accuracy and loss", "training/under_way.py", '"valid_loss": float(loss)',
           '"valid_loss": float(accuracy)', (METRICS,), named=True),
    Mutant("a metric mislabelled: iterate and average", "training/under_way.py",
           '"valid_accuracy_average": float(average_accuracy)', '"valid_accuracy_average": float(accuracy)',
           (METRICS,), named=True),
    Mutant("a metric mislabelled: largest and smallest rate", "training/under_way.py",
           '"learning_rate_max": float(lrs.max())', '"learning_rate_max": float(lrs.min())', (METRICS,), named=True),
    Mutant("a metric mislabelled: norms of images and rates", "training/under_way.py",
           '"grad_norm_log_lrs": norms["log_lrs"]', '"grad_norm_log_lrs": norms["images"]', (METRICS,), named=True),
    Mutant("infos of earlier intervals are averaged too", "training/under_way.py",
           "    self._infos = []\n        self._has_validated", "    pass\n        self._has_validated", (METRICS,)),
    Mutant("what is saved is the last iterate", "experiment/outcome.py",
           "best = state.best._replace(labels=problem.targets(state.best.labels))", "best = state.state.distilled",
           (SUMMARY,), named=True),
    Mutant("the baselines change places", "experiment/outcome.py",
           '{"random_real": real.summary(), "all_data": full.summary()}',
           '{"random_real": full.summary(), "all_data": real.summary()}',
           (f"{W}::test_the_baselines_stand_under_their_names",), named=True),
    Mutant("the best step is the last", "experiment/outcome.py", '"best_step": int(state.best_step)',
           '"best_step": int(state.state.step)', (SUMMARY,)),
    Mutant("inner steps are those of one epoch", "experiment/outcome.py", "inner_steps=best.log_lrs.size",
           "inner_steps=best.log_lrs.shape[1]", (SUMMARY,)),
    Mutant("train and test networks of a pool change places", "experiment/outcome.py",
           '{"train": accuracy[held_out:], "test": accuracy[:held_out]}',
           '{"test": accuracy[held_out:], "train": accuracy[:held_out]}',
           (f"{EXPERIMENT}::test_the_report_is_of_the_networks_held_out",), named=True),
    # The outer step
    Mutant("every step draws the same", "core/outer.py", "jax.random.fold_in(key, step)",
           "jax.random.fold_in(key, 0)", (f"{OUTER}::test_steps_equal_steps_by_hand",), named=True),
    Mutant("the average follows the iterate before", "core/outer.py",
           "optax.incremental_update(distilled, state.average",
           "optax.incremental_update(state.distilled, state.average", (f"{OUTER}::test_steps_equal_steps_by_hand",)),
    Mutant("what is not finite is kept", "core/outer.py", "jnp.where(finite, new, old)", "new",
           (f"{OUTER}::test_what_is_not_finite_leaves_the_state_untouched",)),
    Mutant("norms are told after squaring", "core/outer.py", "map(jnp.linalg.norm, map(jnp.ravel, grads))",
           "map(lambda g: jnp.sum(g * g), map(jnp.ravel, grads))", (f"{OUTER}::test_steps_equal_steps_by_hand",)),
    Mutant("a sum over groups for a mean", "core/meta.py", "lambda x: x / count, total", "lambda x: x, total",
           (f"{OUTER}::test_meta_gradient_is_that_of_the_meta_loss_in_every_layout",)),
    Mutant("a sum over networks for a mean", "core/meta.py", "lambda x: jnp.mean(x, axis=0), jax.vmap(function)",
           "lambda x: jnp.sum(x, axis=0), jax.vmap(function)",
           (f"{OUTER}::test_meta_gradient_is_that_of_the_meta_loss_in_every_layout",)),
    # The inner loop
    Mutant("the inner loop climbs", "core/rules.py", "p - lr.astype(p.dtype) * u", "p + lr.astype(p.dtype) * u",
           (SUMMARY,)),
    Mutant("the state of the direction is not carried", "core/rules.py", "* u, params, updates), state)",
           "* u, params, updates), weights.opt_state)",
           (f"{INNER}::test_epochs_visit_the_steps_in_order_with_their_own_rates_and_carry_the_state",)),
    Mutant("the pull-back forgets the Hessian", "core/rules.py", "jax.tree.map(jnp.add, direct.params, by_params)",
           "direct.params", (f"{INNER}::test_both_rules_give_the_same_meta_gradient",), named=True),
    Mutant("the pull-back has the wrong sign", "core/rules.py", "scale = -jnp.exp(log_lr)",
           "scale = jnp.exp(log_lr)", (f"{INNER}::test_both_rules_give_the_same_meta_gradient",)),
    Mutant("only one epoch's share reaches the data", "core/rules.py", "total.at[s].add(part)", "total.at[s].set(part)",
           (f"{INNER}::test_both_rules_give_the_same_meta_gradient",)),
    Mutant("cotangents run forward", "core/rules.py", "log_lrs_T), reverse=True)", "log_lrs_T), reverse=False)",
           (f"{INNER}::test_both_rules_give_the_same_meta_gradient",)),
    Mutant("learning rates get no gradient", "core/rules.py", "by_log_lr = slope.astype(log_lr.dtype)",
           "by_log_lr = 0 * slope.astype(log_lr.dtype)", (f"{INNER}::test_both_rules_give_the_same_meta_gradient",)),
    Mutant("shares of a step count whole", "core/rules.py", "x / jax.lax.axis_size(axis)", "x",
           (f"{INNER}::test_steps_shared_out_over_an_axis_equal_whole_ones",)),
    Mutant("what comes before a window is differentiated", "core/inner.py",
           "jax.lax.stop_gradient((weights, data, log_lrs_T))", "(weights, data, log_lrs_T)",
           (f"{INNER}::test_window_forgets_how_the_steps_before_it_came_about",)),
    Mutant("remat keeps everything", "core/inner.py", "jax.checkpoint(run)", "run",
           (f"{INNER}::test_remat_changes_nothing_but_what_is_kept",)),
    Mutant("steps are not taken in turn", "core/order.py",
           "s = t % len(data.inputs)",
           "s = 0 * t",
           (f"{INNER}::test_epochs_visit_the_steps_in_order_with_their_own_rates_and_carry_the_state",)),
    Mutant("a window past the end is taken", "core/order.py", "if not 0 < length <= T or not",
           "if not 0 < length or not", (f"{INNER}::test_a_window_of_steps_that_are_not_there_is_refused",)),
    Mutant("a traced window out of range is moved in silence", "core/order.py",
           "jnp.where(first == start, log_lrs, jnp.nan) if traced else log_lrs", "log_lrs",
           (f"{INNER}::test_a_traced_window_of_steps_that_are_not_there_trains_to_nan",)),
    # Distilled data, losses, the linear case
    Mutant("fixed labels get a gradient", "core/distilled.py", "fixed_labels: Targets = jax.lax.stop_gradient",
           "fixed_labels: Targets = jnp.asarray", (f"{INNER}::test_fixed_labels_get_no_gradient",)),
    Mutant("the classes of a step take turns", "core/distilled.py", "jnp.repeat(jnp.arange(num_classes), per_class)",
           "jnp.tile(jnp.arange(num_classes), per_class)", (SHARP,)),
    Mutant("a sum over examples for a mean", "core/losses.py", "-jnp.mean(jnp.sum(targets", "-jnp.sum(jnp.sum(targets",
           (f"{W}::test_precision_rounds_the_factors_of_products_and_nothing_else",)),
    Mutant("no half in the squared error", "core/losses.py", "0.5 * jnp.mean", "jnp.mean", ("tests/test_linear.py",)),
    Mutant("data of the linear case too small", "core/linear.py", "jnp.sqrt(M / lr)", "jnp.sqrt(lr / M)",
           ("tests/test_linear.py",)),
    Mutant("targets of the linear case too small", "core/linear.py", "rank / lr * scales", "1 / lr * scales",
           ("tests/test_linear.py",)),
    # Evaluation
    Mutant("examples that fill up the last batch count", "evaluation/scoring.py", "jnp.sum(hits & counted)",
           "jnp.sum(hits)", (f"{EVALUATE}::test_score_is_that_of_numpy",)),
    Mutant("every network is the first", "evaluation/measure.py", "leaf[j % len(leaf)]", "leaf[0 * j % len(leaf)]",
           (f"{BASELINES}::test_scores_are_those_of_numpy_from_the_given_networks",)),
    Mutant("each epoch asked for is the last", "evaluation/measure.py",
           "rest[measured[i] - 1] if measured[i]", "rest[-1] if measured[i]",
           (f"{EVALUATE}::test_networks_are_measured_after_the_epochs_that_are_asked_for",)),
    Mutant("curves are of as many networks as happen to be measured", "evaluation/measure.py",
           "full[rows >= curves, 1:-1] = np.nan", "pass",
           (f"{EVALUATE}::test_only_eight_networks_are_measured_on_their_way",)),
    Mutant("baselines are scored before they are trained, too", "evaluation/baselines.py",
           "after=(data.log_lrs.shape[-2],), **nets", "**nets",
           (f"{BASELINES}::test_scores_are_those_of_numpy_from_the_given_networks",)),
    Mutant("before and after change places", "evaluation/measure.py",
           '"accuracy_before_mean": float(self.accuracy[:, 0].mean())',
           '"accuracy_before_mean": float(self.accuracy[:, -1].mean())', (SUMMARY,), named=True),
    Mutant("a variance for a deviation", "evaluation/measure.py", '"accuracy_std": float(self.accuracy[:, -1].std())',
           '"accuracy_std": float(self.accuracy[:, -1].var())',
           (f"{EVALUATE}::test_evaluation_is_that_of_numpy_whatever_the_chunk",)),
    Mutant("a table of confusions lies on its side", "evaluation/scoring.py",
           "split.labels * num_classes + predictions(apply, params, split)",
           "split.labels + num_classes * predictions(apply, params, split)",
           (f"{POISON}::test_predictions_and_confusions_are_those_of_numpy",)),
    Mutant("networks on real images start afresh", "evaluation/baselines.py",
           "num_nets=count, params_N=params_N), rate)", "num_nets=count, params_N=None), rate)",
           (f"{BASELINES}::test_scores_are_those_of_numpy_from_the_given_networks",)),
    Mutant("the worst rate is chosen", "evaluation/baselines.py", "return max(found, key=found.__getitem__)",
           "return min(found, key=found.__getitem__)", (f"{BASELINES}::test_the_rate_is_the_best_on_held_out_data",)),
    Mutant("the worst sets are kept", "evaluation/baselines.py", "np.argsort(-_row_means(", "np.argsort(_row_means(",
           (f"{BASELINES}::test_optimised_sets_are_those_from_which_training_networks_learn_most",)),
    Mutant("images of a set repeat", "evaluation/real_sets.py", "replace=places.sum() > len(members)", "replace=True",
           (f"{EXPERIMENT}::test_real_images_to_start_from_are_training_images_of_their_class",)),
    Mutant("a class average takes all classes", "evaluation/real_sets.py", "normalised(train, members).mean(axis=0)",
           "normalised(train).mean(axis=0)", (f"{BASELINES}::test_mean_sets_are_the_means_of_the_classes",)),
    Mutant("the worst neighbours are chosen", "evaluation/neighbours.py", "count, metric = max(",
           "count, metric = min(", (f"{BASELINES}::test_knn_is_that_of_numpy_and_chosen_on_held_out_data",)),
    Mutant("before and after the poison change places", "evaluation/poisoning.py", '"before": at(confusions[:, 0])',
           '"before": at(confusions[:, -1])', (f"{POISON}::test_figures_by_hand",)),
    Mutant("modified labels are the true ones", "evaluation/poisoning.py", "counts[:, classes, taken_for]",
           "counts[:, classes, classes]", (f"{POISON}::test_figures_by_hand",)),
    Mutant("candidates are scored at JAX's default precision", "experiment/outer.py", "        with float32():\n",
           "        if True:\n", (f"{EVALUATE}::test_products_are_of_float32_whatever_the_default",)),
    # The way back from a file, and data
    Mutant("an artefact is evaluated by gradient descent", "experiment/replay.py",
           "_replace(direction=directions(recipe.inner))",
           "_replace(direction=None)", (FILE,)),
    Mutant("an artefact is evaluated with another transform", "experiment/replay.py", "[dataset.y_test], transform)",
           "[dataset.y_test], dataset.transform)", (FILE,)),
    Mutant("pixels of MNIST lie elsewhere", "data/catalogue/idx.py", "mean=(0.1307,)", "mean=(0.1370,)",
           ("tests/test_data.py::test_constants_are_those_of_the_literature",), named=True),
    Mutant("pixels of CIFAR-10 are spread otherwise", "data/catalogue/cifar.py", "0.247, 0.243, 0.261",
           "0.202, 0.199, 0.201", ("tests/test_data.py::test_constants_are_those_of_the_literature",), named=True),
    # A user's own network
    Mutant("networks have XLA's own convolutions", "models/model.py", "fast_convolutions(apply), gated", "apply, gated",
           (f"{FAST}::test_every_network_has_fast_convolutions",), named=True),
    Mutant("convolutions are replaced elsewhere than on a CPU too", "models/ops/fast.py", "if not layers._on_cpu()",
           "if False",
           (f"{FAST}::test_elsewhere_than_on_a_cpu_nothing_changes",)),
    Mutant("what jit holds keeps XLA's own convolutions", "models/ops/fast.py", '"jit": _jit', '"jilt": _jit',
           (f"{FAST}::test_convolutions_are_found_inside_of_what_holds_them",)),
    Mutant("derivatives by decree are lost with a convolution inside", "models/ops/fast.py", '"pjit": _jit,',
           '"custom_jvp_call": lambda given, *, call_jaxpr, **_: _evaluate(call_jaxpr, given),',
           (f"{FAST}::test_a_convolution_with_derivatives_by_decree_keeps_them",)),
    Mutant("scans run forwards", "models/ops/fast.py", "reverse=reverse", "reverse=False",
           (f"{FAST}::test_convolutions_are_found_inside_of_what_holds_them",)),
    Mutant("transposed convolutions lose their dilation", "models/ops/fast.py", 'set(given["lhs_dilation"]) == {1}', "True",
           (f"{FAST}::test_other_convolutions_are_left_as_they_are",)),
    Mutant("half precision is replaced", "models/ops/fast.py", "inputs.dtype in (np.float32, np.float64)", "True",
           (f"{FAST}::test_other_convolutions_are_left_as_they_are",)),
    Mutant("a function without convolutions is not called as it is", "models/ops/fast.py",
           "_replaced if _has_convolutions(jaxpr) else None", "_replaced",
           (f"{FAST}::test_a_function_without_convolutions_is_called_as_it_is",)),
    Mutant("our layer shrinks its pictures", "models/ops/layers.py", "(self.size - 1) // 2 if", "0 if",
           (f"{FAST}::test_our_layers_make_a_network_of_ones_own",)),
    # A user's own data
    Mutant("the labels of a folder's classes change places", "data/folder.py", "np.repeat(np.arange(len(names)),",
           "np.repeat(np.arange(len(names))[::-1],", (f"{OWN_DATA}::test_a_folder_of_two_parts",), named=True),
    Mutant("pictures are not turned as their camera says", "data/folder.py", "ImageOps.exif_transpose(picture)",
           "picture", (f"{OWN_DATA}::test_a_picture_is_turned_as_its_camera_says",)),
    Mutant("channels of tensors stay first", "data/own.py", "np.moveaxis(array, 0, -1)", "array",
           (f"{OWN_DATA}::test_tensors_of_pytorch_have_their_channels_moved_last",)),
    Mutant("given test examples are not used", "data/own.py", '_arrays(test, name, "test")', '_arrays(train, name, "test")',
           (f"{OWN_DATA}::test_arrays_in_python",), named=True),
    Mutant("class names are left out", "data/own.py", "arrays[key] = np.array([str(each) for each in names])", "pass",
           (f"{OWN_DATA}::test_arrays_in_python",)),
    # A frozen backbone
    Mutant("the frozen part is fresh", "models/frozen.py", "every = fixed | _named(part)",
           "every = _named(model.init(jax.random.key(0))) | _named(part)",
           (f"{FROZEN}::test_the_whole_is_the_network_that_it_was",), named=True),
    Mutant("the first layer is taken for the last", "models/frozen.py", 'uses[-1].rpartition("/")[0] or uses[-1]',
           'uses[0].rpartition("/")[0] or uses[0]', (f"{FROZEN}::test_by_default_the_last_layer_is_trained",)),
    Mutant("weights are loaded in the order of the file", "models/frozen.py",
           "np.asarray(tensors[name], np.float32) for name in names",
           "np.asarray(leaf, np.float32) for leaf in tensors.values()",
           (f"{FROZEN}::test_weights_are_loaded_by_their_names",)),
    # Using what was distilled
    Mutant("training takes the steps in one epoch", "experiment/train.py", "start, distilled\n",
           "start, distilled._replace(log_lrs=distilled.log_lrs[:1])\n",
           (f"{TRAIN}::test_the_documented_way_gives_the_figures_of_the_artefact",), named=True),
    Mutant("minibatches come in one order", "training/minibatches.py", "jax.random.permutation(k, len(inputs))",
           "jnp.arange(len(inputs))", (f"{TRAIN}::test_minibatches_are_shuffled_and_their_number_is_that_of_the_epochs",)),
    Mutant("exported pictures stay transformed", "show/export.py", "np.stack([transform.inverse(step) for step in images])",
           "images", (f"{EXPORT}::test_npz",)),
    Mutant("rates are exported as logarithms", "show/export.py", "rates = np.exp(log_lrs)", "rates = log_lrs",
           (f"{EXPORT}::test_npz",), named=True),
    Mutant("records have the rates of other steps", "show/export.py", "np.repeat(np.arange(steps), count)",
           "np.tile(np.arange(steps), count)", (f"{EXPORT}::test_tfds",)),
    Mutant("LeNet's description pads as its other size does", "models/lenet.py",
           'tell.convolution("conv1", 6, 5, _padding(input_shape))',
           'tell.convolution("conv1", 6, 5, 2)', (LAYERS,)),
    Mutant("the header tells other layers than the width makes", "models/__init__.py",
           "kernel_init=XAVIER, **_options(network))", "kernel_init=XAVIER)", (LAYERS,), named=True),
    Mutant("confusions are by the labels of the poison", "experiment/replay.py",
           "found.test._replace(labels=jnp.asarray(found.dataset.y_test))",
           "found.test", (f"{REPORT}::test_a_poisoned_run_is_told_by_its_true_classes",)),
    Mutant("before and after change places on the page", "show/report.py", "shares[:, [0, -1]]", "shares[:, [-1, 0]]",
           (f"{REPORT}::test_classes_are_counted_as_the_networks_take_them",)),
    # When a run is over
    Mutant("patience goes nowhere", "experiment/distill.py", "patience=recipe.report.patience,", "patience=None,",
           of_setting("patience"), named=True),
    Mutant("patience counts steps", "training/under_way.py", "since >= patience * self._every", "since >= patience",
           ("tests/test_resume.py::test_a_run_is_over_after_so_many_validations_that_were_no_better",)),
    Mutant("a run that ended early is never finished", "experiment/outcome.py",
           "summary.outer_steps == recipe.outer.outer_steps or stalled", "summary.outer_steps == recipe.outer.outer_steps",
           ("tests/test_resume.py::test_a_run_that_ended_early_is_finished",)),
    Mutant("all seeds are one", "cli/distill.py", "recipe.replace(seed=seed)", "recipe",
           ("tests/test_cli.py::test_several_seeds_are_runs_of_their_own",), named=True),
    Mutant("a run that ends early says nothing", "training/loop.py", "if going.step < outer_steps:", "if False:",
           ("tests/test_resume.py::test_a_run_that_ended_early_is_finished",)),
    Mutant("a run is cut short of where it is", "experiment/folder.py", 'now["outer_steps"] <= taken',
           'now["outer_steps"] < taken',
           ("tests/test_resume.py::test_a_run_is_cut_short",), named=True),
    Mutant("a run of two lengths tells none", "paper/page.py", "len({*lengths}) > 1", "False",
           ("tests/test_reproduce.py::test_a_run_that_went_on_elsewhere_says_both_places",)),
    Mutant("what is open of a filed run has no part", "paper/page.py", "name in begun", "False",
           ("tests/test_reproduce.py::test_what_is_open_of_a_run_that_is_filed_says_which_part",)),
    Mutant("a log is silent between validations", "training/progress.py",
           "self._lines and self._done < self._total and since >= _SILENCE", "False",
           ("tests/test_resume.py::test_a_run_that_no_terminal_shows_tells_its_step_each_minute",)),
    Mutant("a log has a line a step", "training/progress.py", "and since >= _SILENCE", "",
           ("tests/test_resume.py::test_a_run_that_no_terminal_shows_tells_its_step_each_minute",)),
    Mutant("a run that has come apart says so at once", "training/under_way.py", "return self._low_in_a_row == _APART",
           "return self._low_in_a_row == 1",
           ("tests/test_resume.py::test_a_run_that_has_come_apart_says_so",), named=True),
    Mutant("a run that has come apart says nothing", "training/loop.py", "if going.apart:", "if False:",
           ("tests/test_resume.py::test_a_run_that_has_come_apart_says_so",), named=True),
    # Matched gradients
    Mutant("the objective goes nowhere", "experiment/setup.py", "match=OBJECTIVES[objective],", "match=None,",
           of_setting("objective"), named=True),
    Mutant("gradients are matched with a device's share", "core/meta.py", "real = jax.lax.pmean(real, shared_by)",
           "real = real", ("tests/test_outer.py::test_gradients_are_matched_with_those_of_the_whole_batch",)),
    Mutant("real gradients are of the end", "core/meta.py", "_in_chunks(problem.outer_loss, start, batch",
           "_in_chunks(problem.outer_loss, end, batch",
           ("tests/test_matching.py::test_one_step_matches_the_gradients_and_does_not_see_its_rate",)),
    Mutant("a matched rate moves", "experiment/optimizer.py", "optax.set_to_zero() if still else", "",
           ("tests/test_matching.py::test_heads_are_moved_as_by_all_the_data_and_the_rate_stays",)),
    Mutant("more than one step is matched", "recipes/schema.py",
           '(inner.steps, inner.epochs, inner.direction) != (1, 1, "gd")', "False",
           ("tests/test_matching.py::test_more_than_one_step_is_refused",)),
    # What a run will take, and what it looked like
    Mutant("a loop is one turn", "experiment/forecast.py", "equation.params.get(\"length\", 1)", "1",
           ("tests/test_forecast.py::test_products_are_counted",)),
    Mutant("remat keeps all copies in the forecast", "experiment/forecast.py",
           "steps + -(-window // steps) if recipe.inner.remat else window", "window",
           ("tests/test_forecast.py::test_what_settings_change",)),
    Mutant("a dry run is a run", "cli/distill.py", "            self._tell(recipe)\n            return\n",
           "            pass\n",
           ("tests/test_forecast.py::test_the_command_tells_and_writes_nothing",)),
    Mutant("trouble is not told", "experiment/distill.py", "in known_trouble(recipe):", "in ():",
           ("tests/test_advice.py::test_it_is_said_before_a_run_and_by_a_dry_run",)),
    Mutant("no frames", "experiment/distill.py", "frame=make_frame(experiment),", "frame=None,",
           ("tests/test_frames.py::test_a_run_keeps_its_start_and_every_validation_and_draws_them",)),
    Mutant("frames past the step stay", "storage/frames.py", "if s <= step]", "if True]",
           ("tests/test_frames.py::test_frames_are_kept_in_order_and_dropped_past_the_step_that_a_run_goes_on_from",)),
    Mutant("a tested network is tested again", "storage/pieces.py", "return list(held.values())", "pass",
           ("tests/test_resume.py::test_an_interrupted_test_goes_on_with_the_networks_that_are_left",)),
    Mutant("another iterate's test counts", "experiment/outcome.py",
           "provenance.digest((told, *jax.tree.leaves(jax.device_get(best))))", "provenance.digest(())",
           ("tests/test_resume.py::test_an_interrupted_test_goes_on_with_the_networks_that_are_left",)),
    # Windows, views, and what bounds and moves
    Mutant("images never move along axes", "experiment/optimizer.py", 'if outer.basis == "components" else', "if False else",
           (f"{W}::test_first_outer_steps_of_every_recipe[benchmark]",)),
    Mutant("axes are not handed on", "experiment/setup.py", "if along else None",
           "if False else None", of_setting("basis")),
    Mutant("coordinates are not turned back", "experiment/optimizer.py", "return turned(axes.T, moves)", "return moves",
           ("tests/test_optimizer.py::test_images_move_along_axes",)),
    Mutant("axes are turned the wrong way", "experiment/optimizer.py", "optimizer.update(turned(axes, updates)",
           "optimizer.update(turned(axes.T, updates)", ("tests/test_optimizer.py::test_images_move_along_axes",)),
    Mutant("axes are of one length", "data/transforms.py", "vectors * (signs * spreads /", "vectors * (signs /",
           ("tests/test_whitening.py::test_principal_axes_are_the_spread_of_the_examples",)),
    Mutant("axes of whitened pictures are the solver's", "data/transforms.py",
           "first = transform.first if isinstance(transform, Whiten) else transform", "first = transform",
           ("tests/test_whitening.py::test_principal_axes_of_whitened_examples_are_those_of_before",)),
    Mutant("axes of whitened pictures are as long as before", "data/transforms.py",
           "** 2 @ variances", "** 0 @ variances",
           ("tests/test_whitening.py::test_principal_axes_of_whitened_examples_are_those_of_before",)),
    Mutant("axes have the solver's signs", "data/transforms.py", "(signs * spreads", "(spreads",
           ("tests/test_whitening.py::test_principal_axes_are_the_spread_of_the_examples",)),
    Mutant("a window is none", "experiment/setup.py", "window=outer.window,", "window=None,", of_setting("window")),
    Mutant("networks are not bounded", "experiment/setup.py", "bound=outer.clip_nets", "bound=None",
           of_setting("clip_nets")),
    Mutant("a window always begins at the beginning", "core/order.py",
           "jax.random.categorical(window_key, log_odds(steps - window + 1, window_early))", "jnp.zeros(())",
           ("tests/test_views.py::test_one_program_serves_every_window",)),
    Mutant("windows begin late", "core/order.py", "return -window_early *", "return window_early *",
           ("tests/test_views.py::test_a_window_begins_early_as_often_as_it_is_told",)),
    Mutant("all starts are alike", "experiment/setup.py", "window_early=outer.window_early,", "",
           of_setting("window_early")),
    Mutant("an early window runs as many steps before it in the forecast", "experiment/forecast.py",
           "outer.window_early", "0.0",
           ("tests/test_forecast.py::test_a_window_is_told_with_the_mean_of_the_steps_before_it",)),
    Mutant("narrow networks train at the rates of wide ones", "experiment/outer.py",
           "_at_rates(distiller(problem, data.axes).step, higher)", "distiller(problem, data.axes).step",
           (f"{W}::test_the_first_steps_take_narrower_networks",)),
    Mutant("networks stay narrow", "experiment/outer.py", "first, given = state.step < settings.narrow_steps,",
           "first, given = state.step >= 0,", (f"{W}::test_the_first_steps_take_narrower_networks",)),
    Mutant("narrow networks are looked into to the end", "experiment/outer.py",
           "experiment.narrow is not None and state.step < settings.narrow_steps", "experiment.narrow is not None",
           (f"{W}::test_the_first_steps_take_narrower_networks",)),
    Mutant("narrow networks take as long in the forecast", "experiment/forecast.py",
           "share * early.seconds + (1.0 - share) * own.seconds", "own.seconds",
           ("tests/test_forecast.py::test_narrower_networks_are_told_by_their_share_of_the_steps",)),
    Mutant("a window never ends at the end", "core/order.py", "steps - window + 1", "max(steps - window, 1)",
           ("tests/test_views.py::test_one_program_serves_every_window",)),
    Mutant("every step sees the same", "core/order.py", "jax.random.fold_in(place.key, t)", "place.key",
           ("tests/test_views.py::test_meta_gradients_of_views_and_windows_are_those_of_plain_loops",)),
    Mutant("turns see what the first saw", "core/inner.py", "first + steps), None", "first), None",
           ("tests/test_views.py::test_meta_gradients_of_views_and_windows_are_those_of_plain_loops",)),
    Mutant("every outer step draws the same", "core/outer.py", "layout, view_key)",
           "layout, jax.random.key(0))", ("tests/test_views.py::test_a_step_of_the_outer_loop_draws_from_its_own_key",)),
    Mutant("the mean of networks is bounded", "core/meta.py", "scale = jnp.minimum(1.0, problem.bound",
           "scale = jnp.minimum(1.0, 2 * problem.bound",
           ("tests/test_views.py::test_each_network_is_bounded_on_its_own",)),
    Mutant("weight decay goes nowhere", "experiment/setup.py", "if decay == 0:", "if True:",
           ("tests/test_views.py::test_hyper_parameters_of_the_inner_optimiser_are_those_of_pytorch",)),
    Mutant("Adam's decay goes into the gradient", "experiment/setup.py", 'if inner.direction == "adam"', "if False",
           ("tests/test_views.py::test_hyper_parameters_of_the_inner_optimiser_are_those_of_pytorch",)),
    Mutant("shared rates have the mean of their gradients", "experiment/optimizer.py", "jnp.sum(updates.log_lrs,",
           "jnp.mean(updates.log_lrs,", ("tests/test_optimizer.py::test_learning_rates_that_are_one_move_as_one",)),
    Mutant("rates are summed before the meta-gradient is bound", "experiment/optimizer.py",
           "optax.identity() if outer.clip is None else optax.clip_by_global_norm(outer.clip),\n"
           "        tie_rates(inner.learn_rates),", "tie_rates(inner.learn_rates),\n"
           "        optax.identity() if outer.clip is None else optax.clip_by_global_norm(outer.clip),",
           ("tests/test_optimizer.py::test_learning_rates_that_are_one_move_as_one",)),
    Mutant("the running norm counts what was cut off", "experiment/optimizer.py", "jnp.minimum(norm, bound)", "norm",
           ("tests/test_optimizer.py::test_a_norm_is_bound_by_the_running_mean_of_those_before",)),
    Mutant("the outer optimiser is Adam", "experiment/optimizer.py", "_BY_NAME[outer.optimizer]", '_BY_NAME["adam"]',
           ("tests/test_optimizer.py::test_optimisers_of_other_names_are_those_of_optax",)),
    Mutant("ZCA goes nowhere", "experiment/setup.py", "if recipe.data.zca is not None:", "if False:", of_setting("zca")),
    Mutant("whitened pictures keep their mean", "data/transforms.py", "((flat - self.centre.reshape(1, -1)) @",
           "(flat @", ("tests/test_whitening.py::test_the_covariance_is_taken_away",)),
    Mutant("distilled images are not augmented", "experiment/setup.py", "make_view(inner, dataset.num_classes, siamese)",
           "make_view(inner, dataset.num_classes, None)", of_setting("siamese")),
    Mutant("real minibatches miss what both sides go through", "experiment/outer.py", "return experiment.augment, siamese",
           "return experiment.augment, None", (AUGMENTED,)),
    Mutant("the sides of matched gradients are changed apart", "experiment/setup.py", "siamese = alike(siamese)", "pass",
           ("tests/test_views.py::test_both_sides_of_matched_gradients_are_changed_alike",)),
    Mutant("matched gradients see the real batch as it is", "core/meta.py", "if problem.real_view is None:", "if True:",
           ("tests/test_views.py::test_both_sides_of_matched_gradients_are_changed_alike",)),
    Mutant("the protocol's rate is chosen on the test set", "experiment/protocol.py", "_TRIALS), rate, valid)",
           "_TRIALS), rate, test)",
           ("tests/test_protocol.py::test_held_out_images_choose_the_rate_and_test_images_are_scored",)),
    Mutant("the protocol does not augment", "experiment/protocol.py", "augment=augment,", "augment=None,",
           ("tests/test_protocol.py::test_networks_are_trained_on_all_examples_from_fresh_weights",)),
    Mutant("a subset is of the first classes", "experiment/views.py",
           "jax.random.permutation(class_key, num_classes)[:classes]", "jnp.arange(num_classes)[:classes]",
           ("tests/test_views.py::test_a_subset_is_of_so_many_images_of_so_many_classes",)),
    Mutant("CIFAR-100 is of its superclasses", "data/catalogue/cifar.py", '"label": labels[:, 1]', '"label": labels[:, 0]',
           ("tests/test_data.py::test_prepare_from_raw_files_and_read_back",)),
    Mutant("one book makes the other", "paper/reproduce.py", "for row in ROWS if row.book == book)", "for row in ROWS)",
           ("tests/test_reproduce.py::test_a_book_is_made_without_the_other",)),
    # The folder of a run
    Mutant("two processes write into one folder", "experiment/folder.py", "stack.enter_context(lock.held(out))", "pass",
           ("tests/test_folder.py::test_two_calls_on_one_folder",)),
    Mutant("a run saves for the first time after a minute", "training/under_way.py", "min(every, max(_SOON, saved))", "every",
           ("tests/test_folder.py::test_a_run_saves_soon_then_ever_less_often_and_as_often_as_is_asked",)),
    Mutant("how often to save is not asked for", "experiment/distill.py", "checkpoint_every=checkpoint_every,",
           "checkpoint_every=None,",
           ("tests/test_resume.py::test_a_run_that_is_stopped_at_every_stage_is_the_one_that_is_not",)),
    Mutant("a full disk is TensorStore's to tell", "storage/checkpoints.py", "self._make_sure_of_room(tree)", "pass",
           ("tests/test_folder.py::test_a_folder_that_takes_no_checkpoint_is_found_out_at_the_start",)),
    Mutant("a damaged row ends a log", "storage/metrics.py", "return [row for _, row in rows if row is not None]",
           "return [row for _, row in rows[: [r for _, r in rows].index(None)]] if None in [r for _, r in rows] else "
           "[row for _, row in rows]",
           ("tests/test_folder.py::test_a_damaged_row_costs_no_other",)),
    # Strangers
    Mutant("any file that a header names is opened", "experiment/trust.py", "if data is None and not (made_here or",
           "if data is None and False and not (made_here or",
           ("tests/test_stranger.py::test_files_are_opened_where_an_artefact_was_made_or_as_they_are_given",)),
    Mutant("other data of the name will do", "experiment/trust.py", "told is not None and told != digest", "False",
           ("tests/test_stranger.py::test_data_that_are_not_those_are_noticed",)),
    Mutant("a stranger's network is run", "experiment/trust.py", "in recipe.network.model and not made_here",
           "in recipe.network.model and False",
           ("tests/test_stranger.py::test_a_network_in_a_file_is_run_for_those_who_made_it_or_name_it",)),
    Mutant("any pool will do", "experiment/trust.py", "digest_of_file(place) == digest", "digest_of_file(place)",
           ("tests/test_stranger.py::test_a_pool_is_known_by_its_digest",)),
    Mutant("any run is one's own", "experiment/trust.py", "return same == recipe", "return True",
           ("tests/test_stranger.py::test_files_are_opened_where_an_artefact_was_made_or_as_they_are_given",)),
    # Ordinary training
    Mutant("large gradients are not exchanged", "core/rules.py",
           "jax.lax.pmean((flat, [leaf for leaf in leaves if leaf.size >= _LARGE]), axis)",
           "jax.lax.pmean(flat, axis), [leaf for leaf in leaves if leaf.size >= _LARGE]",
           ("tests/test_outer.py::test_results_do_not_depend_on_the_devices",)),
    Mutant("marked values are not noted", "core/kept.py", "noted.extend(given)", "noted.extend([0 * x for x in given])",
           ("tests/test_kept.py",), named=True),
    Mutant("marked values are computed again", "core/kept.py", "_instead(*given, next(values))", "_instead(*given, *given)",
           ("tests/test_kept.py::test_again_takes_what_it_is_given_and_computes_it_not",)),
    Mutant("backwards a mark is none", "core/kept.py", "now=then, then=now", "now=False, then=now",
           ("tests/test_kept.py::test_what_is_noted_going_forwards_and_backwards",)),
    Mutant("dense layers keep nothing", "models/ops/layers.py", "x.shape[-1] >= _LONG", "False",
           ("tests/test_kept.py::test_what_networks_keep_of_a_step",)),
    Mutant("sums of neighbours are rounded", "models/ops/layers.py", 'jax.default_matmul_precision("float32")',
           'jax.default_matmul_precision("bfloat16")',
           ("tests/test_models.py::test_local_response_norm_sums_in_float32_whatever_the_precision",)),
    Mutant("weights are cut off at two deviations", "models/ops/layers.py", '"fan_avg", "normal")',
           '"fan_avg", "truncated_normal")', ("tests/test_models.py::test_fresh_weights_have_the_right_spread",)),
    Mutant("few multiplications in bfloat16 too", "models/ops/winograd.py", " and not rounded", "",
           ("tests/test_models.py::test_conv_of_many_channels_equals_the_native_one",)),
    Mutant("a tie goes to the last", "models/ops/gates.py", "where(left >= right,", "where(left > right,",
           ("tests/test_gates.py::test_a_tie_goes_to_the_first",)),
    Mutant("scoring takes a thousand examples of any network", "evaluation/scoring.py",
           "_ROOM // (8 * example_bytes)", "1000",
           ("tests/test_evaluate.py::test_memory_of_scoring_follows_the_network",)),
    Mutant("the maximum of three forgets its gates", "models/ops/layers.py",
           "max_of(_threes(inputs, axis, padding), gate_width)", "max_of(_threes(inputs, axis, padding), 0.0)",
           ("tests/test_models.py::test_gates_reach_the_overlapping_maxima",)),
    Mutant("no cosine in ordinary training", "training/fit.py", "optax.cosine_decay_schedule(lr, steps)",
           "optax.constant_schedule(lr)",
           (f"{BASELINES}::test_training_is_adam_with_cosine_decay_to_zero",), named=True),
    Mutant("ordinary training sees one batch", "training/fit.py", "draw_batch(step_key, split)",
           "draw_batch(key, split)", (f"{BASELINES}::test_each_step_of_ordinary_training_draws_its_own_batch",)),
    Mutant("every network of ordinary training is the first", "training/fit.py", "lambda p: p[j % len(p)]",
           "lambda p: p[0]", (f"{BASELINES}::test_full_data_starts_from_the_given_networks_in_turn",)),
    # Examples that stay on the host
    Mutant("examples never stay on the host", "data/dataset.py",
           "cls.on_device if fits else cls.on_host", "cls.on_device",
           (f"{HOST}::test_what_is_larger_than_its_share_of_a_device_stays_on_the_host",)),
    Mutant("the devices of a CPU have a memory each", "data/memory.py", "available() // len(devices)", "available()",
           (f"{HOST}::test_a_device_with_memory_of_its_own_is_asked",)),
    Mutant("a device is not asked for its memory", "data/memory.py", '(device.memory_stats() or {})', "{}",
           (f"{HOST}::test_a_device_with_memory_of_its_own_is_asked",)),
    Mutant("the share that examples may fill is ignored", "data/memory.py", "os.environ.get(SHARE, str(_SHARE))",
           "str(_SHARE)", (f"{HOST}::test_what_is_larger_than_its_share_of_a_device_stays_on_the_host",)),
    Mutant("a part on the host has other rows", "data/host.py", "OnHost(self.array, self.rows[rows])",
           "OnHost(self.array, rows)", (f"{HOST}::test_parts_on_the_host_are_no_copies",), named=True),
    Mutant("rows on the host are those of the whole", "data/host.py",
           "self.array[self.rows[np.asarray(index) if isinstance(index, jax.Array) else index]]", "self.array[index]",
           (f"{HOST}::test_parts_on_the_host_are_no_copies",), named=True),
    Mutant("what is compiled keeps examples", "data/host.py", "partial(_rows, weakref.ref(self))", "self.__getitem__",
           (f"{HOST}::test_what_is_compiled_keeps_no_examples",)),
    Mutant("a batch of other rows is taken", "data/host.py",
           "jnp.where(jnp.array_equal(rows, self.rows), self.transform(self.fetched), jnp.nan)",
           "self.transform(self.fetched)", (f"{HOST}::test_what_was_fetched_for_another_step_is_not_a_number",),
           named=True),
    Mutant("no batch is fetched ahead", "data/ahead.py",
           "pending[step + 1] = thread.submit(fetch, rows_of(step + 1))", "pass",
           (f"{HOST}::test_a_batch_is_fetched_while_the_step_before_runs",)),
    Mutant("whatever was fetched is handed out", "data/ahead.py", "pending.pop(step, None)",
           "pending.pop(max(pending, default=step), None)",
           (f"{HOST}::test_a_batch_is_fetched_while_the_step_before_runs",), named=True),
    Mutant("rows are fetched by the key of the networks", "experiment/outer.py", "keys_of_step(key, step)[0], size",
           "keys_of_step(key, step)[1], size", (f"{HOST}::test_what_is_fetched_for_a_step_is_what_it_draws",), named=True),
    Mutant("rows are fetched as of a batch that nothing changes", "experiment/outer.py", "size, examples, changes)[0]",
           "size, examples, 0)[0]", (f"{HOST}::test_what_is_fetched_for_a_step_is_what_it_draws",), named=True),
    Mutant("every step is fed as the first", "training/loop.py", "going.current.state, feed(going.step)))",
           "going.current.state, feed(0)))", (f"{HOST}::test_each_step_is_fed_by_its_number",), named=True),
    Mutant("an array that is mapped is not checked", "data/mapped.py", "while content.read(_PIECE):", "while False:",
           (f"{HOST}::test_damage_is_noticed_in_a_file_that_is_mapped",)),
    Mutant("an archive is always read whole", "data/mapped.py", "memory.fits_host(member.file_size)", "True",
           (f"{HOST}::test_a_large_archive_stays_in_its_file",)),
    Mutant("an array is mapped from the wrong place", "data/mapped.py", "start + header, shape", "start, shape",
           (f"{HOST}::test_a_large_archive_stays_in_its_file",), named=True),
    Mutant("what is decoded is held in memory", "data/mapped.py",
           "if memory.fits_host(math.prod(shape) * first.itemsize):", "if True:",
           (f"{HOST}::test_pictures_of_a_folder_go_into_a_file_that_nobody_sees",)),
    Mutant("the cache of a prepared set is read whole", "data/prepared.py", "array_of(path, archive, name)",
           "archive[name]",
           (f"{HOST}::test_prepared_records_are_decoded_into_a_file_and_their_cache_stays_in_its_own",)),
    Mutant("more than the memory is read at once", "evaluation/real_sets.py", "if nbytes > free:", "if False:",
           (f"{HOST}::test_what_has_to_be_in_memory_all_at_once_is_one_line",)),
    # Doors
    Mutant("a file that is no JSON is read all the same", "storage/schema.py", "if not isinstance(held, dict):", "if False:",
           (f"{FOLDER}::test_a_damaged_row_costs_no_other",)),
    Mutant("what is nested is walked through whatever its depth", "storage/schema.py", "_DEEPEST, _LARGEST = 40, 2**63",
           "_DEEPEST, _LARGEST = 400, 2**63", (f"{STRANGER}::test_a_header_that_makes_no_sense_is_one_line",)),
    Mutant("numbers of any length are taken", "storage/schema.py", "abs(value) >= _LARGEST", "False",
           (f"{FOLDER}::test_a_damaged_row_costs_no_other",)),
    Mutant("kinds of a header are not looked at", "storage/artifact.py",
           "schema.check(self.metadata, _HEADER, _NEEDS)", "pass",
           (f"{STRANGER}::test_a_header_that_makes_no_sense_is_one_line",), named=True),
    Mutant("sizes of a header are not held against the tensors", "storage/artifact.py", "self._require_sizes()", "pass",
           (f"{STRANGER}::test_a_header_that_makes_no_sense_is_one_line",), named=True),
    Mutant("a recipe in a header is not validated", "storage/artifact.py",
           'Recipe.from_json(self.metadata["recipe"]).validate()', "pass",
           (f"{STRANGER}::test_a_header_that_makes_no_sense_is_not_drawn",)),
    Mutant("an artefact that nothing reads is saved", "storage/artifact.py",
           "_require_usable(Path(path), tensors)\n    tensorfile", "tensorfile",
           ("tests/test_artifact.py::test_what_nothing_would_read_is_not_saved",)),
    Mutant("a transform may be of other inputs", "data/transforms.py", "    if not fits:\n", "    if False:\n",
           (f"{STRANGER}::test_a_header_that_makes_no_sense_is_not_drawn",)),
    Mutant("scores that are not finite are printed", "experiment/replay.py",
           "require_finite(path, evaluation.loss[:, [0, -1]])", "pass",
           (f"{STRANGER}::test_scores_that_are_not_finite_are_none",), named=True),
    Mutant("networks that nobody asks for are drawn", "experiment/replay.py", "few = recipe.replace(valid_nets=1)",
           "few = recipe", (f"{STRANGER}::test_a_network_that_is_never_asked_for_is_not_drawn",)),
    Mutant("numbers that float32 takes for zero are rates", "recipes/part.py", "_LEAST, _MOST, _NEAR_ONE, _MOST_INT = 1e-30",
           "_LEAST, _MOST, _NEAR_ONE, _MOST_INT = 0", (f"{STRANGER}::test_a_header_that_makes_no_sense_is_one_line",)),
    Mutant("a run's seconds are all of the machine that began it", "experiment/folder.py",
           ' or last["machine"] != here["machine"]', "",
           ("tests/test_cli.py::test_a_run_that_goes_on_elsewhere_says_so",)),
    Mutant("a config is not looked at", "experiment/folder.py", "schema.check(held, _CONFIG, needs=_CONFIG)", "pass",
           (f"{FOLDER}::test_a_damaged_config_is_one_line",)),
    Mutant("origins are not looked at", "experiment/folder.py", "schema.check(origin, _ORIGIN, needs=_ORIGIN)", "pass",
           (f"{FOLDER}::test_a_damaged_config_is_one_line",)),
    Mutant("a pipe is waited for", "storage/files.py", "if not stat.S_ISREG(status.st_mode):", "if False:",
           (f"{FOLDER}::test_a_pipe_is_not_waited_for",)),
    Mutant("frames become gigabytes", "storage/archive.py", "if too_dense(archive, len(content)):", "if False:",
           ("tests/test_frames.py::test_what_are_no_frames_are_not_drawn",)),
    Mutant("checkpoints without digests are thrown away", "storage/checkpoints.py",
           "if intact is None and any(steps):", "if False:",
           ("tests/test_resume.py::test_checkpoints_without_digests_are_not_thrown_away",), named=True),
    Mutant("want of memory is a traceback", "cli/main.py", "if not is_out_of_memory(error):", "if True:",
           ("tests/test_cli.py::test_want_of_memory_is_one_line",)),
    Mutant("any rows are USPS", "data/download.py", "if total.hexdigest() != entry.digests.get(split, total.hexdigest()):",
           "if False:", ("tests/test_data.py::test_examples_that_were_not_published_are_refused",), named=True),
    Mutant("calls of prepare do not wait", "data/download.py", 'with lock.held(root, f".{name}.lock", wait=True):',
           "if True:", ("tests/test_data.py::test_calls_at_once_wait_for_the_first",)),
    Mutant("what killed calls left stays", "data/download.py", '_clear(name, folder, root / "downloads")', "pass",
           ("tests/test_data.py::test_what_calls_that_were_killed_have_left_is_cleared",)),
    Mutant("class numbers of any length", "recipes/schema.py", " and len(part) < 10", "",
           (f"{STRANGER}::test_class_numbers_have_few_digits",)),
    # Several processes
    Mutant("every process writes into the run's folder", "experiment/distill.py",
           "mine = folder if first_process() else nowhere()", "mine = folder", (f"{PROCESSES}::{AS_ONE}",), named=True),
    Mutant("a signal to another process is its own affair", "storage/processes.py", "int(votes[:, 0].max())",
           "int(votes[0, 0])", (f"{PROCESSES}::{AS_ONE}",), named=True),
    Mutant("the clock of any process saves", "storage/processes.py", "bool(votes[0, 1])", "bool(votes[:, 1].any())",
           (f"{PROCESSES}::{AS_ONE}",)),
    Mutant("inner steps are shared between processes", "training/devices.py", "share_steps=near", "share_steps=True",
           (f"{PROCESSES}::{AS_ONE}",)),
    Mutant("a process that is gone is a traceback", "storage/processes.py",
           "raise LostProcessError(one_line(error)) from error", "raise", (f"{PROCESSES}::{AS_ONE}",)),
    Mutant("Orbax says at length that a process is gone", "storage/processes.py", "unlogged(lost)", "unlogged(lambda _: False)",
           (f"{PROCESSES}::test_two_processes_give_what_one_gives",)),
    Mutant("JAX says at length that its coordinator is gone", "cli/output.py", "        _shorten_last_words()\n", "",
           (f"{PROCESSES}::{GOES}",)),
    Mutant("what a process says last is said twice", "cli/last_words.py", "            if not said:", "            if True:",
           (f"{PROCESSES}::test_what_jax_says_at_the_end_is_one_line",)),
    Mutant("networks that fill up a group are kept", "core/spread.py", "np.concatenate(leaves)[:count]",
           "np.concatenate(leaves)", (EACH,)),
    Mutant("each device has the first network", "core/spread.py", "operator.itemgetter(rows)",
           "operator.itemgetter(0 * rows)", (EACH,)),
    Mutant("networks are computed one by one where there is room for more", "core/spread.py",
           "batch_size=at_once if at_once > 1 else None", "batch_size=None",
           ("tests/test_evaluate.py::test_so_many_networks_are_computed_side_by_side",)),
    Mutant("a file is a folder to write into", "experiment/train.py", "out.absolute().parent.is_dir() and ", "",
           ("tests/test_train.py::test_a_place_that_cannot_be_written_is_found_before_anything_is_read",)),
    Mutant("nobody says why a run cannot be read", "experiment/folder.py", "Found(folder, None, str(error))",
           "Found(folder, None)", ("tests/test_cli.py::test_runs_lists_what_lies_in_a_folder",)),
    Mutant("a checkpoint of no year that there is", "storage/checkpoints.py", "AttributeError, ArithmeticError, ",
           "AttributeError, ", ("tests/test_resume.py::test_a_checkpoint_of_something_else_is_one_line",)),
)
# fmt: on


def text_of(mutant: Mutant) -> str:
    return (ROOT / "ddjax" / mutant.file).read_text()


def passes(copy: str, tests: tuple[str, ...], log: str, patience: float = LIMIT) -> str:
    """Runs tests on the library in `copy`: "passed", "failed", "too slow", or what pytest itself could not do.

    In a fork of this process, which has imported what takes long and nothing of the library.
    """

    def child() -> None:
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(sink, stream)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = copy
        sys.path.insert(0, copy)
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX, which has no threads yet, warns of forks
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
    process.join(patience)
    if process.is_alive():
        process.kill()
        process.join()
        return "too slow"
    return {0: "passed", 1: "failed"}.get(process.exitcode or 0, f"pytest left with {process.exitcode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="WORD", default="", help="mutants whose description or file has this in it")
    parser.add_argument("--again", action="store_true", help="run those that stand in mutants.json too")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in f"{mutant.file} {mutant.what}"]
    kept = Path("mutants.json")
    results = json.loads(kept.read_text()) if kept.exists() else {}
    sys.dont_write_bytecode = True  # a change within the second, of the same length, would go unseen
    for module in ("flax.linen", "optax", "orbax.checkpoint", "safetensors.numpy", "sklearn.cluster", "chex", "pytest"):
        __import__(module)
    with tempfile.TemporaryDirectory() as copy:
        ignored = shutil.ignore_patterns("__pycache__", "results", "shared", "notebooks", ".*")
        shutil.copytree(ROOT, copy, ignore=ignored, dirs_exist_ok=True)
        for mutant in chosen:
            if mutant.what in results and not options.again:
                continue
            path = Path(copy, "ddjax", mutant.file)
            text = path.read_text()
            path.write_text(text.replace(mutant.old, mutant.new))
            for test in mutant.tests:
                found = passes(copy, (test,), f"{copy}/log")
                if found != "passed":
                    break
            path.write_text(text)
            results[mutant.what] = {"failed": "killed", "too slow": "killed", "passed": "survived"}.get(found, found)
            kept.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{results[mutant.what]}: {mutant.what} ({mutant.file})", flush=True)
            if results[mutant.what] not in ("killed", "survived"):
                print(Path(copy, "log").read_text()[-2000:], flush=True)
        used = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
        whole = passes(copy, used, f"{copy}/log", 10 * LIMIT)
        if whole != "passed":
            sys.exit(
                f"the tests do not pass without mutants either ({whole}):\n{Path(copy, 'log').read_text()[-3000:]}"
            )
    killed = [mutant for mutant in chosen if results[mutant.what] == "killed"]
    spared = [mutant.what for mutant in chosen if mutant.named and mutant not in killed]
    print(f"{len(killed)} of {len(chosen)} mutants killed: {len(killed) / len(chosen):.0%}")
    if len(killed) < BAR * len(chosen) or spared:
        sys.exit(f"below the bar of {BAR:.0%}, or survivors that may not be: {', '.join(spared) or 'none named'}")


if __name__ == "__main__":
    main()
