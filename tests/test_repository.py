"""What must hold of the repository as a whole."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vipo_cli

ROOT = Path(__file__).parent.parent
VIPO = Path(sys.executable).with_name("vipo")


def test_the_layers_point_downwards():
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_fresh(shell, tmp_path):
    """To renew one: _VIPO_COMPLETE=source_SHELL vipo > completions/vipo.SHELL, less blank ends."""
    found = subprocess.run(
        [VIPO], env=os.environ | {"_VIPO_COMPLETE": f"source_{shell}"}, capture_output=True,
        text=True, cwd=tmp_path,
    )  # fmt: skip
    assert found.stdout.strip() + "\n" == (ROOT / "completions" / f"vipo.{shell}").read_text()


def test_bash_completion_offers_the_verbs(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    found = subprocess.run(
        [VIPO], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ
        | {"_VIPO_COMPLETE": "complete_bash", "COMP_WORDS": "vipo ", "COMP_CWORD": "1"},
    )  # fmt: skip
    assert set(found.stdout.split()) >= {"train", "data", "eval", "analyze", "list"}


def test_the_changelog_heads_with_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == vipo_cli.__version__


def test_help_needs_nothing_heavy():
    heavy = ("torch", "numpy", "pydantic", "rich", "PIL")
    code = f"import sys, vipo_cli.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_readme_holds_its_two_commands():
    text = (ROOT / "README.md").read_text()
    block = re.search(
        r"<!-- first commands -->\n```bash\n(.*?)\n```\n<!-- end -->", text, re.DOTALL
    )
    assert block is not None
    assert block[1].splitlines() == [
        "pip install -e . && vipo train --method poly-dpo --alpha 0.5",
        'pip install -e ".[test]" && pytest',
    ]


def test_assets_stay_small():
    assets = ROOT / "vipo_cli" / "shapes" / "assets"
    total = sum(file.stat().st_size for file in assets.rglob("*") if file.is_file())
    assert 0 < total < 15_000_000
