import sys

import pytest

from vipo_cli.cli import main


@pytest.fixture
def vipo(monkeypatch, capsys):
    """Return a function that runs a command as the installed script does: status, out, err."""

    def run(*words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["vipo", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return caught.value.code or 0, out, err

    return run
