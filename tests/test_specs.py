"""Specs: validation, exact JSON, unknown keys."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import posterior_collapse as pc
from posterior_collapse.errors import InvalidArgumentError

positive = st.floats(min_value=1e-50, max_value=1e50)
units = st.integers(1, 6)


def sigmas(dim: int):
    words = st.sampled_from(["learned", "shared", "input"])
    return st.one_of(words, positive, st.tuples(*[positive] * dim))


@st.composite
def any_spec(draw) -> pc.Spec:
    kind = draw(st.sampled_from(["vae", "cvae", "hvae", "chain"]))
    eta = draw(st.one_of(positive, st.just("learned")))
    if kind in ("vae", "cvae"):
        k = draw(units)
        cls = pc.VAESpec if kind == "vae" else pc.CVAESpec
        return cls(k, draw(positive), eta, draw(positive), draw(sigmas(k)))
    if kind == "hvae":
        d = (draw(units), draw(units))
        betas = (draw(positive), draw(positive))
        return pc.HVAESpec(d, betas, eta, draw(positive), draw(sigmas(d[0])), draw(sigmas(d[1])))
    d = tuple(draw(st.lists(units, min_size=1, max_size=4)))
    many = [tuple(draw(positive) for _ in d) for _ in range(2)]
    each = tuple(draw(sigmas(k)) for k in d)
    return pc.ChainSpec(d, many[0], many[1], draw(positive), each)


@given(any_spec())
def test_json_round_trip_is_exact(spec: pc.Spec) -> None:
    again = pc.Spec.from_json(spec.to_json())
    assert again == spec
    assert type(again) is type(spec)
    assert hash(again) == hash(spec)
    assert json.loads(spec.to_json())["model"] == spec.model


@given(any_spec())
def test_levels_have_one_entry_each(spec: pc.Spec) -> None:
    for values in (spec.beta_levels, spec.eta_levels, spec.sigma_levels):
        assert len(values) == len(spec.dims)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, np.True_, "3", None, math.nan, [2]])
def test_bad_latent_dim(bad) -> None:
    with pytest.raises(InvalidArgumentError, match=r"latent_dim: got .* at least 1"):
        pc.VAESpec(bad)


@pytest.mark.parametrize("field", [{"sigma": "shared"}, {"likelihood": "poisson"}])
def test_words_are_plain_whatever_they_are_read_from(field) -> None:
    ((name, word),) = field.items()
    spec = pc.VAESpec(2, **{name: np.str_(word)})
    assert (repr(spec), hash(spec)) == (repr(pc.VAESpec(2, **field)), hash(pc.VAESpec(2, **field)))
    with pytest.raises(InvalidArgumentError, match=f"{name}: got"):
        pc.VAESpec(2, **{name: np.array([word])})


@pytest.mark.parametrize("name", ["beta", "eta_dec", "eta_enc", "sigma"])
@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, True, np.array(True), None, "1"])
def test_bad_numbers(name: str, bad) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name}: got"):
        pc.VAESpec(2, **{name: bad})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pc.VAESpec(2, sigma=(1, 2, 3)), "sigma: got 3 values; expected 2"),
        (lambda: pc.VAESpec(2, sigma=(1, -2)), r"sigma of unit 2: got -2.0"),
        (lambda: pc.VAESpec(2, sigma="lerned"), "Did you mean 'learned'"),
        (lambda: pc.HVAESpec((2, 2, 2)), "latent_dims: got 3 values; expected 2"),
        (lambda: pc.VAESpec(10**8), "latent_dim: got 100000000; expected at most 1,000,000"),
        (lambda: pc.VAESpec(2, 10**400), "beta: got a int beyond floats"),
        (lambda: pc.VAESpec(2, 1e-200), "beta: got 1e-200; expected a number from 1e-50"),
        (lambda: pc.VAESpec(2).replace(model="cvae"), "a change of model"),
        (lambda: pc.Spec.from_json(None), "not JSON"),  # type: ignore[arg-type]
        (lambda: pc.Spec.from_dict({"model": ["a"]}), r"model: got \['a'\]"),
        (lambda: pc.HVAESpec(4), "latent_dims: got 4; expected a sequence"),
        (lambda: pc.HVAESpec((2, 2), betas=(1,)), "betas: got 1 value;"),
        (lambda: pc.HVAESpec((2, 0)), r"latent_dim_2: got 0"),
        (lambda: pc.ChainSpec((), (), ()), "no level"),
        (lambda: pc.ChainSpec((2,), (1, 1), (1,)), "betas: got 2 values; expected 1"),
        (lambda: pc.ChainSpec((2,), (1,), (1,), sigmas="shared"), "sigmas"),
        (lambda: pc.Spec.from_dict({"model": "vea", "latent_dim": 1}), "Did you mean 'vae'"),
        (lambda: pc.Spec.from_dict({"model": "vae"}), "no 'latent_dim'"),
        (
            lambda: pc.Spec.from_dict({"model": "vae", "latent_dim": 1, "betta": 1}),
            "unknown key 'betta'.*Did you mean 'beta'",
        ),
        (lambda: pc.HVAESpec((2, 2)).with_level("beta", 0, 2.0), "level: got 0; expected"),
        (
            lambda: pc.HVAESpec((2, 2)).with_level("beta", 3, 2.0),
            "level: got 3; expected at most 2",
        ),
        (lambda: pc.VAESpec(2).with_level("beta", 2, 2.0), "level: got 2; expected at most 1"),
        (lambda: pc.HVAESpec((2, 2)).with_level("bta", 1, 2.0), "unknown key 'bta'"),
        (lambda: pc.HVAESpec((2, 2)).with_level("beta", 2, -1), "beta_2: got -1"),
        (lambda: pc.Spec.from_json("{"), "not JSON"),
        (lambda: pc.Spec.from_json("[1]"), "spec: got list"),
    ],
)
def test_what_was_wrong_is_said(make, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_numpy_numbers_become_plain_ones() -> None:
    assert pc.VAESpec(2, sigma=np.array(0.5)) == pc.VAESpec(2, sigma=0.5)
    spec = pc.VAESpec(np.int64(2), np.float32(0.5), sigma=np.array([0.1, 0.2]))
    assert spec == pc.VAESpec(2, 0.5, sigma=(0.1, 0.2))
    assert type(spec.latent_dim) is int
    assert type(spec.beta) is float


def test_specs_are_frozen() -> None:
    with pytest.raises(AttributeError):
        pc.VAESpec(2).beta = 3.0  # type: ignore[misc]


def test_a_conditional_spec_is_not_equal_to_an_unconditional_one() -> None:
    assert pc.CVAESpec(2) != pc.VAESpec(2)


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda: pc.VAESpec(latent_dims=4), "latent_dim"),
        (lambda: pc.VAESpec(4, betta=2.0), "beta"),
        (lambda: pc.CVAESpec(4, eta_decoder=2.0), "eta_dec"),
        (lambda: pc.HVAESpec((4, 2), beta=(1.0, 2.0)), "betas"),
        (lambda: pc.ChainSpec(latent_dim=(3, 2)), "latent_dims"),
        (lambda: pc.VAESpec(4).replace(bet=2.0), "beta"),
    ],
)
def test_a_misspelled_field_is_told_which_was_meant(make, meant):
    with pytest.raises(pc.InvalidArgumentError, match=rf"Did you mean '{meant}'\?"):
        make()


@pytest.mark.parametrize("spec", [pc.VAESpec(4, beta=2.0), pc.HVAESpec((4, 2))])
def test_a_spec_is_copied_and_pickled(spec):
    assert copy.copy(spec) == copy.deepcopy(spec) == pickle.loads(pickle.dumps(spec)) == spec
