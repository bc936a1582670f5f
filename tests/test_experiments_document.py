"""The document written from what the rows left."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from left_results import leave, verdict
from planted_results import RUNS
from posterior_collapse.experiments import Plan, chosen, document
from posterior_collapse.experiments.tables import Table


def section(text: str, row: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {row}: ")[1], flags=re.M)[0]


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each table, read by a parser of Markdown that is not ours."""
    found: list[list[list[str]]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token, following in itertools.pairwise(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append(following.content)
    return found


def test_a_section_says_all_that_a_row_left(tmp_path: Path) -> None:
    leave(tmp_path / "results", "E3", published="One seed only.")
    path = document.write(tmp_path / "results", tmp_path / "new" / "docs" / "reproduction.md")
    text = section(path.read_text(), "E3")
    for said in (
        "name of E3: beta, eta_dec",
        "**Theory predicts.** A unit lives while theta > beta.",
        "**Agrees.** 5 of 5 as predicted.",
        "**The published scripts.** One seed only.",
        "- version 9.8.7; convention elbo; seeds 1, 2, 3; hardware a slow core, 2 threads; "
        "wall time 1 h 2 min",
        "- epochs 123",
        "- architecture: name cvae-relu; hidden 17, 18",
        "- [all files](../../results/E3)",
    ):
        assert said in text
    assert "smaller" not in text


def test_sentences_are_listed_with_their_verdicts_where_mixed(tmp_path: Path) -> None:
    checks = [["agrees", "KL falls."], ["not measured", "No unit is active."]]
    leave(tmp_path, "E3", agreement=verdict("partly", *checks, notes=("One.", "Two.")))
    leave(tmp_path, "E4", agreement=verdict("agrees", ["agrees", "A."], ["agrees", "B."]))
    text = document.render(tmp_path, tmp_path)
    said = "**Partly.**\n\n- agrees: KL falls.\n- not measured: No unit is active.\n"
    assert said + "\n**Notes.**\n\n- One.\n- Two.\n" in section(text, "E3")
    assert "**Agrees.**\n\n- A.\n- B.\n" in section(text, "E4")
    assert "**Notes.**" not in section(text, "E4")


def test_the_data_are_named(tmp_path: Path) -> None:
    leave(tmp_path, "E3", data=["matrix problem", "digits"])
    text = section(document.render(tmp_path, tmp_path), "E3")
    assert "**Measured** on matrix problem and digits, by" in text


def test_what_all_grids_share_is_said_once(tmp_path: Path) -> None:
    grids = {
        name: {"method": "exact", "model": {"beta": beta, "eta_dec": 0.5}, "varies": {"z": [1, 2]}}
        for name, beta in (("first", 1), ("second", 4))
    }
    leave(tmp_path, "E3", settings=grids)
    text = section(document.render(tmp_path, tmp_path), "E3")
    lines = text.split("wall time")[1].splitlines()[1:]
    assert [line for line in lines if line.startswith("- ")][:-1] == [
        *("- all: method exact", "- all, model: eta_dec 0.5", "- all, varies: z 1, 2"),
        *("- first, model: beta 1", "- second, model: beta 4"),
    ]


def test_numbers_in_tables_are_those_of_the_results(tmp_path: Path) -> None:
    leave(tmp_path, "E9")
    ((head, *rows),) = tables(section(document.render(tmp_path, tmp_path), "E9"))
    assert head == ["beta", "NLL (nats)", "active units"]
    for cells, beta in zip(rows, (0.5, 2.0), strict=True):
        nll = [run["NLL (nats)"] for run in RUNS if run["beta"] == beta]
        assert float(cells[0]) == beta
        mean, std = map(float, cells[1].split(" ± "))
        assert mean == pytest.approx(np.mean(nll), abs=0.01)
        assert std == pytest.approx(np.std(nll, ddof=1), abs=0.01)
        assert cells[2] == "7.0 ± 1.0"


def test_rows_stand_in_order_and_are_counted(tmp_path: Path) -> None:
    verdicts = {"E10": "partly", "phase": "not measured", "E2": "agrees", "E1": "agrees"}
    for row, word in verdicts.items():
        leave(tmp_path, row, agreement=verdict(word, [word, "."]))
    text = document.render(tmp_path, tmp_path)
    assert re.findall(r"^## (\w+):", text, flags=re.M) == ["E1", "E2", "E10", "phase"]
    assert "Of 4 rows, 2 agree, 1 agrees partly and 1 did not measure what was" in text
    (_, *rows), *_ = tables(text)
    assert rows[2] == [
        "[E10](#e10-name-of-e10-beta-eta_dec)",
        "name of E10: beta, eta_dec",
        *("Larger beta_2 &lt; 3 collapses (more)\\_+ and (more)\\_+.", "partly", ""),
    ]
    assert sizes(text)[2] == [rows[2][0], "elbo", "full", "3", "1", "CPU"]


def test_few_rows_of_a_verdict_are_named_among_many(tmp_path: Path) -> None:
    for i in range(1, 8):
        word = "differs" if i in (3, 5) else "agrees"
        leave(tmp_path, f"E{i}", agreement=verdict(word, [word, "."]))
    text = document.render(tmp_path, tmp_path)
    assert "Of 7 rows, 5 agree (E1, E2, E4, E6 and E7) and 2 differ (E3 and E5)." in text
    leave(tmp_path, "E8", agreement=verdict("agrees", ["agrees", "."]))
    leave(tmp_path, "E9", agreement=verdict("agrees", ["agrees", "."]))
    assert "Of 9 rows, 7 agree and 2 differ (E3 and E5)." in document.render(tmp_path, tmp_path)
    differs = verdict("differs", ["differs", "."])
    leave(tmp_path / "reference", "E1", agreement=differs, convention="reference")
    text = document.render(tmp_path, tmp_path)
    assert "7 agree and 3 differ (E1 in the reference convention, E3 and E5)." in text


def sizes(text: str) -> list[list[str]]:
    """Return the rows of the table of sizes and hours."""
    return tables(text.split("\n## Sizes and hours\n")[1])[0][1:]


def test_each_row_says_by_which_command_it_was_run(tmp_path: Path) -> None:
    leave(tmp_path, "E1", command="collapse reproduce E1 --seeds 5")
    (row,), smaller = chosen("E6"), Plan(seeds=3, epochs=9, convention="reference")
    leave(
        tmp_path, "E6", profile="smaller: 9 of 100 epochs", takes="a night",
        command=smaller.command(row), whole=smaller.whole.command(row),
    )  # fmt: skip
    leave(tmp_path, "E3")  # of a version that did not keep it
    leave(tmp_path, "E4", profile="smaller: 9 of 100 epochs")  # likewise, and it cannot be known
    text = document.render(tmp_path, tmp_path)
    assert "**Measured** on MNIST, by `collapse reproduce E1 --seeds 5`.\n" in section(text, "E1")
    assert (
        "**Measured** on MNIST, by `collapse reproduce E6 --convention reference --seeds 3 "
        "--epochs 9`; at full size by `collapse reproduce E6 --convention reference --seeds 3` (a "
        "night). Run smaller: 9 of 100 epochs.\n"
    ) in section(text, "E6")
    assert "**Measured** on MNIST, by `collapse reproduce E3 --seeds 3`.\n" in section(text, "E3")
    assert "**Measured** on MNIST. Run smaller" in section(text, "E4")


def test_notes_of_several_rows_are_told_once(tmp_path: Path) -> None:
    shared = ["One.", "Two.", "Three."]
    for row, notes in (("E1", shared), ("E2", [*shared, "Four."]), ("E3", ["Two.", "Four."])):
        told = verdict("agrees", ["agrees", "."])
        leave(tmp_path, row, agreement={**told, "notes": notes})
    text = document.render(tmp_path, tmp_path)
    first = "3 notes of [E1](#e1-name-of-e1-beta-eta_dec) hold here too."
    assert f"**Notes.**\n\n- Four.\n- {first}\n" in section(text, "E2")
    assert "**Notes.**\n\n- Two.\n- Four.\n" in section(text, "E3")  # one is as soon said


def test_hours_are_summed_per_kind_of_processor(tmp_path: Path) -> None:
    leave(tmp_path, "E1", wall_s=7200.0, hardware="NVIDIA H100")
    leave(tmp_path, "E2", wall_s=1800.0, hardware="an old one, AVX2, 1 threads")
    leave(tmp_path, "E3", wall_s=5400.0, hardware="a new one, AVX512, 1 threads")
    text = document.render(tmp_path, tmp_path)
    assert [row[4:6] for row in sizes(text)] == [["2", "GPU"], ["0.5", "CPU"], ["1.5", "CPU"]]
    assert "- GPU: 2.0 hours for 1 row (NVIDIA H100)" in text
    assert "- CPU: 2.0 hours for 2 rows (a new one, AVX512, 1 thread; an old one" in text
    assert "1 threads" not in text


def test_runs_that_rows_share_count_once_in_the_hours(tmp_path: Path) -> None:
    hardware = "one, AVX2, 1 threads"
    first = {"a": 3600.0, "b": 3600.0}
    leave(tmp_path, "E1", wall_s=7200.0, hardware=hardware, runs=first)
    leave(tmp_path, "E9", wall_s=9000.0, hardware=hardware, runs={**first, "c": 1800.0})
    leave(tmp_path, "E10", wall_s=3600.0, hardware=hardware)  # of a version that kept no runs
    text = document.render(tmp_path, tmp_path)
    assert "CPU: 3.5 hours for 3 rows" in text
    assert [row[4] for row in sizes(text)] == ["2", "2.5", "1"]


def test_seeds_are_those_of_a_setting(tmp_path: Path) -> None:
    grids = {"matrix": {"seeds": 5}, "MNIST": {"seeds": 1}, "MNIST, exact": {"seeds": 1}}
    leave(tmp_path, "E8", settings=grids, seeds=[1, 2, 3, 4, 5, 6])
    ((_, _, _, seeds, *_),) = sizes(document.render(tmp_path, tmp_path))
    assert seeds == "5 (MNIST: 1)"


def test_rows_trained_as_published_stand_beside_the_others(tmp_path: Path) -> None:
    for row in ("E2", "E1"):
        leave(tmp_path, row)
    leave(tmp_path / "reference", "E1", convention="reference")
    text = document.render(tmp_path, tmp_path)
    assert re.findall(r"^## (\w+: .*)$", text, flags=re.M) == [
        "E1: name of E1: beta, eta_dec",
        "E1: name of E1: beta, eta_dec (reference convention)",
        "E2: name of E2: beta, eta_dec",
    ]
    (_, _, row, other), *_ = tables(text)
    assert row[0] == "[E1](#e1-name-of-e1-beta-eta_dec-reference-convention)"
    assert [sizes(text)[i][1] for i in (0, 1)] == ["elbo", "reference"]
    assert row[1] == "in the reference convention"
    assert (row[2], other[2][:6]) == ("the same", "Larger")  # E2 has a claim of its own
    said = "Claim and theory as in [name of E1: beta, eta_dec](#e1-name-of-e1-beta-eta_dec).\n"
    assert said in text.split("(reference convention)\n")[1].split("\n## ")[0]
    assert text.count("**Theory predicts.**") == 2
    assert "[all files](reference/E1)" in text


@pytest.mark.parametrize(
    ("profile", "said"),
    [("quick", "smaller: quick profile"), ("smaller: 20 epochs", "smaller: 20 epochs")],
)
def test_a_row_run_smaller_says_so_at_its_table(tmp_path: Path, profile: str, said: str) -> None:
    leave(tmp_path, "E11", profile=profile)
    text = document.render(tmp_path, tmp_path)
    assert f"*Table: Measures ({said})*\n\n| beta" in section(text, "E11")
    assert sizes(text)[0][2] == said


def test_figures_that_are_there_are_shown_and_linked(tmp_path: Path) -> None:
    figures = [
        {"file": "curves.pdf", "caption": "Share of collapsed units"},
        {"file": "panel.png", "caption": "Reconstructions"},
        {"file": "left_out.pdf", "caption": "Too large to keep"},
    ]
    folder = leave(tmp_path / "my results", "E1", figures=figures)
    for name in ("curves.png", "curves.pdf", "curves.csv", "panel.png"):
        (folder / name).write_bytes(b"x")
    path = document.write(tmp_path / "my results", tmp_path / "docs" / "reproduction.md")
    tokens = [t for token in MarkdownIt().parse(path.read_text()) for t in token.children or []]
    images = [str(token.attrs["src"]) for token in tokens if token.type == "image"]
    links = [str(token.attrs["href"]) for token in tokens if token.type == "link_open"]
    assert images == ["../my%20results/E1/curves.png", "../my%20results/E1/panel.png"]
    files = [link for link in links if link.endswith(("pdf", "csv"))]
    assert [link.rsplit("/")[-1] for link in files] == ["curves.pdf", "curves.csv"]
    for link in images + files:
        assert (path.parent / link.replace("%20", " ")).is_file()
    assert "Too large to keep" not in path.read_text()


def test_plain_text_stays_plain(tmp_path: Path) -> None:
    leave(tmp_path, "E1", tables={"t": {"columns": ["a|b"], "rows": [["c|d\ne"], [None]]}})
    text = section(document.render(tmp_path, tmp_path), "E1")
    assert "<em>" not in MarkdownIt().render(text.split("**Theory")[0].replace("**", ""))
    assert "Larger beta_2 < 3 collapses (more)_+ and (more)_+." in "".join(
        child.content for token in MarkdownIt().parse(text) for child in token.children or []
    )
    assert tables(text) == [[["a|b"], ["c|d e"], [""]]]


def test_long_tables_are_folded_but_whole(tmp_path: Path) -> None:
    rows = [[i, i / 7] for i in range(50)]
    leave(tmp_path, "E7", tables={"sweep": {"columns": ["beta", "KL"], "rows": rows}})
    text = section(document.render(tmp_path, tmp_path), "E7")
    assert '<details markdown="1"><summary>Table: sweep</summary>\n\n| beta' in text
    ((_, *cells),) = tables(text)
    assert [[float(a), float(b)] for a, b in cells] == [
        [beta, pytest.approx(kl, rel=1e-3)] for beta, kl in rows
    ]


def test_what_is_folded_is_read_as_markdown_on_the_site_too(tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")  # mkdocs renders with it
    table = Table(["beta", "KL"], [[i, i / 7] for i in range(50)])
    leave(tmp_path, "E7", tables={"sweep": table.to_dict()})
    text = section(document.render(tmp_path, tmp_path), "E7")
    shown = markdown.markdown(text, extensions=["md_in_html", "tables"])
    assert re.search(r"<summary>Table: sweep</summary>\s*<table>", shown)
    assert re.search(r"<summary>How it was run</summary>\s*<ul>", shown)


def test_of_a_very_long_table_some_rows_are_shown_and_all_are_linked(tmp_path: Path) -> None:
    table = Table(["beta", "KL"], [[i, i / 7] for i in range(100)])
    folder = leave(tmp_path, "E7", tables={"sweep": table.to_dict()})
    ((_, *whole),) = tables(section(document.render(tmp_path, tmp_path), "E7"))
    assert len(whole) == 100  # there is no file with them all
    table.save(folder, "table-sweep")
    text = section(document.render(tmp_path, tmp_path), "E7")
    ((_, *cells),) = tables(text)
    assert [int(beta) for beta, _ in cells] == list(range(0, 100, 5))
    assert "*One row in 5 of 100 is shown: [all of them](E7/table-sweep.csv)*" in text


def test_many_comparisons_are_folded_below_their_verdict(tmp_path: Path) -> None:
    checks = [["agrees", f"KL {i} falls."] for i in range(17)]
    for row, own in (("E3", checks), ("E4", checks[:16])):
        leave(tmp_path, row, agreement=verdict("agrees", *own))
    text = document.render(tmp_path, tmp_path)
    folded = (
        '**Agrees.**\n\n<details markdown="1"><summary>The 17 comparisons</summary>\n\n'
        "- KL 0 falls.\n"
    )
    assert folded in section(text, "E3")
    assert "- KL 16 falls.\n\n</details>\n" in section(text, "E3")
    assert "**Agrees.**\n\n- KL 0 falls.\n" in section(text, "E4")


def test_theory_may_be_values(tmp_path: Path) -> None:
    leave(tmp_path, "E7", theory={"onset": 4.25, "active units": {"z2": [16, 8]}})
    text = section(document.render(tmp_path, tmp_path), "E7")
    assert "**Theory predicts.** \n\n- onset 4.25\n- active units: z2 16, 8\n" in text


def test_the_same_results_give_the_same_document(tmp_path: Path) -> None:
    for row in ("E2", "E1"):
        leave(tmp_path, row)
    target = tmp_path / "reproduction.md"
    first = document.write(tmp_path, target).read_bytes()
    assert document.write(tmp_path, target).read_bytes() == first


def test_two_processors_are_compared_check_by_check(tmp_path: Path) -> None:
    ours = verdict("partly", ["agrees", "A."], ["differs", "B."])
    theirs = verdict("agrees", ["agrees", "A."], ["agrees", "B."])
    leave(tmp_path, "E8", agreement=ours)
    leave(tmp_path, "E5", agreement=ours)
    assert "Two processors" not in document.render(tmp_path, tmp_path)
    leave(tmp_path / "older-processor", "E8", agreement=theirs, hardware="an old one")
    leave(tmp_path / "older-processor", "E5", agreement=ours, hardware="an old one")
    text = document.render(tmp_path, tmp_path)
    assert "3 of 4 checks have the same verdict." in text
    (row,) = (row for table in tables(text) for row in table if row[:3] == ["E8", "2", "1"])
    assert row[3:] == ["partly", "agrees", "as here", "a slow core, 2 threads", "an old one"]
    assert "Of the rows of linear models, E5 and E8 were run again" in text
    assert len(re.findall(r"^## \w+:", text, flags=re.M)) == 2  # they have no sections of their own


def test_direction_and_numbers_are_shown_apart(tmp_path: Path) -> None:
    told = {
        **verdict("partly", ["agrees", "A."], ["differs", "B."]),
        "kinds": ["direction", "numbers"],
    }
    leave(tmp_path, "E8", agreement={**told, "direction": "agrees", "numbers": "differs"})
    leave(tmp_path, "E9", agreement={**told, "direction": None, "numbers": "differs"})
    text = document.render(tmp_path, tmp_path)
    parted = "**Partly (direction: agrees, 1 of 1; numbers: differs, 0 of 1).**"
    assert parted in section(text, "E8")
    assert "**Partly (numbers: differs, 0 of 1).**" in section(text, "E9")
    assert "By direction alone, 1 of 1 agrees and 0 agree partly." in text
    assert "By numbers alone, 0 of 2 agree" in text
    (_, first, second), *_ = tables(text)
    assert first[3:] == ["agrees, 1 of 1", "differs, 0 of 1"]
    assert second[3:] == ["", "differs, 0 of 1"]
