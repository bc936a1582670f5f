"""What people do with a forecast: advice, phase diagrams, the real beta of a loss."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

import posterior_collapse as pc
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report.pages.curves import phase_sentence
from posterior_collapse.report.text import verdict

DIGITS = load_digits().data / 16
MOMENTS = pc.Moments.from_arrays(DIGITS)


def changed(spec: pc.Spec, change) -> pc.Spec:
    name, _, index = change.parameter.partition("[")
    if change.units and isinstance(spec, pc.HVAESpec):
        spec = spec.replace(latent_dims=[max(d, change.units) for d in spec.latent_dims])
    elif change.units:
        spec = spec.replace(latent_dim=change.units)
    if name == "latent_dims":
        return spec.replace(latent_dims=[max(d, int(change.value)) for d in spec.latent_dims])
    if name == "latent_dim":
        return spec.replace(latent_dim=int(change.value))
    if not index:
        return spec.replace(**{name: change.value})
    values = list(getattr(spec, name))
    values[int(index[:-1])] = change.value
    return spec.replace(**{name: values})


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (pc.VAESpec(16, 20.0), 8),
        (pc.VAESpec(16, eta_dec=0.3), None),
        (pc.VAESpec(16, 2.0, sigma=0.7), 5),
        (pc.VAESpec(16, 2.0, sigma="shared"), 5),
        (pc.VAESpec(16, 6.0, "learned"), 14),
        (pc.VAESpec(4, eta_dec=0.2), 9),
        (pc.VAESpec(2), 8),
        (pc.HVAESpec((2, 3), (1.0, 2.0), sigma_1=0.3), 6),
        (pc.HVAESpec((16, 16), (1.0, 9.0), 0.5, sigma_1=0.5), 8),
        (pc.HVAESpec((16, 16), (1.0, 9.0), 0.5, sigma_1=0.5, sigma_2=0.9), 3),
        (pc.HVAESpec((16, 4), (1.0, 1.0), 0.2, sigma_1=0.3), 6),
    ],
    ids=repr,
)
def test_each_change_alone_reaches_the_goal_and_is_the_smallest(spec, wanted) -> None:
    f = pc.forecast(MOMENTS, spec)
    goal = wanted or spec.dims[-1]
    assert f.n_active < goal
    advice = f.advice(active=wanted)
    assert advice.changes
    for change in advice.changes:
        g = pc.forecast(MOMENTS, changed(spec, change))
        assert g.n_active == change.active >= goal, change
        assert change.text in advice.text
        if change.parameter.startswith("latent_dim"):
            continue
        # three digits: a change smaller by two units of the last one is not enough
        back = 1 + (0.02 if change.value < change.current else -0.02)
        less = dataclasses.replace(change, value=change.value * back)
        shy = changed(spec, less)
        assert pc.forecast(MOMENTS, shy).n_active < goal, change


def test_advice_agrees_with_the_closed_form_threshold() -> None:
    f = pc.forecast(MOMENTS, pc.VAESpec(16, 20.0))
    change = next(c for c in f.advice(active=8).changes if c.parameter == "beta")
    assert f.spectrum[7] * 0.985 < change.value < f.spectrum[7]


def test_advice_when_nothing_is_wrong_or_nothing_helps() -> None:
    fine = pc.forecast(MOMENTS, pc.VAESpec(4, eta_dec=0.1)).advice()
    assert fine.changes == ()
    assert "nothing needs to change" in str(fine)
    flat = pc.Moments.from_matrices(np.diag([2.0, 1.0, 0.0]))
    most = pc.forecast(flat, pc.VAESpec(3)).advice(active=3)
    assert (most.wanted, most.possible) == (3, 2)
    assert "3 wanted, but the data have only 2 modes" in most.text
    assert [c.active for c in most.changes] == [2, 2]
    json.dumps(most.to_dict())
    both_learned = pc.HVAESpec((2, 2), (1.0, 1.5), sigma_1="learned", sigma_2="learned")
    hopeless = pc.forecast(flat, both_learned).advice(active=2)
    assert hopeless.changes == ()
    assert "alone is not enough" in hopeless.text
    for name in ("sigma_1", "sigma_2", "eta_dec"):
        for value in np.geomspace(1e-2, 1e2, 81):
            assert pc.forecast(flat, both_learned.replace(**{name: value})).n_active < 2
    unknown = pc.forecast(flat, both_learned.replace(eta_dec="learned", latent_dims=(1, 1)))
    assert unknown.advice().text.endswith("whether fixing a sigma is, is not known.")


def test_advice_counts_the_others_in_words() -> None:
    """It said that "the other 1 carry nothing"."""
    flat = pc.Moments.from_matrices(np.diag([4.0, 2.0]))
    assert pc.forecast(flat, pc.VAESpec(3)).advice().text.endswith("The other 1 carries nothing.")
    assert pc.forecast(flat, pc.VAESpec(4)).advice().text.endswith("The other 2 carry nothing.")


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        *(("beta", pc.VAESpec(6, beta, "learned")) for beta in (1.3, 2.0, 5.0)),
        ("beta", pc.VAESpec(4, 2.0, "learned")),
        *(("beta", pc.VAESpec(6, beta, "learned", sigma="shared")) for beta in (1.3, 3.0)),
        ("betas", pc.HVAESpec((6, 6), (0.5, 1.5), 0.9, sigma_1="learned", sigma_2=0.9)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("seed", range(4))
def test_advice_finds_the_beta_that_a_fine_scan_finds(field, spec, seed) -> None:
    """With a learned eta_dec the loss has no minimum below some beta, and most live just above."""
    spectrum = np.exp(np.random.default_rng(seed).normal(0, (0.1, 0.3, 0.6, 1.0)[seed], 6))
    moments, now = pc.Moments.from_matrices(np.diag(spectrum)), spec.beta_levels[0]

    def kept(beta: float) -> int:
        turned = beta if field == "beta" else (beta, *spec.beta_levels[1:])
        try:
            return pc.forecast(moments, spec.replace(**{field: turned})).n_active
        except pc.UnboundedObjectiveError:
            return -1

    betas = now * np.exp(np.linspace(-2.5, 2.5, 401))
    counts = np.array([kept(beta) for beta in betas])
    f = pc.forecast(moments, spec)
    assert counts.max() > f.n_active or spec.beta_levels[0] < 1.5
    for wanted in range(f.n_active + 1, counts.max() + 1):
        found = [c for c in f.advice(wanted).changes if c.parameter in (field, "betas[0]")]
        (change,) = found
        said = float(change.text.split(" to ")[1].split(" ")[0])
        assert kept(change.value) == kept(said) == change.active >= wanted
        # no farther than the nearest of the scan, but for what three digits round away
        nearest = np.abs(np.log(betas[counts >= wanted] / now)).min()
        assert abs(np.log(change.value / now)) < nearest + 0.011


LEVELS = np.random.default_rng(0).standard_normal((200, 6)) * [5, 3, 2, 1, 0.5, 0.1]


@pytest.mark.parametrize(
    "spec",
    [
        *(pc.VAESpec(k, beta, "learned") for beta in (0.01, 1.0, 1.3) for k in (1, 3)),
        pc.VAESpec(1, 0.5, "learned", sigma="shared"),
        pc.VAESpec(2, 3.0, "learned", sigma=0.4),
        *(pc.VAESpec(k, beta, sigma="shared") for beta in (0.05, 1.0) for k in (1, 2)),
        pc.HVAESpec((2, 1), (1.0, 0.2), sigma_1=1.05),
        pc.ChainSpec((2, 1), (1.0, 0.2), (1.2, 0.7), sigmas=(1.05, 2.0)),
        pc.ChainSpec((1,), (1.0,), (0.5,)),
    ],
    ids=repr,
)
def test_possible_units_are_those_that_live_at_the_best_width(spec) -> None:
    def living(width: int) -> int:
        dims = (width, *spec.dims[1:])
        one = isinstance(spec, pc.VAESpec)
        wide = spec.replace(latent_dim=width) if one else spec.replace(latent_dims=dims)
        try:
            return pc.forecast(LEVELS, wide).levels[0].n_active
        except pc.UnboundedObjectiveError:
            return 0

    best = max(map(living, range(1, 7)))
    found = pc.forecast(LEVELS, spec)
    assert found.n_possible == best
    if len(spec.dims) == 1 and found.n_active == spec.dims[0]:
        pay = ": more units pay" * isinstance(spec.sigma_levels[0], str)
        more = f"{best} of the data's 6 modes would keep a unit{pay}."
        assert (more in found.advice().text) == (best > found.n_active)


def test_units_that_live_are_possible() -> None:
    """As many units as modes have no minimum here; more have, as each shares its std with all."""
    x = np.eye(4)[np.arange(60) % 4]
    found = pc.forecast(x, pc.VAESpec(12, 1.0, "learned", sigma="shared"))
    assert found.n_active == found.n_possible == 3


def test_advice_widens_a_chain_of_one_level() -> None:
    found = pc.forecast(LEVELS, pc.ChainSpec((2,), (1.0,), (0.5,))).advice(active=4)
    assert [change.text for change in found.changes] == [
        "Give every level at least 4 units (4 active)."
    ]


def test_advice_says_when_the_condition_leaves_nothing() -> None:
    y = DIGITS[:, 20:30] @ np.ones((10, 2))
    f = pc.forecast(pc.Moments.from_arrays(DIGITS, y), pc.CVAESpec(2))
    assert f.advice().text == (
        "0 of 2 units are active: x explains all of y, so no setting can keep a unit."
    )
    same = pc.forecast((np.ones((len(y), 1)), y), pc.VAESpec(2))
    assert same.advice().text == (
        "0 of 2 units are active: x tells nothing of y, so no setting can keep a unit."
    )


@pytest.mark.parametrize(
    ("betas", "more", "words"),
    [
        ([], {}, r"betas: got an array of shape \(0,\); expected one value or a list"),
        ([[1, 2], [3, 4]], {}, r"betas: got an array of shape \(2, 2\)"),
        ([1.0], {"eta_decs": []}, r"eta_decs: got an array of shape \(0,\)"),
        ([1.0, -1.0], {}, "betas: got -1.0; expected a positive"),
        ([1.0], {"level": 1}, r"level: got 1; expected one of 0 \(bottom first\), or -1, the top"),
    ],
)
def test_no_phase_diagram_of_no_grid(betas, more, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        pc.phase_diagram(MOMENTS, pc.VAESpec(4), betas, **more)


def test_a_count_of_one_is_told_as_one() -> None:
    f = pc.forecast(pc.Moments.from_matrices(np.diag([4.0, 2.0])), pc.VAESpec(2, beta=3.0))
    assert f.advice(active=1).text == (
        "1 of 2 units is active: nothing needs to change. The other 1 carries nothing."
    )
    both = f.advice(active=2).text
    assert both.startswith("1 of 2 units is active; 2 wanted. Any one of these is enough:")
    assert both.endswith("Or use 1: the other carries nothing.")
    assert f.advice(active=3).text.startswith(
        "1 of 2 units is active; 3 wanted, but the data have only 2 modes."
    )
    assert phase_sentence(f.phase_diagram([3.0])) == "1 of 2 units is active for β = 3."
    assert "0 to 1 of 2 units are active" in phase_sentence(f.phase_diagram([3.0, 5.0]))
    assert repr(f.phase_diagram(3.0)) == "PhaseDiagram(1 beta x 1 eta_dec; 1 active unit)"
    for beta, said in ((3.0, "1 of 1 unit survives"), (5.0, "0 of 1 unit survives; 1 collapses")):
        one = pc.forecast(pc.Moments.from_matrices(np.diag([4.0, 2.0])), pc.VAESpec(1, beta=beta))
        assert verdict(one).startswith(said)
        assert "0 of 1 unit active" in repr(one) or beta == 3.0
        assert "VAE, 1 latent unit," in one.plot().get_suptitle()
    assert one.advice().text.startswith("0 of 1 unit is active; 1 wanted.")


def test_advice_never_speaks_of_others_that_are_not_there() -> None:
    text = pc.forecast(MOMENTS, pc.VAESpec(2, eta_dec=0.1)).advice(active=20).text
    assert "others" not in text
    text = pc.forecast(MOMENTS, pc.VAESpec(4, sigma=(0.1, 0.2, 0.3, 0.4))).advice(active=9).text
    assert "9 units at every level, and as many sigmas" in text


def test_advice_reaches_across_many_decades() -> None:
    tiny = pc.Moments.from_arrays(DIGITS, scale=1e-12)
    changes = pc.forecast(tiny, pc.VAESpec(4)).advice().changes
    assert {c.parameter for c in changes} == {"beta", "eta_dec"}


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8"])
def test_bad_number_of_units_to_keep(bad) -> None:
    with pytest.raises(InvalidArgumentError, match="active"):
        pc.forecast(MOMENTS, pc.VAESpec(4)).advice(active=bad)


@pytest.mark.parametrize(
    "spec",
    [
        pc.VAESpec(16),
        pc.VAESpec(16, sigma=0.5),
        pc.VAESpec(4, sigma=(0.5, 1.0, 0.2, 2.0)),
        pc.VAESpec(16, sigma="shared"),
        pc.VAESpec(16, eta_dec="learned"),
        pc.HVAESpec((16, 8), sigma_1=0.4),
        pc.HVAESpec((8, 16), sigma_1=0.4, sigma_2=0.5),
        pc.HVAESpec((8, 8), sigma_1="learned", sigma_2=0.5),
        pc.ChainSpec((6, 5, 4), (1, 1, 1), (1, 1, 1), sigmas=(0.4, 0.5, "learned")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("level", [0, -1])
def test_phase_diagram_is_a_forecast_per_cell(spec: pc.Spec, level: int) -> None:
    betas, etas = np.geomspace(0.05, 20, 5), np.geomspace(0.05, 2, 4)
    diagram = pc.phase_diagram(MOMENTS, spec, betas, etas, level=level)
    assert diagram.active.shape == (5, 4)
    assert len(set(diagram.active.ravel())) > 1
    for i, beta in enumerate(betas):
        for j, eta in enumerate(etas):
            if isinstance(spec, pc.VAESpec):
                one = spec.replace(beta=beta, eta_dec=eta)
            else:
                values = list(spec.betas)
                values[level] = beta
                field = "eta_decs" if isinstance(spec, pc.ChainSpec) else "eta_dec"
                one = spec.replace(
                    betas=values, **{field: [eta] * 3 if field == "eta_decs" else eta}
                )
            assert diagram.active[i, j] == pc.forecast(MOMENTS, one).levels[level].n_active


def test_phase_diagram_marks_unbounded_cells() -> None:
    spec = pc.HVAESpec((3, 3), (1.0, 1.0), sigma_1="learned")
    diagram = pc.phase_diagram(MOMENTS, spec, [0.5, 1.0, 2.0], [0.3])
    assert diagram.active.ravel().tolist() == [-1, 0, 0]
    json.dumps(diagram.to_dict())


def test_phase_diagram_of_a_conditional_model() -> None:
    m = pc.Moments.from_arrays(DIGITS[:, :32], DIGITS[:, 32:])
    diagram = pc.phase_diagram(m, pc.CVAESpec(8), [1.0], [0.2, 0.4])
    expected = [pc.forecast(m, pc.CVAESpec(8, eta_dec=e)).n_active for e in (0.2, 0.4)]
    assert diagram.active.tolist() == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": [0.0], "eta_decs": [1.0]}, "betas"),
        ({"betas": [1.0], "eta_decs": [-1.0]}, "eta_decs"),
        ({"betas": [1.0], "eta_decs": [1.0], "level": 1}, "level"),
    ],
)
def test_bad_phase_diagrams(arguments, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        pc.phase_diagram(MOMENTS, pc.VAESpec(2), **arguments)


def loss_minimising_scale(loss, theta: float) -> float:
    """Variance threshold of a one-unit linear VAE trained with `loss(squared error, kl)`."""
    t = np.linspace(0.0, 5.0, 20001)  # decoder gain, with encoder and sigma at their best
    ratio = t**2
    return float(ratio[np.argmin(loss(theta**2 / (1 + ratio), np.log1p(ratio) / 2))])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"half": True},
        {"reconstruction": "mean", "features": 784},
        {"kl": "mean", "latents": 16, "weight": 3.0},
        {"gaussian_std": 0.2, "weight": 0.5},
        {"half": True, "reconstruction": "mean", "features": 10, "kl": "mean", "latents": 4},
        {"batch_size": 128, "reconstruction_batch": "mean", "kl_batch": "sum"},
        {"batch_size": 128, "reconstruction_batch": "sum", "kl_batch": "mean"},
    ],
    ids=repr,
)
def test_effective_beta_is_where_the_written_loss_collapses(options) -> None:
    """Brute force on the loss as its author wrote it: a unit lives iff variance > threshold."""
    o = {"reconstruction_batch": "mean", "kl_batch": "mean", **options}
    threshold = pc.effective_beta(**options).value

    def written(square: np.ndarray, kl: np.ndarray) -> np.ndarray:
        if "gaussian_std" in o:
            square = square / (2 * o["gaussian_std"] ** 2)
        square = square * (0.5 if o.get("half") else 1.0)
        square = square / (o["features"] if o.get("reconstruction") == "mean" else 1)
        kl = kl / (o["latents"] if o.get("kl") == "mean" else 1)
        n = o.get("batch_size", 1)
        square = square * (n if o["reconstruction_batch"] == "sum" else 1)
        return square + o.get("weight", 1.0) * kl * (n if o["kl_batch"] == "sum" else 1)

    assert loss_minimising_scale(written, np.sqrt(0.98 * threshold)) == 0
    assert loss_minimising_scale(written, np.sqrt(1.02 * threshold)) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reconstruction": "mean"}, "features: got nothing"),
        ({"kl": "mean"}, "latents: got nothing"),
        ({"kl_batch": "sum"}, "batch_size: got nothing"),
        ({"weight": 0}, "weight"),
        ({"half": True, "gaussian_std": 1.0}, "half"),
        ({"reconstruction": "median"}, "'sum' or 'mean'"),
    ],
    ids=repr,
)
def test_effective_beta_says_what_it_lacks(options, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        pc.effective_beta(**options)


def test_a_forecast_shows_itself() -> None:
    f = pc.forecast(MOMENTS, pc.VAESpec(4))
    assert f.plot().axes[0].get_ylabel() == "variance of data mode"
    page = f._repr_html_()
    assert page.startswith('<div class="pc">')
    assert page.count("<span>collapsed</span>") == 4
    assert "None of your 4 units will live" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    "call",
    [
        lambda: pc.phase_diagram(DIGITS, "vae", [1], [1]),
        lambda: pc.forecast(DIGITS, "vae"),
        lambda: pc.minimise(DIGITS, None),
    ],
)
def test_a_spec_is_asked_for(call) -> None:
    with pytest.raises(InvalidArgumentError, match="spec: got"):
        call()


@pytest.mark.parametrize("call", [pc.forecast, pc.minimise])
def test_a_condition_is_asked_for(call) -> None:
    with pytest.raises(pc.DataError, match="no target y"):
        call(DIGITS, pc.CVAESpec(2))


@pytest.mark.parametrize("restarts", [0, 1.5, "8"])
def test_restarts_are_counted_in_whole_numbers(restarts) -> None:
    with pytest.raises(InvalidArgumentError, match=r"restarts: got .* whole number of at least 1"):
        pc.minimise(DIGITS, pc.VAESpec(2), restarts=restarts)


def test_minimise_takes_an_array() -> None:
    x = DIGITS[:, 20:24]
    spec = pc.VAESpec(2, 0.2)
    assert pc.minimise(x, spec, restarts=2).loss == pytest.approx(pc.forecast(x, spec).loss)


def test_repr_and_dict_are_readable() -> None:
    f = pc.forecast(MOMENTS, pc.HVAESpec((8, 8), (1.0, 2.0), 0.3, sigma_1=0.3))
    assert "z1: 8 of 8 units active" in repr(f)
    assert "z2: 4 of 8 units active" in repr(f)
    found = json.loads(json.dumps(f.to_dict()))
    assert found["levels"][1]["n_active"] == 4
    assert found["levels"][1]["status"][4] == "collapsed"
    assert pc.Spec.from_dict(found["spec"]) == f.spec


def test_public_names_are_exactly_all() -> None:
    assert sorted(pc.__all__) == pc.__all__
    assert set(dir(pc)) == set(pc.__all__)
    for name in pc.__all__:
        assert getattr(pc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'forcast'"):
        _ = pc.forcast


@pytest.mark.parametrize("level", [2, -3, None, "z1", 0.5])
def test_a_level_that_is_none_is_refused(level: object) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=r"level: got .* expected one of 0, 1"):
        pc.phase_diagram(LEVELS, pc.HVAESpec((3, 2)), [1.0], level=level)  # type: ignore[arg-type]
