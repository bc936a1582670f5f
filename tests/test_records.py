"""What every result has in common: plain values, copies, tables, and the way to its views."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

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
        "Fitted": fitted,
        "Sweep": pc.sweep([SPEC, SPEC.replace(beta=2.0)], X, "linear", exact=True),
        "Tuned": pc.tune(X, SPEC, "linear", active=2, seeds=1, exact=True),
    }


RESULTS = results()


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_plain_values_and_one_line(name: str) -> None:
    result = RESULTS[name]
    values = result.to_dict()  # type: ignore[attr-defined]
    assert json.loads(json.dumps(values)) == values or "NaN" in json.dumps(values)
    assert "\n" not in repr(result)


@pytest.mark.parametrize("name", RESULTS)
def test_no_result_is_changed_by_a_slip(name: str) -> None:
    result = RESULTS[name]
    for field in dataclasses.fields(result):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, field.name, None)


def test_a_run_lists_its_epochs() -> None:
    fitted = SEEN["Fitted"]
    frame = fitted.to_frame()
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["loss"].tolist() == fitted.history["loss"]


ROWS = {"Forecast": 3, "Diagnosis": 3, "PhaseDiagram": 4, "LogLikelihood": 200, "Sweep": 2}


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_a_table_has_a_row_for_each_thing_it_lists(name: str, rows: int) -> None:
    frame = RESULTS[name].to_frame()  # type: ignore[attr-defined]
    assert len(frame) == rows
    if name in ("Forecast", "Diagnosis"):
        assert frame["unit"].tolist() == [1, 2, 3]
        assert frame["kl"].tolist() == RESULTS[name].levels[0].kl.tolist()  # type: ignore[attr-defined]


SEEN = {name: RESULTS[name] for name in ("Forecast", "PhaseDiagram", "Diagnosis", "Sweep", "Tuned")}
SEEN["Fitted"] = pc.fit(SPEC, X, "mlp", hidden=(4,), epochs=3)
SEEN["PhaseDiagram of one eta_dec"] = pc.forecast(X, SPEC).phase_diagram([0.5, 1.0])


@pytest.mark.parametrize("name", SEEN)
def test_what_can_be_looked_at_shows_itself(name: str) -> None:
    result: Any = SEEN[name]
    figure = result.plot()
    assert figure.get_suptitle()
    for axes in figure.axes:
        assert axes.get_xlabel() or axes.get_ylabel()
        assert not {"eta_dec", "beta"} & {axes.get_xlabel(), axes.get_ylabel()}
    assert "<svg" in result._repr_html_()
    # Into someone's own axes, the first panel or several.
    own, (left, right) = Figure().subplots(), Figure().subplots(1, 2)
    assert result.plot(ax=own) is own.figure
    assert own.get_ylabel() == figure.axes[0].get_ylabel()
    assert own.has_data()
    if name in ("Forecast", "Diagnosis", "Sweep", "Fitted"):
        result.plot(ax=(left, right))
        assert right.has_data()
    else:
        with pytest.raises(pc.InvalidArgumentError, match=r"ax: got 2 axes; expected 1 to 1"):
            result.plot(ax=(left, right))
    with pytest.raises(pc.InvalidArgumentError, match="panel: got nonsense; expected one of"):
        result.plot(panel="nonsense")


def test_one_panel_can_be_asked_for() -> None:
    figure = SEEN["Forecast"].plot(panel="staircase")  # type: ignore[attr-defined]
    assert [axes.get_ylabel() for axes in figure.axes] == ["active units"]


def test_a_copy_differs_in_what_was_asked_alone() -> None:
    found = RESULTS["Diagnosis"].replace(n=7)  # type: ignore[attr-defined]
    assert found.n == 7
    assert found.levels is RESULTS["Diagnosis"].levels  # type: ignore[attr-defined]
