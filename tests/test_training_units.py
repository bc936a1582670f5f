"""Training, what it measured and `diagnose` give one answer to which units are active."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.data import Dataset
from posterior_collapse.diagnosis.levels import gaussian_kl
from posterior_collapse.errors import DataError
from posterior_collapse.experiments.measuring import on_rows
from posterior_collapse.models import load_parameters, read_parameters
from posterior_collapse.report.comparison import comparison_sentences, comparison_verdict
from posterior_collapse.runs import Evaluation
from posterior_collapse.training import units
from posterior_collapse.training.batches import Batch
from posterior_collapse.training.stacking import Stack
from posterior_collapse.training.units import Counting, active_units

G = np.random.default_rng(11)
# Modes from far above the threshold down to it, so that some units know little.
X = (G.standard_normal((240, 6)) * [3, 2, 1.3, 1.1, 1.02, 0.3]) @ np.linalg.qr(
    G.standard_normal((6, 6))
)[0]
Y = X @ G.standard_normal((6, 5)) + G.standard_normal((240, 5)) * [4, 2, 0.1, 0.1, 0.1]
SPECS = {
    "vae": (pc.VAESpec(5, beta=3.0), X),
    "vae, units that can be rotated": (pc.VAESpec(5, beta=3.0, sigma=0.7), X),
    "cvae": (pc.CVAESpec(4, beta=2.0), (X, Y)),
    "hvae": (pc.HVAESpec((4, 3), (5.0, 5.0), 0.6, sigma_1="learned"), X),
    "hvae, units that can be rotated": (pc.HVAESpec((4, 3), (5.0, 5.0), 0.6, sigma_1=0.5), X),
}
HOW = {
    "exact": ("linear", {"exact": True}),
    "linear": ("linear", {"epochs": 60, "batch_size": 60, "learning_rate": 0.01}),
    "mlp": ("mlp", {"epochs": 60, "batch_size": 60, "learning_rate": 0.01, "hidden": (16,)}),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SPECS)
def test_all_who_count_active_units_count_the_same(name: str, how: str) -> None:
    (spec, data), (architecture, options) = SPECS[name], HOW[how]
    fitted = pc.fit(spec, data, architecture, seed=3, **options)
    found = pc.diagnose(fitted, data)
    counts = [level.n_active for level in found.levels]
    assert sum(counts) > 0
    assert how != "exact" or sum(counts) < sum(spec.dims)
    assert [row["n_active"] for row in fitted.measured()["levels"]] == counts
    levels = range(1, len(counts) + 1)
    assert [fitted.history[f"active_{level}"][-1] for level in levels] == counts
    pair = data if isinstance(data, tuple) else (data, None)
    dataset = Dataset("rows", *pair)
    numbers, _ = on_rows(fitted.model, fitted.objective, dataset, Evaluation("train"), seed=0)
    assert [level["n_active"] for level in numbers["levels"]] == counts
    information = [row["information"] for row in fitted.measured()["levels"]]
    for mine, level in zip(information, found.levels, strict=True):
        np.testing.assert_allclose(mine, level.gaussian_information, rtol=1e-5, atol=1e-9)


def test_runs_trained_together_count_as_they_do_alone() -> None:
    specs = [pc.VAESpec(5, beta=beta) for beta in (0.5, 2.0, 30.0)]
    runs = pc.fit_many(specs, X, "mlp", hidden=(16,), epochs=40, learning_rate=0.01)
    for run in runs:
        assert run.history["active_1"][-1] == pc.diagnose(run, X).n_active
    assert runs[-1].history["active_1"][-1] == 0 < runs[0].history["active_1"][-1]


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae"])
def test_units_of_all_runs_at_once_are_those_of_each(name: str) -> None:
    spec, data = SPECS[name]
    betas = [(beta,) * len(spec.dims) for beta in (0.1, 1.0, 5.0, 30.0, 1.0)]
    specs = [spec.replace(**({"betas": b} if name == "hvae" else {"beta": b[0]})) for b in betas]
    runs = pc.fit_many(specs, data, "mlp", hidden=(16,), epochs=40, learning_rates=0.01)
    models = [run.model for run in runs]
    torch.nn.init.constant_(next(models[-1].parameters()), math.nan)
    pair = data if isinstance(data, tuple) else (data, None)
    rows = Batch(*(None if part is None else torch.tensor(part).float() for part in pair))
    counting = Counting(Stack(models, torch.device("cpu")), models, rows)
    each = counting(range(5))
    counting._here = counting._moved()
    together = counting([0, 1, 2, 3, 4])
    np.testing.assert_array_equal(together, each)
    assert len({tuple(own) for own in each[:4]}) > 1
    assert np.isnan(each[4]).all()
    assert counting([3, 1]) == [each[3], each[1]]


@pytest.mark.parametrize("rows", [40, 240])
def test_bounds_leave_out_no_unit_and_take_in_none(rows: int, monkeypatch) -> None:
    """Where nothing is sure at once, every unit is judged by what it knows, as by `diagnose`."""
    posteriors = []
    for share in np.geomspace(1e-3, 30, 40):
        for kind in ("even", "one row tells all", "told by the width"):
            mean, std = np.sqrt(share) * G.standard_normal(rows), np.ones(rows)
            if kind == "one row tells all":
                mean = np.sqrt(share * rows) * (np.arange(rows) == 0)
            if kind == "told by the width":
                mean, std = 0.01 * mean, np.exp(np.sqrt(share) * G.standard_normal(rows))
            posteriors.append((mean, std))
    mean, std = (np.array(part).T for part in zip(*posteriors, strict=True))
    kl = gaussian_kl(mean, std, np.zeros(1), np.ones(1))
    level = units.RowPosteriors(kl, (mean,), (std**2,), std**2, np.ones(1))
    quick = units._count(level, centred=True)
    assert quick == pc.diagnose_arrays(mean, std).n_active
    monkeypatch.setattr(units, "_least", lambda found: np.full(mean.shape[1], -math.inf))
    assert units._count(level, centred=True) == quick
    surely = []
    monkeypatch.setattr(units, "is_active", lambda one: surely.append(one) or True)
    units._count(level, centred=True)
    assert len(surely) < mean.shape[1]  # collapsed ones are seen at once


def test_units_that_were_rotated_are_counted_along_their_directions() -> None:
    spec = pc.VAESpec(3, sigma=0.5)
    x = G.standard_normal((200, 4)) * [4, 2, 0.1, 0.1]
    model = pc.fit(spec, x, "linear", exact=True).model
    turn = np.linalg.qr(G.standard_normal((3, 3)))[0]
    found = read_parameters(model)
    load_parameters(
        model,
        {**found, "W1": turn @ found["W1"], "b1": turn @ found["b1"], "U1": found["U1"] @ turn.T},
    )
    posterior = model.posterior(1, torch.tensor(x))
    assert (posterior.mean.var(0) > 0.1).sum() == 3  # each unit takes part
    assert active_units(model, Batch(torch.tensor(x), None)) == [2]


@pytest.mark.parametrize(("architecture", "level"), [("linear", 1), ("mlp", 1), ("mlp", 2)])
def test_of_a_model_whose_posterior_is_no_number_nothing_is_counted(architecture, level) -> None:
    spec = pc.VAESpec(3) if level == 1 else pc.HVAESpec((3, 3), sigma_1="learned")
    fitted = pc.fit(spec, X, architecture, epochs=1)
    with torch.no_grad():
        for parameter in fitted.model.encoders[level - 1].parameters():
            parameter.fill_(math.nan)
    rows = Batch(torch.tensor(X, dtype=torch.float32), None)
    assert all(map(math.isnan, active_units(fitted.model, rows)))
    summary = fitted.summary()
    assert [row["n_active"] for row in summary["measured"]["levels"]] == [None] * len(spec.dims)
    assert math.isnan(summary["measured"]["loss"])
    summary["stopped"] = "non-finite: loss at step 3"
    assert "nothing was measured" in comparison_verdict(summary)
    good = {**summary, "measured": summary["forecast"] or summary["measured"]}
    assert comparison_sentences([("bad", summary), ("good", good)])
    json.dumps(summary)


def test_what_is_wrong_with_the_data_is_not_taken_for_a_run_that_diverged() -> None:
    class Rows(torch.utils.data.Dataset):
        broken = False

        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.tensor(X[index] * (math.nan if self.broken else 1), dtype=torch.float32)

    rows = Rows()
    fitted = pc.fit(pc.VAESpec(2), torch.utils.data.DataLoader(rows, 60), "mlp", epochs=1)
    rows.broken = True
    with pytest.raises(DataError, match="nan at row 0"):
        fitted.measured()
