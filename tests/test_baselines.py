"""ddjax.baselines: what the sets hold, what is chosen and on what, scores against NumPy; all the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled_once
from test_evaluate import (
    MEAN,
    STD,
    D,
    E,
    K,
    M,
    S,
    init,
    make_distilled,
    make_problem,
    make_split,
    normalised,
    numpy_points,
    numpy_score,
)

from ddjax import InputError
from ddjax.core import inits
from ddjax.data import Dataset, Standardise
from ddjax.evaluation import baselines, real_sets
from ddjax.evaluation.measure import Evaluation, Scores, evaluate
from ddjax.evaluation.neighbours import knn
from ddjax.evaluation.tuning import Tuning
from ddjax.experiment.outcome import comparison
from ddjax.experiment.outer import first_iterate
from ddjax.experiment.setup import set_up
from ddjax.paper import budgets
from ddjax.paper.budgets import Budget
from ddjax.paper.runs import BASELINES, RUNS
from ddjax.recipes import Inner, Network, Recipe
from ddjax.training.fit import fit, full_data

# Neither class by class nor the same in every step, and unevenly: three, two and one place.
CLASSES = np.array([[2, 0, 1], [0, 0, 2]])
KEY = jax.random.key(3)


def make_like(classes=CLASSES):
    return make_distilled()._replace(labels=jnp.asarray(np.eye(K)[classes], jnp.float32))


def make_splits():
    return tuple(make_split(size, seed) for seed, size in enumerate((90, 40, 50)))


def pool(count, seed=9):
    return jax.vmap(init)(jax.random.split(jax.random.key(seed), count))


def one(tree, j):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[j], tree)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture
def calls(monkeypatch):
    """The arguments and the result of every evaluation that a baseline asks for."""
    noted = []

    def spy(key, problem, distilled, split, **options):
        result = evaluate(key, problem, distilled, split, **options)
        noted.append((distilled, split, options["params_N"], result))
        return result

    monkeypatch.setattr(baselines, "evaluate", spy)
    return noted


# Sets of images


def test_random_sets_are_training_images_of_their_class():
    train = make_split(90)
    sets = real_sets.random_sets(KEY, make_like(), train, 5)
    assert sets.shape == (5, S, M, D) and sets.dtype == np.float32
    known = {row.tobytes(): int(label) for row, label in zip(np.asarray(train.inputs), train.labels, strict=True)}
    values = (sets.astype(np.float64) * STD + MEAN) * 255
    pixels = np.rint(values).astype(np.uint8)
    np.testing.assert_allclose(values, pixels, atol=1e-3)
    for one_set in pixels:
        np.testing.assert_array_equal([[known[image.tobytes()] for image in step] for step in one_set], CLASSES)
        assert len({image.tobytes() for image in one_set.reshape(-1, D)}) == S * M
    assert len({one_set.tobytes() for one_set in pixels}) == 5
    np.testing.assert_array_equal(sets, real_sets.random_sets(KEY, make_like(), train, 5))
    assert not np.array_equal(sets, real_sets.random_sets(jax.random.key(4), make_like(), train, 5))


def test_a_class_with_too_few_images_repeats_them():
    train = make_split(90)
    rows = np.concatenate([np.flatnonzero(np.asarray(train.labels) == c)[:2] for c in range(K)])
    train = train._replace(inputs=train.inputs[rows], labels=train.labels[rows])
    own = normalised(train)[np.asarray(train.labels) == 0]
    for make in (real_sets.random_sets, real_sets.kmeans_sets):
        three = make(KEY, make_like(), train, 3)[:, CLASSES == 0]
        assert three.shape == (3, 3, D)
        distances = np.abs(three[:, :, None] - own).max(axis=-1)
        assert distances.min(axis=-1).max() < 1e-5  # each is one of the two
    assert all(set(row) == {0, 1} for row in distances.argmin(axis=-1).tolist())  # k-means leaves none out


def clouds(per_cloud):
    """A split whose class c is as many tight clouds as CLASSES has places for it, and their centres by class, normalised."""
    rng = np.random.RandomState(0)
    inputs, labels, centres = [], [], []
    for c in range(K):
        middles = rng.randint(40, 215, (np.sum(c == CLASSES), D))
        examples = np.clip(middles[:, None] + rng.randint(-3, 4, (len(middles), per_cloud, D)), 0, 255)
        centres.append((examples.mean(axis=1) / 255 - MEAN) / STD)
        inputs.append(examples.reshape(-1, D))
        labels += [c] * examples.shape[0] * per_cloud
    order = rng.permutation(len(labels))
    inputs = np.concatenate(inputs).astype(np.uint8)[order]
    split = make_split(3)._replace(inputs=jnp.asarray(inputs), labels=jnp.asarray(np.array(labels)[order], jnp.int32))
    return split, centres


def test_kmeans_sets_are_the_centres_of_the_clouds_of_each_class():
    train, centres = clouds(15)
    sets = real_sets.kmeans_sets(KEY, make_like(), train, 2)
    assert sets.shape == (2, S, M, D) and sets.dtype == np.float32
    for one_set in sets:
        for c in range(K):
            found = one_set[c == CLASSES]
            nearest = np.abs(found[:, None] - centres[c]).max(axis=-1).argmin(axis=1)
            assert sorted(nearest) == list(range(len(found)))  # every cloud once
            np.testing.assert_allclose(found, centres[c][nearest], atol=1e-4)
    np.testing.assert_array_equal(sets, real_sets.kmeans_sets(KEY, make_like(), train, 2))


def test_kmeans_looks_at_no_more_images_than_asked():
    """At as many as there are places, the centres are the images themselves."""
    train = make_split(90)
    sets = real_sets.kmeans_sets(KEY, make_like(np.array([[0, 1, 2]] * S)), train, 3, most=S)
    for c in range(K):
        own = normalised(train)[np.asarray(train.labels) == c]
        found = sets[:, :, c]
        assert np.abs(found[:, :, None] - own).max(axis=-1).min(axis=-1).max() < 1e-5
        assert len(np.unique(found.reshape(-1, D), axis=0)) > S  # other images in another set


def test_mean_sets_are_the_means_of_the_classes():
    train = make_split(91)
    means = np.stack([normalised(train)[np.asarray(train.labels) == c].mean(axis=0) for c in range(K)])
    sets = real_sets.mean_sets(make_like(), train)
    assert sets.dtype == np.float32
    np.testing.assert_allclose(sets, means[CLASSES][None], atol=1e-5)


@pytest.mark.parametrize("make", [lambda *a: real_sets.random_sets(KEY, *a, 2), lambda *a: real_sets.mean_sets(*a)])
def test_data_that_do_not_belong_together_are_refused(make):
    train = make_split(90)
    without = train._replace(labels=jnp.where(train.labels == 2, 0, train.labels))
    with pytest.raises(InputError, match="have class 2, of which there is no training example: add some") as error:
        make(make_like(), without)
    assert "\n" not in str(error.value)
    wide = train._replace(inputs=jnp.zeros((90, 7), jnp.uint8))
    with pytest.raises(InputError, match=r"shape \[6\] and the training data of \[7\]: give the data set"):
        make(make_like(), wide)


# Baselines that train networks

TUNING = Tuning(trials=8, nets=5, random_sets=5, kmeans_sets=3, candidates=10)
# The number of sets at the test, and of networks that try a rate.
TRAINED = {
    "random_real": (baselines.random_real, 5, 5),
    "optimised_real": (baselines.optimised_real, 2, 8),
    "kmeans": (baselines.kmeans, 3, 5),
    "class_average": (baselines.class_average, 1, 5),
}


@pytest.mark.parametrize("name", TRAINED)
def test_scores_are_those_of_numpy_from_the_given_networks(name, calls):
    baseline, num_sets, _ = TRAINED[name]
    (train, valid, test), like, start = make_splits(), make_like(), pool(2)
    result = baseline(KEY, make_problem(), like, train, valid, test, params_N=start, tuning=TUNING)
    sets, _, params_N, evaluation = calls[-1]
    assert params_N is start and evaluation is result.evaluation
    assert all(call[2] is not start for call in calls[:-1])
    assert all(call[3].steps == (S * E,) for call in calls)  # what is not looked at is not scored
    rate = result.learning_rate
    lrs = like.log_lrs if rate == "learned" else np.full((E, S), np.log(rate))
    for j in range(5):
        own = one(sets, j)
        np.testing.assert_array_equal(own.labels, like.labels)
        np.testing.assert_allclose(own.log_lrs, lrs, rtol=1e-6)
        np.testing.assert_array_equal(own.images, sets.images[j % num_sets])
        np.testing.assert_allclose(evaluation.accuracy[j], numpy_points(start[j % 2], own, test)[0, -1:], rtol=1e-5)
    assert len(evaluation.accuracy) == 5 and len(np.unique(sets.images, axis=0)) == num_sets
    if name == "class_average":
        np.testing.assert_array_equal(sets.images[:1], real_sets.mean_sets(like, train))
    if name == "kmeans":  # each is the mean of some of the images
        assert not np.array_equal(sets.images[:1], real_sets.mean_sets(like, train))
        shared = np.stack([sets.images[0][c == CLASSES].mean(axis=0) for c in range(K)])
        assert np.abs(shared[CLASSES] - real_sets.mean_sets(like, train)[0]).max() < 0.5


@pytest.mark.parametrize("name", TRAINED)
def test_of_one_network_there_is_one_figure_for_each_set(name, calls):
    baseline, num_sets, _ = TRAINED[name]
    problem = make_problem(inits.fixed_init(init(KEY)))
    result = baseline(KEY, problem, make_like(), *make_splits(), num_nets=1, tuning=TUNING)
    sets = calls[-1][0].images
    assert result.summary()["num_nets"] == len(sets) == len(np.unique(sets, axis=0)) == num_sets
    assert len(calls[0][2]) == {"optimised_real": 8}.get(name, num_sets)
    if name == "optimised_real":
        assert len(calls[-2][0].images) == TUNING.candidates  # not four times the same network


@pytest.mark.parametrize("name", TRAINED)
def test_every_rate_is_tried_by_the_same_sets_and_networks(name, calls):
    baseline, _, count = TRAINED[name]
    (train, valid, test), like = make_splits(), make_like()
    result = baseline(KEY, make_problem(), like, train, valid, test, tuning=TUNING)
    images, nets, found = calls[0][0].images[:count], calls[0][2], {}
    assert len(nets) == count and len(np.unique(nets, axis=0)) == count
    for data, _, own_nets, _ in calls[: 1 + TUNING.rounds]:
        np.testing.assert_array_equal(own_nets, nets)
        np.testing.assert_array_equal(data.images, np.concatenate([images] * (len(data.images) // count)))
        for row in range(0, len(data.images), count):
            lrs = np.exp(data.log_lrs[row : row + count])
            assert (lrs == lrs[0]).all()
            learned = np.array_equal(data.log_lrs[row], like.log_lrs)
            assert learned or len(np.unique(lrs)) == 1
            rate = "learned" if learned else float(f"{lrs[0, 0, 0]:.4g}")
            found[rate] = np.mean([numpy_points(nets[j], one(data, row + j), valid)[0, -1] for j in range(count)])
    assert {*TUNING.rates, "learned"} <= set(found) and len(found) == 8 + 2 * TUNING.rounds
    assert found[result.learning_rate] == max(found.values()) > min(found.values())
    at_test = calls[-1]
    assert at_test[2] is None and len(np.unique(at_test[3].loss[:, 0])) == 5  # fresh draws, other than for the choice
    seen = np.array([numpy_score(net, test)[1] for net in nets])
    assert np.abs(at_test[3].loss[:, :1] - seen).min() > 5e-6


@pytest.mark.parametrize(
    ("best", "rounds", "tried"),
    [
        (0.2, 0, [0.3]),
        (0.2, 2, [0.3, 0.17, 0.23]),  # between 0.1, 0.3 and 1; then between 0.1, 0.17 and 0.3
        (9.0, 2, [1.0, 1.8, 2.4]),  # beyond the last, as far as half the way to the one before it
        (1e-5, 1, [0.001, 0.00058]),
    ],
)
def test_the_grid_is_refined_around_its_best_rate(monkeypatch, best, rounds, tried):
    """Networks whose accuracy falls with the distance of their rate from the best one; the learned rates are far off."""

    def stub(key, problem, distilled, split, *, num_nets, params_N, after):
        accuracy = 90 - np.abs(distilled.log_lrs[:, 0, 0] - np.log(best))
        return Evaluation((0, 1), np.stack([np.full(num_nets, 99.0), accuracy], axis=1), np.zeros((num_nets, 2)))

    monkeypatch.setattr(baselines, "evaluate", stub)
    (train, valid, test), like = make_splits(), make_like()
    like = like._replace(log_lrs=jnp.full((E, S), 50.0))
    for count in range(rounds + 1):
        tuning = Tuning(rounds=count, trials=2)
        result = baselines.class_average(KEY, make_problem(), like, train, valid, test, tuning=tuning)
        assert result.learning_rate == pytest.approx(tried[count])


@pytest.mark.parametrize("rates", [(), (0.1,), (0.3, 0.1), (0.1, 0.1), (0.0, 0.1)])
def test_a_grid_that_cannot_be_refined_is_refused(rates):
    with pytest.raises(InputError, match="give two or more above zero, in rising order"):
        Tuning(rates=rates)


def test_the_rate_is_the_best_on_held_out_data():
    """On data where large rates are best, and with labels permuted so that any learning is harmful."""
    train, split, like = make_split(90), make_split(60, seed=1), make_distilled()
    wrong = split._replace(labels=(split.labels + 1) % K)
    start = 1e-3 * jnp.asarray(normalised(train).T @ np.eye(K)[(np.asarray(train.labels) + 1) % K], jnp.float32)
    problem = make_problem(inits.fixed_init(start))

    def chosen(valid, test, log_lrs, *rates):
        tuning = Tuning(*rates, rounds=0, random_sets=4)
        found = baselines.random_real(KEY, problem, like._replace(log_lrs=log_lrs), train, valid, test, tuning=tuning)
        return found.learning_rate, found.summary()["chosen"]

    useless = jnp.full((E, S), -20.0)
    rate, words = chosen(split, wrong, useless)
    assert 0.1 <= rate <= 1 and words == f"rate {rate:g}"
    assert chosen(split, wrong, like.log_lrs, (1e-6, 2e-6)) == ("learned", "learned rates")
    rate, words = chosen(wrong, split, like.log_lrs, (1e-6, 2e-6))
    assert rate == 1e-6 and words == "rate 1e-06"


def test_optimised_sets_are_those_from_which_training_networks_learn_most(calls):
    (train, valid, test), like = make_splits(), make_like()
    tuning = Tuning(rounds=1, candidates=15, nets_per_candidate=3)
    result = baselines.optimised_real(KEY, make_problem(), like, train, valid, test, tuning=tuning)
    data, split, nets, _ = calls[-2]
    assert len(data.images) == 45 and len(np.unique(nets, axis=0)) == 3
    np.testing.assert_array_equal(np.sort(split.inputs, axis=0), np.sort(train.inputs, axis=0))
    expected = [numpy_points(nets[j % 3], one(data, j), train)[0, -1] for j in range(45)]
    means = np.reshape(expected, (15, 3)).mean(axis=1)
    images = np.asarray(data.images).reshape(15, 3, S, M, D)
    np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1], images.shape))
    best = np.argsort(-means)[:3]
    assert means[best].min() > np.delete(means, best).max()  # no tie decides
    used = np.unique(np.asarray(calls[-1][0].images), axis=0)
    np.testing.assert_array_equal(used, np.unique(images[best, 0], axis=0))
    assert result.summary()["num_nets"] == 20
    np.testing.assert_array_equal(data.log_lrs[0], calls[-1][0].log_lrs[0])


@pytest.mark.parametrize(("num_nets", "judges"), [(4, 12), (2, 24), (1, 40)])
def test_choices_are_made_with_some_of_the_examples(calls, num_nets, judges):
    """Of which each network sees the more, the fewer there are: 4 x 12 predictions in all, or whatever there is."""
    tuning = Tuning(rounds=0, trials=4, examples=12, candidates=5)
    train, valid, test = make_splits()
    ordered = np.argsort(valid.labels, kind="stable")
    valid = valid._replace(inputs=valid.inputs[ordered], labels=valid.labels[ordered])
    options = {"num_nets": num_nets, "tuning": tuning}
    baselines.class_average(KEY, make_problem(), make_like(), train, valid, test, **options)
    baselines.optimised_real(KEY, make_problem(), make_like(), train, valid, test, **options)
    expected = [(valid, judges), (test, 50), (valid, 12), (train, 12), (test, 50)]
    for (_, split, *_), (whole, count) in zip(calls, expected, strict=True):
        known = {row.tobytes(): int(label) for row, label in zip(np.asarray(whole.inputs), whole.labels, strict=True)}
        rows = [row.tobytes() for row in np.asarray(split.inputs)]
        assert len(set(rows)) == len(rows) == count
        assert [known[row] for row in rows] == split.labels.tolist()
        assert set(split.labels.tolist()) == {0, 1, 2}


def test_summaries_are_of_the_end_and_say_what_was_chosen():
    scores = Scores(np.array([70.0, 80.0, 90.0]), "3 neighbours, l2")
    expected = {"accuracy_mean": pytest.approx(80), "accuracy_std": pytest.approx(np.sqrt(200 / 3)), "num_nets": 3}
    assert scores.summary() == {**expected, "chosen": "3 neighbours, l2"}
    accuracy = np.array([[10.0, 20.0, 70.0], [11.0, 40.0, 80.0], [12.0, 60.0, 90.0]])
    evaluation = Evaluation((0, 2, 4), accuracy, np.ones((3, 3)))
    for rate, words in ((0.03, "rate 0.03"), ("learned", "learned rates")):
        assert baselines.Baseline(evaluation, rate).summary() == {**expected, "chosen": words}


# What is read for what


def rows_of(split):
    return {row.tobytes() for row in np.asarray(split.inputs)}


@pytest.mark.parametrize("name", TRAINED)
def test_each_split_is_read_for_one_thing(name, calls):
    """Sets are of training images, by their pixels; rates chosen on held-out ones, sets ranked on training ones."""
    splits = make_splits()
    # Each split has a range of pixels of its own.
    train, valid, test = (s._replace(inputs=s.inputs // 4 + 64 * i) for i, s in enumerate(splits, start=1))
    TRAINED[name][0](KEY, make_problem(), make_like(), train, valid, test, num_nets=5, tuning=TUNING)
    read = [valid] * (1 + TUNING.rounds) + [train] * (name == "optimised_real") + [test]
    for (data, split, *_), whole in zip(calls, read, strict=True):
        pixels = (np.asarray(data.images, np.float64) * STD + MEAN) * 255
        assert pixels.min() + 0.01 >= 64 and pixels.max() < 128  # those of training images
        assert rows_of(split) <= rows_of(whole)
    assert len(calls[-1][1].labels) == len(test.labels)


@pytest.fixture(scope="module")
def setting():
    """An experiment on three clouds whose labels in the test set are those of the next class, and real images to start from."""
    rng = np.random.RandomState(0)
    centres = rng.randint(60, 196, (K, D))

    def draw(size):
        labels = (np.arange(size) % K).astype(np.int32)
        return np.clip(centres[labels] + rng.normal(0, 15, (size, D)), 0, 255).astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = draw(240), draw(60)
    transform = Standardise.fitted_to(x_train)
    dataset = Dataset("shifted", x_train, y_train, x_test, (y_test + 1) % K, transform, ("a", "b", "c"), "made")
    inner = Inner(steps=2, epochs=2, inner_lr=0.1, start="real")
    made = set_up(Recipe(network=Network(model="linear"), inner=inner), dataset=dataset)
    return made, first_iterate(made)


SMALL = Budget(tuning=TUNING, full_data={"num_nets": 2, "steps": 2000})


@pytest.mark.parametrize("part", BASELINES)
def test_every_row_of_the_table_learns_from_training_data_and_is_scored_on_test_data(part, setting):
    """What fits the training data is wrong on these test data, and what fits the test data is right on them."""
    found = SMALL.measure(part, *setting)
    assert found["accuracy_mean"] < 10
    nets = {"random real": 5, "optimised real": 2, "k-means": 3, "class average": 1, "full data": 2}
    assert found["num_nets"] == {**nets, "K-NN on random real": 5, "K-NN on k-means": 3}[part]


def test_colour_pictures_are_learned_for_as_long_as_the_table_says(setting, monkeypatch):
    made, like = setting
    asked, told = [], ("num_nets", "steps", "batch_size", "lr")

    def noted(*_, **options):
        asked.append({name: options[name] for name in told})
        return Scores(np.zeros(1), "")

    monkeypatch.setattr(budgets, "full_data", noted)
    for name in ("cifar10", "mnist"):
        Budget().measure("full data", made._replace(recipe=made.recipe.replace(data=name)), like)
    wanted = [Budget().wanted(RUNS[f"{name}-fixed"]).baselines["full data"] for name in ("cifar10", "mnist")]
    assert asked == [{name: parts[name] for name in told} for parts in wanted]
    assert [tuple(parts.values()) for parts in asked] == [(2, 6000, 128, 5e-4), (3, 2000, 128, 2e-3)]
    pools = [Budget().wanted(RUNS[f"{name}-poison"]).pool for name in ("cifar10", "mnist")]
    assert [(*pool["training"].values(), pool["num_nets"]) for pool in pools] == [
        (6000, 128, 5e-4, 100),
        (1000, 128, 2e-3, 400),
    ]


def test_a_run_compares_itself_with_the_figure_of_the_table(setting):
    found = comparison(*setting)
    assert found["random_real"] == Budget().measure("random real", *setting)
    assert found["random_real"]["accuracy_mean"] < 10 and found["all_data"]["accuracy_mean"] < 10


# Nearest neighbours


def numpy_knn(images, labels, split, count, metric):
    gaps = np.abs(normalised(split)[:, None] - images.reshape(-1, D).astype(np.float64))
    distances = gaps.sum(axis=-1) if metric == "l1" else (gaps**2).sum(axis=-1)
    votes = labels[np.argsort(distances, axis=1, kind="stable")[:, :count]]
    found = np.array([np.bincount(row, minlength=K).argmax() for row in votes])
    return 100 * np.mean(found == np.asarray(split.labels))


def test_knn_is_that_of_numpy_and_chosen_on_held_out_data():
    like, settings = make_like(), [(k, m) for k in (1, 3) for m in ("l1", "l2")]
    chosen, test = set(), make_split(60, seed=7)
    for seed in range(6):
        train, valid = make_split(90, seed=seed), make_split(40, seed=seed + 10)
        noise = np.random.RandomState(seed).normal(0, 0.01, (4, S, M, D))  # so that no two distances are the same
        sets = (real_sets.random_sets(jax.random.key(seed), like, train, 4) + noise).astype(np.float32)
        tried = [np.mean([numpy_knn(s, CLASSES.reshape(-1), valid, *setting) for s in sets]) for setting in settings]
        assert len(set(tried)) > 1
        best = settings[int(np.argmax(tried))]
        found = knn(like, sets, valid, test)
        np.testing.assert_allclose(found.accuracy, [numpy_knn(s, CLASSES.reshape(-1), test, *best) for s in sets])
        assert found.chosen == f"{best[0]} neighbour{'s' if best[0] > 1 else ''}, {best[1]}"
        assert found.summary()["num_nets"] == 4 and found.accuracy.std() > 0
        chosen.add(best)
    assert len(chosen) > 1


def test_knn_leaves_out_more_neighbours_than_there_are_images():
    like = make_like()
    like = like._replace(images=like.images[:1, :2], labels=like.labels[:1, :2])
    train, valid, test = make_splits()
    assert knn(like, real_sets.random_sets(KEY, like, train, 2), valid, test).chosen.startswith("1 neighbour,")


# All the data


def test_full_data_learns_an_easy_set():
    train, test = make_split(200), make_split(100, seed=1)
    trained = full_data(KEY, make_problem(), train, test, steps=300, lr=0.05)
    assert trained.chosen == "Adam, 300 steps of 128" and len(trained.accuracy) == 1
    # The classes are closest to their centres: the best that a linear network can do, but for chance.
    centres = np.stack([normalised(train)[np.asarray(train.labels) == c].mean(axis=0) for c in range(K)])
    distances = np.sum((normalised(test)[:, None] - centres) ** 2, axis=-1)
    nearest = 100 * np.mean(distances.argmin(axis=1) == np.asarray(test.labels))
    assert nearest > 70 and trained.accuracy[0] > nearest - 8
    untrained = full_data(KEY, make_problem(), train, test, steps=1, lr=1e-9)
    assert untrained.accuracy[0] < 60


def test_training_is_adam_with_cosine_decay_to_zero():
    """By hand, in double precision, on one batch."""
    rng, steps, lr = np.random.RandomState(0), 6, 0.3
    inputs, targets, start = rng.normal(size=(8, D)), np.eye(K)[rng.randint(K, size=8)], rng.normal(size=(D, K))
    batch = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.float32)
    loss = make_problem().inner_loss
    options = {"steps": steps, "lr": lr}
    found = fit(KEY, loss, jnp.asarray(start, jnp.float32), make_split(8), lambda key, split: batch, **options)
    theta, first, second = start, 0.0, 0.0
    for t in range(steps):
        shares = np.exp(inputs @ theta)
        grad = inputs.T @ (shares / shares.sum(axis=1, keepdims=True) - targets) / 8
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        rate = lr * (1 + np.cos(np.pi * t / steps)) / 2
        theta = theta - rate * (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
    np.testing.assert_allclose(found, theta, rtol=1e-4, atol=1e-5)


def test_each_step_of_ordinary_training_draws_its_own_batch():
    """From a key of its own: five keys for five steps, noted as they are drawn from."""
    seen = []

    def drawn(key, split):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return jnp.ones((4, D)), jnp.ones((4, K)) / K

    jax.block_until_ready(fit(KEY, make_problem().inner_loss, jnp.ones((D, K)), None, drawn, steps=5, lr=0.1))
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == 5


def test_full_data_starts_from_the_given_networks_in_turn():
    train, test, start = make_split(200), make_split(100, seed=1), pool(2)
    barely = {"steps": 1, "lr": 1e-9, "num_nets": 3}
    found = full_data(KEY, make_problem(), train, test, params_N=start, **barely)
    expected = [numpy_score(start[j], test)[0] for j in (0, 1, 0)]
    np.testing.assert_allclose(found.accuracy, expected, rtol=1e-5)
    assert expected[0] != expected[1]
    assert found.summary()["num_nets"] == 3 and found.chosen == "Adam, 1 steps of 128"
    drawn = full_data(KEY, make_problem(), train, test, **barely)
    assert len(set(drawn.accuracy.tolist())) == 3
