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
