"""ddjax.baselines: what the sets hold, what is chosen and on what, scores against NumPy; all the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
from ddjax.evaluation import baselines
from ddjax.evaluation.measure import evaluate
from ddjax.training.fit import full_data

RATES = len(baselines.LEARNING_RATES) + 1
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
    sets = baselines.random_sets(KEY, make_like(), train, 5)
    assert sets.shape == (5, S, M, D) and sets.dtype == np.float32
    known = {row.tobytes(): int(label) for row, label in zip(np.asarray(train.inputs), train.labels, strict=True)}
    values = (sets.astype(np.float64) * STD + MEAN) * 255
    pixels = np.rint(values).astype(np.uint8)
    np.testing.assert_allclose(values, pixels, atol=1e-3)
    for one_set in pixels:
        np.testing.assert_array_equal([[known[image.tobytes()] for image in step] for step in one_set], CLASSES)
        assert len({image.tobytes() for image in one_set.reshape(-1, D)}) == S * M
    assert len({one_set.tobytes() for one_set in pixels}) == 5
    np.testing.assert_array_equal(sets, baselines.random_sets(KEY, make_like(), train, 5))
    assert not np.array_equal(sets, baselines.random_sets(jax.random.key(4), make_like(), train, 5))


def test_a_class_with_too_few_images_repeats_them():
    train = make_split(90)
    rows = np.concatenate([np.flatnonzero(np.asarray(train.labels) == c)[:2] for c in range(K)])
    train = train._replace(inputs=train.inputs[rows], labels=train.labels[rows])
    own = normalised(train)[np.asarray(train.labels) == 0]
    for make in (baselines.random_sets, baselines.kmeans_sets):
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
    sets = baselines.kmeans_sets(KEY, make_like(), train, 2)
    assert sets.shape == (2, S, M, D) and sets.dtype == np.float32
    for one_set in sets:
        for c in range(K):
            found = one_set[c == CLASSES]
            nearest = np.abs(found[:, None] - centres[c]).max(axis=-1).argmin(axis=1)
            assert sorted(nearest) == list(range(len(found)))  # every cloud once
            np.testing.assert_allclose(found, centres[c][nearest], atol=1e-4)
    np.testing.assert_array_equal(sets, baselines.kmeans_sets(KEY, make_like(), train, 2))


def test_kmeans_looks_at_no_more_images_than_asked():
    """At as many as there are places, the centres are the images themselves."""
    train = make_split(90)
    sets = baselines.kmeans_sets(KEY, make_like(np.array([[0, 1, 2]] * S)), train, 3, most=S)
    for c in range(K):
        own = normalised(train)[np.asarray(train.labels) == c]
        found = sets[:, :, c]
        assert np.abs(found[:, :, None] - own).max(axis=-1).min(axis=-1).max() < 1e-5
        assert len(np.unique(found.reshape(-1, D), axis=0)) > S  # other images in another set


def test_mean_sets_are_the_means_of_the_classes():
    train = make_split(91)
    means = np.stack([normalised(train)[np.asarray(train.labels) == c].mean(axis=0) for c in range(K)])
    sets = baselines.mean_sets(make_like(), train)
    assert sets.dtype == np.float32
    np.testing.assert_allclose(sets, means[CLASSES][None], atol=1e-5)


@pytest.mark.parametrize("make", [lambda *a: baselines.random_sets(KEY, *a, 2), lambda *a: baselines.mean_sets(*a)])
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

TRAINED = {
    "random_real": (lambda *a, **o: baselines.random_real(*a, num_sets=5, **o), 5, 5),
    "optimised_real": (lambda *a, **o: baselines.optimised_real(*a, num_sets=10, num_nets=5, **o), 2, 10),
    "kmeans": (lambda *a, **o: baselines.kmeans(*a, num_nets=5, **o), 1, 5),
    "class_average": (lambda *a, **o: baselines.class_average(*a, num_nets=5, **o), 1, 5),
}


@pytest.mark.parametrize("name", TRAINED)
def test_scores_are_those_of_numpy_from_the_given_networks(name, calls):
    baseline, num_sets, _ = TRAINED[name]
    (train, valid, test), like, start = make_splits(), make_like(), pool(2)
    result = baseline(KEY, make_problem(), like, train, valid, test, params_N=start)
    sets, split, params_N, evaluation = calls[-1]
    assert split is test and params_N is start and evaluation is result.evaluation
    assert all(call[1] is not test and call[2] is not start for call in calls[:-1])
    assert len(calls) == 2 + (name == "optimised_real")
    rate = result.learning_rate
    lrs = like.log_lrs if rate == "learned" else np.full((E, S), np.log(rate))
    for j in range(5):
        own = one(sets, j)
        np.testing.assert_array_equal(own.labels, like.labels)
        np.testing.assert_allclose(own.log_lrs, lrs, rtol=1e-6)
        np.testing.assert_array_equal(own.images, sets.images[j % num_sets])
        np.testing.assert_allclose(evaluation.accuracy[j], numpy_points(start[j % 2], own, test)[0], rtol=1e-5)
    assert len(evaluation.accuracy) == 5 and len(np.unique(sets.images, axis=0)) == num_sets
    if name == "class_average":
        np.testing.assert_array_equal(sets.images[:1], baselines.mean_sets(like, train))
    if name == "kmeans":  # each is the mean of some of the images
        assert not np.array_equal(sets.images[:1], baselines.mean_sets(like, train))
        shared = np.stack([sets.images[0][c == CLASSES].mean(axis=0) for c in range(K)])
        assert np.abs(shared[CLASSES] - baselines.mean_sets(like, train)[0]).max() < 0.5


@pytest.mark.parametrize("name", TRAINED)
def test_every_rate_is_tried_by_the_same_sets_and_networks(name, calls):
    baseline, _, candidates = TRAINED[name]
    (train, valid, test), like = make_splits(), make_like()
    result = baseline(KEY, make_problem(), like, train, valid, test)
    data, split, nets, tried = calls[0]
    count = min(candidates, 8)
    assert len(nets) == count and len(np.unique(nets, axis=0)) == count
    np.testing.assert_array_equal(np.sort(split.inputs, axis=0), np.sort(valid.inputs, axis=0))
    grid = one(data, slice(None))
    rows = grid._replace(**{k: v.reshape(RATES, count, *v.shape[1:]) for k, v in grid._asdict().items()})
    np.testing.assert_array_equal(rows.images, np.broadcast_to(rows.images[0], rows.images.shape))
    for rate, log_lrs in zip(baselines.LEARNING_RATES, rows.log_lrs, strict=False):
        np.testing.assert_allclose(np.exp(log_lrs), rate, rtol=1e-6)
    np.testing.assert_array_equal(rows.log_lrs[-1], np.broadcast_to(like.log_lrs, (count, E, S)))
    expected = [numpy_points(nets[j % count], one(data, j), valid)[0, -1] for j in range(RATES * count)]
    means = np.reshape(expected, (RATES, count)).mean(axis=1)
    np.testing.assert_allclose(tried.accuracy[:, -1], expected, rtol=1e-5)
    assert means.max() > means.min()
    assert result.learning_rate == (*baselines.LEARNING_RATES, "learned")[means.argmax()]
    at_test = calls[-1]
    assert at_test[2] is None and len(np.unique(at_test[3].loss[:, 0])) == 5  # fresh draws, other than for the choice
    seen = np.array([numpy_score(net, test)[1] for net in nets])
    assert np.abs(at_test[3].loss[:, :1] - seen).min() > 5e-6


def test_the_rate_is_the_best_on_held_out_data(monkeypatch):
    """On data where large rates are best, and with labels permuted so that any learning is harmful."""
    train, split, like = make_split(90), make_split(60, seed=1), make_distilled()
    wrong = split._replace(labels=(split.labels + 1) % K)
    start = 1e-3 * jnp.asarray(normalised(train).T @ np.eye(K)[(np.asarray(train.labels) + 1) % K], jnp.float32)
    problem = make_problem(inits.fixed_init(start))

    def chosen(valid, test, log_lrs):
        found = baselines.random_real(KEY, problem, like._replace(log_lrs=log_lrs), train, valid, test, num_sets=4)
        return found.learning_rate, found.summary()["chosen"]

    useless = jnp.full((E, S), -20.0)
    rate, words = chosen(split, wrong, useless)
    assert 0.1 <= rate <= 1 and words == f"rate {rate:g}"
    monkeypatch.setattr(baselines, "LEARNING_RATES", (1e-6, 2e-6))
    assert chosen(split, wrong, like.log_lrs) == ("learned", "learned rates")
    rate, words = chosen(wrong, split, like.log_lrs)
    assert rate == 1e-6 and words == "rate 1e-06"


def test_optimised_sets_are_those_from_which_training_networks_learn_most(calls):
    (train, valid, test), like = make_splits(), make_like()
    result = baselines.optimised_real(KEY, make_problem(), like, train, valid, test, num_sets=15, nets_per_set=3)
    data, split, nets, _ = calls[1]
    assert len(data.images) == 45 and len(np.unique(nets, axis=0)) == 3
    np.testing.assert_array_equal(np.sort(split.inputs, axis=0), np.sort(train.inputs, axis=0))
    expected = [numpy_points(nets[j % 3], one(data, j), train)[0, -1] for j in range(45)]
    means = np.reshape(expected, (15, 3)).mean(axis=1)
    images = np.asarray(data.images).reshape(15, 3, S, M, D)
    np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1], images.shape))
    best = np.argsort(-means)[:3]
    assert means[best].min() > np.delete(means, best).max()  # no tie decides
    used = np.unique(np.asarray(calls[2][0].images), axis=0)
    np.testing.assert_array_equal(used, np.unique(images[best, 0], axis=0))
    assert result.summary()["num_nets"] == 20
    np.testing.assert_allclose(np.exp(data.log_lrs[0]), np.exp(calls[2][0].log_lrs[0]))


def test_choices_are_made_with_some_of_the_examples(calls, monkeypatch):
    monkeypatch.setattr(baselines, "_FEW_EXAMPLES", 12)
    train, valid, test = make_splits()
    ordered = np.argsort(valid.labels, kind="stable")
    valid = valid._replace(inputs=valid.inputs[ordered], labels=valid.labels[ordered])
    baselines.optimised_real(KEY, make_problem(), make_like(), train, valid, test, num_sets=5, num_nets=2)
    for (_, split, *_), whole in zip(calls, (valid, train, test), strict=True):
        known = {row.tobytes(): int(label) for row, label in zip(np.asarray(whole.inputs), whole.labels, strict=True)}
        rows = [row.tobytes() for row in np.asarray(split.inputs)]
        assert len(set(rows)) == (50 if whole is test else 12)
        assert [known[row] for row in rows] == split.labels.tolist()
        assert set(split.labels.tolist()) == {0, 1, 2}


def test_summaries_count_and_say_what_was_chosen():
    scores = baselines.Scores(np.array([70.0, 80.0, 90.0]), "3 neighbours, l2")
    assert scores.summary() == {
        "accuracy_mean": pytest.approx(80),
        "accuracy_std": pytest.approx(np.sqrt(200 / 3)),
        "num_nets": 3,
        "chosen": "3 neighbours, l2",
    }
    evaluation = evaluate(KEY, make_problem(), make_distilled(), make_split(50), num_nets=4)
    summary = baselines.Baseline(evaluation, 0.03).summary()
    assert summary.pop("chosen") == "rate 0.03"
    assert summary.items() <= evaluation.summary().items() and len(summary) == 3


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
        sets = (baselines.random_sets(jax.random.key(seed), like, train, 4) + noise).astype(np.float32)
        tried = [np.mean([numpy_knn(s, CLASSES.reshape(-1), valid, *setting) for s in sets]) for setting in settings]
        assert len(set(tried)) > 1
        best = settings[int(np.argmax(tried))]
        found = baselines.knn(like, sets, valid, test)
        np.testing.assert_allclose(found.accuracy, [numpy_knn(s, CLASSES.reshape(-1), test, *best) for s in sets])
        assert found.chosen == f"{best[0]} neighbour{'s' if best[0] > 1 else ''}, {best[1]}"
        assert found.summary()["num_nets"] == 4 and found.accuracy.std() > 0
        chosen.add(best)
    assert len(chosen) > 1


def test_knn_leaves_out_more_neighbours_than_there_are_images():
    like = make_like()
    like = like._replace(images=like.images[:1, :2], labels=like.labels[:1, :2])
    train, valid, test = make_splits()
    assert baselines.knn(like, baselines.random_sets(KEY, like, train, 2), valid, test).chosen.startswith(
        "1 neighbour,"
    )


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
