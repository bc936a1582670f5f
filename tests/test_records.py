"""What every result has in common: plain values, copies, tables, and the way to its views."""

from __future__ import annotations

import json

import numpy as np
import pytest

import posterior_collapse as pc

X = np.random.default_rng(0).standard_normal((200, 4)) * [3, 2, 1, 0.1]
SPEC = pc.VAESpec(3)


def results() -> dict[str, object]:
    f = pc.forecast(X, SPEC)
    fitted = pc.fit(SPEC, X, "linear", exact=True)
    return {
        "Forecast": f,
        "Level": f.levels[0],
        "Advice": f.advice(active=3),
        "PhaseDiagram": f.phase_diagram([0.5, 1.0], [1.0, 2.0]),
        "Diagnosis": pc.diagnose(fitted, X),
        "LogLikelihood": pc.log_likelihood(fitted, X),
        "EffectiveBeta": pc.effective_beta(reconstruction="mean", features=4),
        "Settings": fitted.settings,
        "Sweep": pc.sweep([SPEC, SPEC.replace(beta=2.0)], X, "linear", exact=True),
    }


RESULTS = results()


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_plain_values_and_one_line(name: str) -> None:
    result = RESULTS[name]
    values = result.to_dict()  # type: ignore[attr-defined]
    assert json.loads(json.dumps(values)) == values or "NaN" in json.dumps(values)
    assert "\n" not in repr(result)


ROWS = {"Forecast": 3, "Diagnosis": 3, "PhaseDiagram": 4, "LogLikelihood": 200, "Sweep": 2}


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_a_table_has_a_row_for_each_thing_it_lists(name: str, rows: int) -> None:
    frame = RESULTS[name].to_frame()  # type: ignore[attr-defined]
    assert len(frame) == rows
    if name in ("Forecast", "Diagnosis"):
        assert frame["unit"].tolist() == [1, 2, 3]
        assert frame["kl"].tolist() == RESULTS[name].levels[0].kl.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Forecast", "Diagnosis", "Sweep"])
def test_what_can_be_looked_at_shows_itself(name: str) -> None:
    result = RESULTS[name]
    assert result.plot().axes  # type: ignore[attr-defined]
    assert "<" in result._repr_html_()  # type: ignore[attr-defined]


def test_a_copy_differs_in_what_was_asked_alone() -> None:
    found = RESULTS["Diagnosis"].replace(n=7)  # type: ignore[attr-defined]
    assert found.n == 7
    assert found.levels is RESULTS["Diagnosis"].levels  # type: ignore[attr-defined]
