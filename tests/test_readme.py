"""The commands and examples of README and docs do what these say."""

from __future__ import annotations

import ast
import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.main import get_command

import posterior_collapse as pc
from posterior_collapse.cli.app import app

ROOT = Path(__file__).parents[1]
# Those of `adapters.md` need libraries: `tests/adapters/test_docs.py` runs them; those of
# `cluster.md` a cluster: `test_cluster_commands.py` does.
DOCUMENTS = [
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")),
]
DOCUMENTS.remove("docs/adapters.md")
DOCUMENTS.remove("docs/cluster.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
BLOCKS = {name: BLOCK.findall(text) for name, text in TEXTS.items()}
FILE = re.compile(r'^ title="([\w.]+)"$')
SHELL = [
    block.splitlines() for blocks in BLOCKS.values() for kind, _, block in blocks if kind == "sh"
]
MAKE = [line for block in SHELL for line in block if line.startswith("make ")]
INSTALL = next(block for block in SHELL if block[0].startswith("python3 -m venv "))


def test_the_two_commands_are_shown() -> None:
    assert {line.split("#")[0].strip() for line in MAKE} >= {"make demo", "make test"}


@pytest.mark.parametrize("line", MAKE)
def test_make_target_exists(line: str) -> None:
    command = shlex.split(line, comments=True)
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_oldest_versions_are_those_that_are_allowed() -> None:
    """What `make test-oldest` installs, and what pip may install beside other packages."""
    asked = re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    oldest = re.findall(
        r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-oldest.txt").read_text(), re.M
    )
    allowed = dict(asked)
    for name, version in oldest:
        if name in allowed:
            assert f"{version}.".startswith(f"{allowed[name]}."), name
    needed = {"numpy", "scipy", "scikit-learn", "matplotlib", "rich", "typer", "torch", "pandas"}
    assert needed <= dict(oldest).keys() & allowed.keys()


def test_the_lines_that_install_work_as_typed(tmp_path: Path) -> None:
    """In a copy, as of a clone; what the package needs is taken from here, not from an index."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    # Nothing that was built here: a clone has none of it.
    built = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=built)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's word for: do not isolate
    }
    script = "\n".join([*INSTALL, "command -v collapse"])
    done = subprocess.run(
        ["sh", "-e"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / ".venv" / "bin" / "collapse")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_is_of_a_kind_that_runs(name: str) -> None:
    for kind, rest, block in BLOCKS[name]:
        lines = block.splitlines()
        if kind == "sh":
            assert lines == INSTALL[: len(lines)] or all(line in MAKE for line in lines)
        elif kind == "console":
            assert lines[0].startswith("$ collapse ")
        else:
            assert kind == "python"
            assert FILE.match(rest) or lines[0].startswith(">>> ")


def needs_mnist(line: str) -> bool:
    return " mnist " in line and "POSTERIOR_COLLAPSE_DATA" not in os.environ


def run(line: str, folder: Path) -> str:
    script = "import sys; from posterior_collapse.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *shlex.split(line, comments=True)[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def sessions(name: str) -> list[tuple[str, str]]:
    """Return the commands of a document in order, with the output that it shows of each."""
    found: list[tuple[str, str]] = []
    for kind, _, block in BLOCKS[name]:
        if kind == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((command, output))
    return found


def shows(shown: str, output: str) -> bool:
    """Whether the output is as shown, words only: a terminal wraps them where it likes."""
    pattern = ".*".join(re.escape(part.strip()) for part in " ".join(shown.split()).split("..."))
    return re.fullmatch(pattern, " ".join(output.split())) is not None


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if sessions(name)])
def test_commands_run_one_after_the_other(name: str, tmp_path: Path) -> None:
    for kind, rest, block in BLOCKS[name]:
        if kind == "python" and (file := FILE.match(rest)):
            (tmp_path / file[1]).write_text(block, encoding="utf-8")
    for command, shown in sessions(name):
        if not needs_mnist(command):
            output = run(command, tmp_path)
            assert output
            if shown:
                assert shows(shown, output), f"{command}\n{output}"


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if ">>> " in TEXTS[name]])
def test_python_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(ROOT / name), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 3
    assert found.failed == 0


def test_the_reference_has_every_public_name_once() -> None:
    # Two functions have the names of their modules, and are told from them by their full path.
    shown = re.findall(
        r"^::: posterior_collapse\.(?:runs\.\w+\.)?(\w+)$", TEXTS["docs/api.md"], flags=re.MULTILINE
    )
    assert sorted(shown) == sorted(pc.__all__)


COMMANDS = sorted(
    {
        words
        for path in (*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
        for words in re.findall(r"`collapse ([^`]+)`", " ".join(path.read_text("utf-8").split()))
        if re.search(" [^-]", words)
    }
)
"""Commands with arguments within sentences and tables: no blocks, so that they are not run."""


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_within_sentences_have_such_arguments(words: str) -> None:
    command, rest = get_command(app), shlex.split(words)
    while subcommands := getattr(command, "commands", None):
        command = subcommands[rest.pop(0)]
    command.make_context("collapse", rest)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "benchmarks/README.md"])
def test_files_that_are_named_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"`(?:posterior_collapse/)?((?:\w+/)*\w+\.(?:py|pyi|md|toml))\b", text)
    named += re.findall(r"`((?:adapters|experiments|report)(?:/\w+)+)`", text)
    package = Path(pc.__file__).parent
    assert len(named) > 1
    for path in named:
        assert any((home / path).exists() for home in (ROOT, package, ROOT / "benchmarks")), path


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_is_there(path: Path) -> None:
    """They are not run here, and no type checker reads them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(pc.__name__):
            exec(ast.unparse(node), {})
