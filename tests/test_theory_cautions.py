"""What a forecast warns of: few rows, features of unlike scale."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_wine

import posterior_collapse as pc
from posterior_collapse.theory import noise

SPEC = pc.VAESpec(16)


def notes(x, spec=SPEC):
    return " | ".join(pc.forecast(x, spec).notes)


def test_white_noise_of_few_rows_is_told_from_signal() -> None:
    """20 rows in 64 dimensions: all 16 units seem to live, and none of it is signal."""
    noise = np.random.default_rng(0).standard_normal((20, 64))
    found = pc.forecast(noise, SPEC)
    assert found.n_active == 16
    (note,) = found.notes
    assert note.startswith("only 20 rows for 64 features: as many rows of noise")
    above, shown, stronger = map(int, re.findall(r"(?:show|which) (\d+)", note))
    assert shown == found.n_possible
    assert stronger == 0
    # Against other draws of noise: the number is no accident of the one drawn.
    others = [
        np.count_nonzero(
            np.linalg.eigvalsh(np.cov(np.random.default_rng(s).standard_normal((20, 64)).T)) > 1
        )
        for s in range(1, 6)
    ]
    assert min(others) - 1 <= above <= max(others) + 1


def test_noise_of_classes_is_told_as_that_of_binary_features_is() -> None:
    """Of two classes each is the other's complement: half the features, each of twice as much."""
    binary = 1.0 * (np.random.default_rng(0).random((200, 30)) < 0.5)
    both = np.stack([binary, 1 - binary], axis=-1)
    spec = pc.VAESpec(60, likelihood="bernoulli")
    said = [notes(binary, spec), notes(both, spec.replace(likelihood="categorical"))]
    numbers = [re.findall(r"(?:show|which) (?:about )?(\d+)", each) for each in said]
    assert numbers[0] == numbers[1]
    assert numbers[0][-1] == "0"


@pytest.mark.parametrize("classes", [3, 8])
def test_noise_of_classes_is_not_taken_for_signal(classes) -> None:
    drawn = np.random.default_rng(1).integers(0, classes, (200, 20))
    said = notes(np.eye(classes)[drawn], pc.VAESpec(16, likelihood="categorical"))
    assert re.search(r"of which 0 are stronger than noise's", said)


def test_the_strongest_mode_of_noise_is_seldom_taken_for_signal() -> None:
    """Next to one other draw it would be in half of all cases."""
    taken = 0
    for seed in range(30):
        x = np.random.default_rng(seed).standard_normal((30, 40))
        second, first = np.linalg.eigvalsh(np.cov(x.T, bias=True))[-2:]
        taken += "noise" not in notes(x, pc.VAESpec(4, beta=(first + second) / 2))
    assert taken <= 5  # of 30, each with one chance in 20: beyond that once in 300 times


def test_signal_of_few_rows_is_counted_apart() -> None:
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((100, 3)) @ rng.standard_normal((3, 2000)) * 0.3
    x = signal + rng.standard_normal((100, 2000))
    assert "of which 3 are stronger than noise's" in notes(x)
    # Of a binary likelihood in its own noise.
    binary = (x > 0).astype(float)
    assert "of which 3 are stronger" in notes(binary, SPEC.replace(likelihood="bernoulli"))


@pytest.mark.parametrize(
    "variances",
    [
        np.ones(900),
        100 / np.arange(1, 901),  # of words
        np.where(np.arange(900) < 5, 500.0, np.arange(900) % 2),  # of which many never vary
    ],
    ids=["alike", "words", "dead"],
)
@pytest.mark.parametrize("n", [60, 700])
def test_modes_of_noise_are_counted_without_a_draw(variances, n) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((n, 900)) * np.sqrt(variances)
    drawn = np.square(np.linalg.svd(rows - rows.mean(0), compute_uv=False)) / n
    at = np.array([0, 1, 4, 20, 40, 55])
    between = np.sqrt(drawn[at] * drawn[at + 1])
    found = noise.noise_above(between, variances, n)
    np.testing.assert_allclose(found, at + 1, atol=3)  # the draw's own chance
    assert noise.noise_above(1.5 * drawn[:1], variances, n) == pytest.approx(0, abs=0.1)
    rank = min(n - 1, np.count_nonzero(variances))  # raw pixels lie far above a threshold of 1
    below = drawn[rank - 1] * np.geomspace(0.1, 1e-9, 5)
    np.testing.assert_allclose(noise.noise_above(below, variances, n), rank, atol=0.1)


def test_of_large_data_noise_is_counted_and_not_drawn(monkeypatch) -> None:
    rng = np.random.default_rng(2)
    x = 0.3 * rng.standard_normal((150, 3)) @ rng.standard_normal((3, 800))
    x += rng.standard_normal((150, 800))

    def said():
        (note,) = pc.forecast(x, SPEC).notes
        return note, list(map(int, re.findall(r"(?:show|which)(?: about)? (\d+)", note)))

    monkeypatch.setattr(noise, "MOST_DRAWN", x.size)
    drawn, (above, shown, stronger) = said()
    assert (stronger, "about" in drawn) == (3, False)
    monkeypatch.setattr(noise, "MOST_DRAWN", 0)
    counted, numbers = said()
    assert numbers == [pytest.approx(above, abs=2), shown, 3]
    assert f"show about {numbers[0]} modes" in counted


def modes_of(x):
    """Variances of the modes and of the features."""
    x = x - x.mean(0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return np.linalg.eigvalsh(gram)[::-1][: len(x) - 1] / len(x), x.var(0)


@pytest.mark.parametrize("most_drawn", [0, 100_000])
def test_noise_of_few_wide_rows_is_not_stronger_than_noise(monkeypatch, most_drawn) -> None:
    """Its variances in the data, short by a row's share, had made all of its modes signal."""
    monkeypatch.setattr(noise, "MOST_DRAWN", most_drawn)
    for seed in range(1, 7):
        modes, features = modes_of(np.random.default_rng(seed).standard_normal((20, 5000)))
        assert noise.stronger_than_noise(modes, features, 20, 0.25)[1] == 0


SHAPES = {(50, 400): 40, (2000, 100): 20, (500, 2000): 10, (1000, 1000): 4}
"""And how often each is drawn."""


def test_noise_of_every_shape_is_seldom_taken_for_signal() -> None:
    """Next to one draw, or to the mean of all, it was in a third of all cases."""
    taken = []
    for (n, features), seeds in SHAPES.items():
        for seed in range(seeds):
            x = np.random.default_rng(seed).standard_normal((n, features))
            taken.append(noise.stronger_than_noise(*modes_of(x), n, 0.01)[1])
    assert np.count_nonzero(taken) <= 0.05 * len(taken)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_planted_modes_are_stronger_than_noise(shape) -> None:
    """Each half as strong again as the strongest mode of a draw of noise alone."""
    rng = np.random.default_rng(7)
    edge = modes_of(rng.standard_normal(shape))[0][0]
    scores, loadings = (np.linalg.qr(rng.standard_normal((side, 3)))[0] for side in shape)
    planted = np.sqrt(1.5 * edge * shape[0]) * scores @ loadings.T
    found = modes_of(rng.standard_normal(shape) + planted)
    assert 3 <= noise.stronger_than_noise(*found, shape[0], 0.01)[1] <= 5


@pytest.mark.parametrize(
    ("features", "within"),
    [(np.ones(200), 0.02), (30 / np.sqrt(np.arange(1, 201)), 0.07)],
    ids=["alike", "unlike"],
)
def test_the_quantile_without_a_draw_is_that_of_draws(features, within) -> None:
    """At each of noise's first modes; of unlike features a little above, so that less passes."""
    n = 60
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((n, 200)) * np.sqrt(features) for _ in range(600))
    drawn = np.quantile([modes_of(x)[0][:6] for x in rows], 0.95, axis=0)
    own = features * (n - 1) / n  # as data have them
    for mode, quantile in enumerate(drawn):
        stronger = [
            noise.stronger_than_noise(np.append(9 * drawn[:mode], at), own, n, 0.01)[1]
            for at in (0.98 * quantile, (1 + within) * quantile)
        ]
        assert stronger == [mode, mode + 1]


@pytest.mark.parametrize("most_drawn", [0, noise.MOST_DRAWN])
def test_no_mode_exceeds_a_threshold_that_there_is_not(monkeypatch, most_drawn) -> None:
    monkeypatch.setattr(noise, "MOST_DRAWN", most_drawn)
    ones = np.ones(10)
    assert noise.stronger_than_noise(np.array([9.0, 1.0]), ones, 20, np.inf)[:2] == (0, 0)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).standard_normal((20, 64)) * 0.1,  # nothing above the threshold
        np.random.default_rng(0).standard_normal((2000, 64)),  # rows enough
        np.random.default_rng(0).standard_normal((20, 1)) * 9,
        pc.load("digits").x * 16,
    ],
)
def test_nothing_is_said_without_need(x) -> None:
    assert "noise" not in notes(x)
    assert "standard deviations" not in notes(x)


def test_features_of_unlike_scale_are_pointed_out() -> None:
    wine = load_wine().data
    assert "standard deviations up to 314" in notes(wine)
    assert "standard deviations" not in notes(wine / wine.std(0))


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial"])
def test_what_is_no_count_is_pointed_out(likelihood) -> None:
    """Logarithms of counts have a forecast as counts have, of a noise that they do not have."""
    counts = np.random.default_rng(0).poisson(3.0, (300, 6)).astype(np.float32)
    spec = pc.VAESpec(2, likelihood=likelihood)
    told = [
        [note for note in pc.forecast(x, spec).notes if "are no counts" in note]
        for x in (counts, np.log1p(counts), (np.log1p(counts), counts))
    ]
    assert [len(notes) for notes in told] == [0, 1, 0]
    assert told[1][0].startswith(f"values such as {np.log1p(counts[0, 0]):.4g} ")
    given = pc.CVAESpec(2, likelihood=likelihood)
    if likelihood == "poisson":
        notes = pc.forecast((counts[:, :2], np.log1p(counts[:, 2:])), given).notes
        assert any("are no counts" in note for note in notes)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative-binomial"])
def test_matrices_do_not_tell_the_noise_of_counts(likelihood) -> None:
    """Their means were taken for 0: all features "carry nothing", and no unit lives."""
    moments = pc.Moments.from_matrices(np.diag([0.2, 0.1]), n=100)
    with pytest.raises(pc.DataError, match=r"no means, as moments of matrices .* Pass the rows"):
        pc.forecast(moments, pc.VAESpec(2, likelihood=likelihood))


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial"])
def test_features_of_mean_0_are_no_counts(likelihood) -> None:
    """Standardised by somebody: their onset was said to be 1e16 or more."""
    counts = np.random.default_rng(0).poisson([3.0, 0.05, 0.002], (2000, 3)).astype(float)
    spec = pc.VAESpec(1, likelihood=likelihood)
    scaled = pc.Moments.from_arrays((counts - counts.mean(0)) / counts.std(0))
    with pytest.raises(pc.DataError, match=r"feature \d of mean .* variance 1; .*not negative"):
        pc.forecast(scaled, spec)
    one = np.zeros((2000, 2))
    one[3] = [1, 1000]  # as much as a mean allows
    allowed = pc.forecast(pc.Moments.from_arrays(one), spec)
    if likelihood == "poisson":
        assert allowed.spectrum[0] == pytest.approx(1001 * 1999 / 2000)
