"""What the README states and a program can check."""

import re
from pathlib import Path

import torch

import tritonconv
from autotune.cli import cli
from tritonconv.ops import SCHEMAS
from tritonconv.testing.coverage import coverage_table
from tritonconv.testing.norm_pooling import (
    is_right,
    norm_pooling_table,
    ours_of,
    torch_version,
    wrong_in_torch,
)
from tritonconv.variants import VARIANTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_lists_every_schema():
    listed = re.search(r"<!-- schemas:.*?-->\n```\n(.*?)```", README, re.S)
    assert listed is not None
    assert listed[1].splitlines() == list(SCHEMAS.values())


def test_readme_shows_the_table_of_the_variants():
    shown = re.search(r"<!-- kernels:.*?-->\n(.*?)<!-- end -->", README, re.S)
    assert shown is not None
    assert shown[1] == coverage_table(), "run python -m tritonconv.testing.coverage"
    assert list(dict.fromkeys(re.findall(r"^\| `(\w+)`", shown[1], re.M))) == [
        v.name for v in VARIANTS
    ]


def test_readme_shows_where_torchs_norms_are_wrong():
    shown = re.search(r"<!-- norm pooling:.*?-->\n(.*?)<!-- end -->", README, re.S)
    assert shown is not None
    version = re.match(r"\| input \| torch (\S+) ", shown[1])
    assert version is not None
    now = norm_pooling_table()
    if version[1] == torch_version():
        assert shown[1] == now, "run python -m tritonconv.testing.norm_pooling"
    else:  # another torch may fail on fewer inputs, or answer otherwise
        assert now.startswith(f"| input | torch {torch_version()} | tritonconv | right |\n")
        assert now.count("\n") == 2 + len(wrong_in_torch())
        assert all(is_right(entry, ours_of(entry)) for entry in wrong_in_torch())


def test_readme_shows_the_verbs_of_the_tuner():
    shown = re.search(r"<!-- help:.*?-->\n```\n\$ .*? --help\n(.*?)```\n<!-- end -->", README, re.S)
    assert shown is not None
    context = cli.make_context("tritonconv-autotune", [], resilient_parsing=True, terminal_width=78)
    assert shown[1] == context.get_help() + "\n", "run python -m autotune --help"


def test_snippet_of_the_readme_runs(aten_path):
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    # The same lines at a size that takes milliseconds.
    small = code[1].replace("(8, 64, 56, 56)", "(1, 2, 8, 8)").replace("128, 64,", "4, 2,")
    small = small.replace("randn(128)", "randn(4)").replace("18, 18", "2, 2")
    scope: dict = {"print": lambda *_: None}
    exec(small, scope)
    assert scope["y"].shape == (1, 4, 4, 4) and scope["z"].shape == (1, 2, 20, 20)
    assert isinstance(scope["tritonconv"], type(tritonconv)) and torch.is_tensor(scope["y"])


def test_version_is_one_number():
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{tritonconv.__version__}"' in project
    assert f"## {tritonconv.__version__}" in (ROOT / "CHANGELOG.md").read_text()
