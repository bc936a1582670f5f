"""The `collapse` command, run in this process."""

import pytest

from posterior_collapse.cli import main


def collapse(*arguments: object) -> int:
    """Run it with these arguments and return its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run it, to a good end, and return what it prints, spaces collapsed."""
    status = collapse(*arguments)
    out, err = capsys.readouterr()
    assert status == 0, err
    return " ".join(out.split())


def ends(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run it, and return the one line on stderr in which it ends."""
    status = collapse(*arguments)
    said = capsys.readouterr().err
    assert status == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run it, and return its exit status and all that it prints, spaces collapsed."""
    status = collapse(*arguments)
    out = capsys.readouterr()
    return status, " ".join((out.out + out.err).split())
