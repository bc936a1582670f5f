"""`fit`: the loop it stands for, its inputs, its options, what it reaches and what it refuses."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import posterior_collapse as pc
from posterior_collapse.errors import (
    DataError,
    InvalidArgumentError,
    NonFiniteLossError,
    UnboundedObjectiveError,
)
from posterior_collapse.models import build, loss
from posterior_collapse.training import UnboundedObjectiveWarning, seeds

G = np.random.default_rng(1)
SCALES = np.array([2.0, 1.5, 1.0, 0.3, 0.2, 0.1])
X = G.standard_normal((300, 6)) * SCALES @ np.linalg.qr(G.standard_normal((6, 6)))[0] + 1
Y = np.tanh(X[:, :3]) + 0.3 * G.standard_normal((300, 3))


def loader(x):
    return DataLoader(TensorDataset(torch.as_tensor(x)), batch_size=50)


def state(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.model.parameters()])


def test_fit_is_the_loop_everyone_writes():
    spec = pc.CVAESpec(4, beta=1.5, eta_dec=0.7, sigma="learned")
    fitted = pc.fit(
        spec, (X, Y), "mlp", hidden=(8,), epochs=4, batch_size=64, clip=0.7, warm_up=3,
        precision="float64", learning_rate=3e-3, seed=5,
    )  # fmt: skip
    x, y = torch.tensor(X), torch.tensor(Y)
    start = seeds.generator(5, seeds.INITIALISATION)
    model = build(
        spec, "mlp", x_dim=6, y_dim=3, hidden=(8,), generator=start, dtype=torch.float64
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    step = 0
    for epoch in range(4):
        order = torch.randperm(300, generator=seeds.generator(5, seeds.ORDER, epoch))
        # 300 rows in batches of 64 are 5 steps, whose noise is drawn at once.
        noise = torch.randn(
            5, 64, 4, generator=seeds.generator(5, seeds.NOISE, epoch), dtype=torch.float64
        )
        total = 0.0
        for rows, drawn in zip(order.split(64), noise, strict=True):
            terms = model(x[rows], y[rows], (drawn[: len(rows)],), {})
            value = loss(terms, [1.5 * min(step / 15, 1.0)])
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
            optimiser.step()
            total += value.item() * len(rows) / 300
            step += 1
        assert fitted.history["loss"][epoch] == pytest.approx(total, rel=1e-9)
    for (name, a), b in zip(model.named_parameters(), fitted.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


LINEAR = {
    "vae": (pc.VAESpec(4, beta=1.5, eta_dec=0.6), X),
    "vae, fixed sigma": (pc.VAESpec(4, eta_dec=0.6, sigma=0.8), X),
    "vae, learned eta_dec": (pc.VAESpec(2, eta_dec="learned"), X),
    "cvae": (pc.CVAESpec(2, beta=0.5, eta_dec=0.4), (X, Y)),
    "hvae": (pc.HVAESpec((4, 3), (1, 2), 0.6, 1, 0.4), X),
}


@pytest.mark.parametrize("name", LINEAR)
def test_minibatches_reach_the_closed_form_to_within_their_noise(name):
    # Runs that start at the optimum leave it, too: for losses 0.01 to 0.05 above it and information
    # 0.01 to 0.03 off at this rate, and a third of that at a third of the rate.
    spec, data = LINEAR[name]
    fitted = pc.fit(spec, data, "linear", epochs=700, batch_size=100, learning_rate=0.01)
    best = fitted.forecast
    measured = fitted.measured()
    assert 0 <= measured["loss"] - best.loss < 0.06
    for row, level in zip(measured["levels"], best.levels, strict=True):
        assert row["n_active"] == level.n_active
        information = np.sort(row["information"])[::-1]
        np.testing.assert_allclose(information, np.sort(level.information)[::-1], atol=0.08)


class Rows(TorchDataset):
    """Pairs of a row and its label, as torchvision's data sets have them."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return torch.tensor(X[index], dtype=torch.float32), index % 10


class Column(Rows):
    """Pairs of a row and what a regression would predict from it."""

    def __getitem__(self, index):
        return torch.tensor(X[index], dtype=torch.float32), torch.tensor([index / 10])


HOLDERS = {
    "tensor": lambda: torch.tensor(X),
    "tensor with a gradient": lambda: torch.tensor(X, requires_grad=True),
    "float32": lambda: X.astype(np.float32),
    "big-endian": lambda: X.astype(">f8"),
    "long double": lambda: X.astype(np.longdouble),
    "turned": lambda: X[::-1, ::-1].copy()[::-1, ::-1],
    "Dataset": lambda: pc.Dataset("rows", X),
    "torch Dataset": lambda: TensorDataset(torch.tensor(X)),
    "with labels": Rows,
    "with a column": Column,
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_any_holder_of_the_same_rows_trains_the_same_model(kind):
    data = HOLDERS[kind]()
    options = {"epochs": 2, "hidden": (5,), "batch_size": 64}
    one, other = (pc.fit(pc.VAESpec(2), d, "mlp", **options) for d in (X, data))
    assert torch.equal(state(one), state(other))
    assert one.history == other.history


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_it_is(dtype):
    half = torch.tensor(X).to(dtype).requires_grad_()
    options = {"epochs": 1, "hidden": (5,)}
    runs = [pc.fit(pc.VAESpec(2), d, "mlp", **options) for d in (half, half.detach().float())]
    assert torch.equal(*map(state, runs))
    losses = [pc.forecast(d, pc.VAESpec(2)).loss for d in (half, half.detach().double().numpy())]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_loss_without_minimum_is_said_to_be_one():
    for spec in (
        pc.VAESpec(6, beta=0.5, eta_dec="learned"),
        pc.HVAESpec((3, 3), (1, 0.5), sigma_1="learned"),
    ):
        with pytest.raises(UnboundedObjectiveError):
            pc.fit(spec, X, "linear", exact=True)
        with pytest.warns(UnboundedObjectiveWarning, match="falls without end"):
            pc.fit(spec, X, "mlp", epochs=1, hidden=(4,))


def test_a_trained_model_is_ready_to_be_used():
    assert not pc.fit(pc.VAESpec(2), X, "mlp", epochs=1, hidden=(4,), dropout=0.5).model.training
    assert not pc.fit(pc.VAESpec(2), X, "linear", exact=True).model.training


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_keeps_its_batches_and_repeats_its_order(shuffle):
    pairs = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(Y).float())
    loader = DataLoader(pairs, batch_size=70, shuffle=shuffle, drop_last=True)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, other = (
        pc.fit(pc.CVAESpec(2), loader, "mlp", epochs=3, hidden=(5,), batch_size=999)
        for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.history["step"] == [4, 8, 12]
    assert torch.equal(state(one), state(other))
    if not shuffle:
        rows = (array[:280].astype(np.float32) for array in (X, Y))
        best = pc.forecast(pc.Moments.from_arrays(*rows), one.spec)
        assert one.forecast.loss == pytest.approx(best.loss, rel=1e-6)
    assert one.summary()["measured"]["levels"][0]["kl"]


def test_bf16_keeps_float32_parameters_and_about_the_same_course():
    options = {"epochs": 30, "hidden": (16,), "batch_size": 100, "learning_rate": 3e-3}
    one, half = (
        pc.fit(pc.VAESpec(4, eta_dec=0.5), X, "mlp", precision=p, **options)
        for p in ("float32", "bf16")
    )
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    np.testing.assert_allclose(half.history["loss"], one.history["loss"], rtol=0.02)
    assert not torch.equal(state(one), state(half))


def test_bf16_reaches_what_float32_reaches_within_the_spread_of_seeds():
    x = pc.load("digits").x.astype(np.float32)
    spec = pc.HVAESpec((16, 16), eta_dec=0.25, eta_enc=0.5, sigma_1=0.25, sigma_2="input")
    options = {"hidden": (64,), "epochs": 40, "clip": 1.0, "seeds": [0, 1, 2, 3]}
    found = []
    for precision in ("float32", "bf16"):
        runs = pc.fit_many([spec] * 4, x, "hvae-relu", precision=precision, **options)
        nll = [pc.log_likelihood(run.model, x[:300], samples=50).nll for run in runs]
        # What the levels share of the KL is settled late, and by rounding; not what they have.
        kl = [run.history["kl_1"][-1] + run.history["kl_2"][-1] for run in runs]
        found.append(np.array([nll, kl, [run.history["active_2"][-1] for run in runs]]))
    whole, half = found
    # The mean of 4 seeds has half their spread as its error, the difference of two 0.7 of it.
    spread = np.hypot(whole.std(1, ddof=1), half.std(1, ddof=1))
    assert (np.abs(whole.mean(1) - half.mean(1)) < 1.5 * spread).all(), (whole, half)
    assert (spread[:2] < 0.1 * np.abs(whole[:2].mean(1))).all()


def test_sgd_with_momentum_is_torchs():
    options = {"precision": "float64", "optimiser": "sgd", "learning_rate": 1e-3, "momentum": 0.8}
    fitted = pc.fit(pc.VAESpec(2, sigma=0.5), X, "linear", steps=7, batch_size=300, **options)
    model = build(
        fitted.spec, "linear", x_dim=6, generator=seeds.generator(0, seeds.INITIALISATION),
        dtype=torch.float64,
    )  # fmt: skip
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.8)
    for epoch in range(7):
        order = torch.randperm(300, generator=seeds.generator(0, seeds.ORDER, epoch))
        g = seeds.generator(0, seeds.NOISE, epoch)
        noise = torch.randn(1, 300, 2, generator=g, dtype=torch.float64)[0]
        optimiser.zero_grad()
        loss(model(torch.tensor(X)[order], None, (noise,), {}), [1.0]).backward()
        optimiser.step()
    for a, b in zip(model.parameters(), fitted.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_progress_is_told_after_each_epoch():
    seen = []
    pc.fit(pc.VAESpec(2), X, "linear", epochs=3, batch_size=100, progress=seen.append)
    assert [(now.epoch, now.step, now.steps) for now in seen] == [(1, 3, 9), (2, 6, 9), (3, 9, 9)]
    assert {"loss", "reconstruction", "kl_1", "active_1"} <= seen[0].rows[0].keys()


@pytest.mark.parametrize(
    "spec", [pc.VAESpec(3), pc.VAESpec(3, likelihood="negative-binomial")], ids=["moments", "rows"]
)
def test_data_that_are_changed_after_training_change_no_result(spec):
    """A forecast is made when it is first asked for, perhaps after x -= x.mean()."""
    counts = np.random.default_rng(0).poisson(3.0, (200, 4)).astype(float)
    kept = counts.copy()
    fitted = pc.fit(spec, counts, "mlp", hidden=(4,), epochs=1)
    counts *= 10
    best = pc.forecast(kept, spec)
    assert fitted.forecast.loss == pytest.approx(best.loss, rel=1e-9)
    assert fitted.summary()["forecast"]["loss"] == pytest.approx(best.loss, rel=1e-9)


def test_a_loss_that_is_not_finite_says_step_term_and_remedy():
    with pytest.raises(
        NonFiniteLossError, match=r"(reconstruction|kl of level 1|gradient) at step \d+"
    ) as told:
        pc.fit(pc.VAESpec(2), X, "mlp", optimiser="sgd", learning_rate=10.0, hidden=(8,))
    assert "Lower learning_rate" in str(told.value)


def test_a_first_loss_that_is_not_finite_is_not_laid_to_the_learning_rate():
    counts = 1000 * np.random.default_rng(0).poisson(1.0, (60, 4)).astype(np.float32)
    spec, how = pc.VAESpec(2, likelihood="poisson"), {"epochs": 1, "hidden": (8,)}
    with pytest.raises(NonFiniteLossError, match=r"at step 0: .*smaller weights") as told:
        pc.fit(spec, counts, "mlp", **how)
    assert "learning_rate" not in str(told.value)
    assert "eta_dec" not in str(told.value)  # which counts do not have
    assert "scale the data" not in str(told.value)  # or they are none any more
    assert pc.fit(spec, counts, "mlp", **how, initial_std=0.005).stopped == "finished"
    assert "the pair (log(1 + x), x)" in str(told.value)
    assert pc.fit(spec, (np.log1p(counts), counts), "mlp", **how).stopped == "finished"
    given = pc.CVAESpec(2, likelihood="poisson")
    with pytest.raises(NonFiniteLossError, match="or scale what is encoded") as told:
        pc.fit(given, (counts, counts), "mlp", **how)
    assert "pair" not in str(told.value)  # which a condition and its target are


@pytest.mark.parametrize("offset", [1e7, 1e8])
def test_numbers_that_training_would_round_away_are_refused(offset):
    """float32 has steps of 1 and 8 there: another data set would be trained on."""
    assert np.abs(np.float32(X + offset) - (X + offset)).max() > 0.4
    for data in (X + offset, sparse.csr_matrix(X + offset), loader(X + offset)):
        with pytest.raises(pc.DataError, match=r"x: got column \d near 1e\+.* float32 rounds by"):
            pc.fit(pc.VAESpec(2), data, "linear", epochs=1)
    constant = np.full((len(X), 1), offset + 0.3)
    rounded = np.resize([[0.3], [0.1 + 0.2]], (len(X), 1))
    assert np.ptp(rounded) > 0
    held = [
        np.hstack([X, constant]), 8 * np.rint(X) + 2.0**26, np.float32(X + offset),
        np.hstack([X, rounded]),
    ]  # fmt: skip
    for data in (*held, *map(loader, held)):
        assert pc.fit(pc.VAESpec(2), data, "linear", epochs=1).stopped == "finished"
    assert pc.fit(pc.VAESpec(2), X + offset, "linear", epochs=1, precision="float64").stopped


def test_seconds_that_go_by_in_a_loader_vary_more_than_its_first_rows():
    seconds = 1.6e9 + np.arange(4000.0)
    rows = np.column_stack([np.resize(X, (4000, 2)), seconds])
    assert pc.fit(pc.VAESpec(2), loader(rows), "linear", epochs=1).stopped == "finished"
    with pytest.raises(pc.DataError, match="x: got column 2 near"):
        pc.fit(pc.VAESpec(2), loader(rows[:1000]), "linear", epochs=1)


def test_held_out_rows_may_be_alike_in_a_column_that_varies():
    """Their rounding counts beside what the model was trained on, as of an hour beside a year."""
    seconds = np.linspace(1.70e9, 1.73e9, len(X))[:, None]
    data, hour = np.hstack([X, seconds]), np.hstack([X, 1.7e9 + 60 * np.abs(X[:, :1])])
    fitted = pc.fit(pc.VAESpec(2), data, "linear", epochs=1, validation=hour)
    assert fitted.stopped == "finished"
    with pytest.raises(pc.DataError, match="float32 rounds"):
        pc.fit(pc.VAESpec(2), hour, "linear", epochs=1)


def test_numbers_beyond_the_precision_of_training_are_called_that():
    for data in (X * 1e39, loader(X * 1e39)):
        with pytest.raises(
            pc.DataError, match=r"x: got values up to .*\+39; .* 3.4e\+38, as float32"
        ):
            pc.fit(pc.VAESpec(2), data, "linear", epochs=1)


def test_a_loader_s_values_that_are_no_numbers_are_told_and_not_the_model_s():
    """Smaller weights, as after a loss that is not finite, would not help."""
    held = X.copy()
    held[-1, 2] = np.nan
    for bad in (held, torch.as_tensor(held, dtype=torch.float32)):
        with pytest.raises(pc.DataError, match=r"x( at step \d+)?: got nan at row \d+, column 2"):
            pc.fit(pc.VAESpec(2), loader(bad), "linear", epochs=1)
        with pytest.raises(pc.DataError, match="x: got nan at row"):
            pc.fit(pc.VAESpec(2), X, "linear", epochs=1, validation=loader(bad))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"warm_up": 11}, "warm_up: got 11 epochs in a run of 10; .* Pass at most warm_up=10"),
        ({"warm_up": 2, "steps": 5}, r"warm_up: got 2 epochs in a run of 1\.66"),
        ({"capacity": 2, "capacity_warm_up": 11}, "capacity_warm_up: got 11 epochs"),
        ({"cycles": 31}, "cycles: got 31 cycles in 30 steps"),
        ({"cycles": 2, "warm_up": 2}, "cycles: got 2 beside `warm_up`"),
        ({"capacity": (1, 2)}, "capacity"),
        ({"capacity_warm_up": 2}, "capacity_warm_up: got 2; expected a capacity beside it"),
        ({"optimiser": "lbfgs"}, "Pass exact=True"),
        ({"optimiser": "adm"}, "Did you mean 'adam'"),
        ({"device": "cuda:99"}, "device: got 'cuda:99'; expected 'cpu'"),
        ({"device": "cuda:"}, "device: got 'cuda:'"),
        ({"device": "gpu"}, "device: got 'gpu'"),
        ({"precision": "half"}, "precision"),
        ({"precision": np.array(["float32"])}, r"precision: got array\(\['float32'\]"),
        ({"cuda_graphs": "yes"}, "cuda_graphs: got 'yes'; expected True or False"),
        ({"convention": "mean"}, "convention"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"momentum": 1}, "momentum: got 1"),
        ({"momentum": None}, "momentum: got None"),
        ({"momentum": "0.9"}, r"momentum: got '0.9'; expected a number in \[0, 1\)"),
        ({"architecture": "mlp", "dropout": None}, "dropout: got None"),
        ({"free_bits": 0}, "free_bits"),
        ({"exact": "no"}, "exact: got 'no'; expected True or False"),
        ({"from_forecast": "no"}, "from_forecast: got 'no'; expected True or False"),
        ({"resume": "no"}, "resume: got 'no'; expected True or False"),
        ({"resume": True}, "resume: got True; expected a folder"),
        ({"leaning_rate": 1}, "Did you mean 'learning_rate'"),
        ({"beta": 2}, r"beta: got beside the spec; .* Pass spec\.replace\(beta=\.\.\.\)"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"architecture": "mlp", "hiden": (3,)}, "Did you mean 'hidden'"),
        ({"architecture": "linaer"}, "Did you mean 'linear'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    options = {"architecture": "linear", "epochs": 10, "batch_size": 100, **options}
    with pytest.raises(InvalidArgumentError, match=said):
        pc.fit(pc.VAESpec(2), X, **options)


def test_a_learned_eta_dec_needs_its_normaliser():
    with pytest.raises(InvalidArgumentError, match="convention"):
        pc.fit(pc.VAESpec(2, eta_dec="learned"), X, "linear", convention="reference")


BAD = np.where(np.arange(300)[:, None] == 7, np.nan, X)


@pytest.mark.parametrize(
    ("spec", "data", "more", "said"),
    [
        (pc.VAESpec(2), BAD, {}, "x: got nan at row 7, column 0"),
        (pc.VAESpec(2), X[:1], {}, "x: got a single sample"),
        (pc.VAESpec(2), np.ones((9, 3)), {}, "x: got data that are all constant"),
        (pc.CVAESpec(2), X, {}, "no target y"),
        (pc.CVAESpec(2), (X, Y[:-1]), {}, "299"),
        (pc.VAESpec(2), [], {}, "x: got an empty array"),
        (pc.VAESpec(2), X[:, 0], {}, "x"),
        (pc.VAESpec(2), np.array([["a"]]), {}, "x"),
        (pc.VAESpec(2), DataLoader([]), {}, "without batches"),
        (pc.VAESpec(2), DataLoader(["a", "b"]), {}, "x: got dtype <U1"),
        (pc.VAESpec(2), X, {"validation": X[:, :5]}, "validation: got rows of 5 numbers"),
        (pc.VAESpec(2), X, {"validation": (X, Y)}, "validation"),
    ],
)
def test_data_that_cannot_be_used_are_refused(spec, data, more, said):
    with pytest.raises(DataError, match=said):
        pc.fit(spec, data, "linear", epochs=1, **more)


def test_a_result_is_readable():
    fitted = pc.fit(pc.HVAESpec((3, 2)), X, "linear", epochs=2)
    assert repr(fitted).startswith("Fitted(hvae, linear; 6 steps, loss ")
    summary = fitted.summary()
    assert summary["measured"].keys() >= summary["forecast"].keys() == {"loss", "levels"}
    assert [len(level["kl"]) for level in summary["measured"]["levels"]] == [3, 2]
    with pytest.warns(UnboundedObjectiveWarning):
        unbounded = pc.fit(pc.HVAESpec((2, 2), (2, 1), sigma_1="learned"), X, "linear", epochs=1)
    assert unbounded.forecast is None
    assert unbounded.summary()["forecast"] is None


def test_a_loader_whose_later_batches_are_larger_is_refused_by_name():
    rows = TensorDataset(torch.tensor(X, dtype=torch.float32))
    parts = [list(range(10)), list(range(10, 60))]
    with pytest.raises(DataError, match="data: got a batch of 50 rows after a first of 10"):
        pc.fit(pc.VAESpec(2), DataLoader(rows, batch_sampler=parts), "linear", epochs=1)
    fitted = pc.fit(pc.VAESpec(2), DataLoader(rows, batch_sampler=parts[::-1]), "linear", epochs=1)
    assert fitted.history["step"] == [2]
