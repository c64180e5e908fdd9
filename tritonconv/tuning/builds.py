"""What a measurement is true of: the source that a kernel is made from, and Triton's version."""

import ast
import hashlib
from functools import cache
from pathlib import Path

import triton

from autotune import Candidate
from autotune.task import Build

PACKAGE = Path(__file__).parent.parent
# What plans the launches of the variants that are no file of `variants/`.
PLANNERS = {
    "window_reduce": "pooling",
    "window_spread": "pooling",
}


def build_of(candidate: Candidate) -> Build:
    """The build of a candidate's kernels here and now."""
    version = ".".join(triton.__version__.split(".")[:2])
    return Build(source_hash(candidate.variant), version)


@cache
def source_hash(variant: str) -> str:
    """A hash of the variant's planning and of every kernel file that it reaches.

    Comments, docstrings, layout and line numbers do not count: they change no code.
    """
    start = PACKAGE / "variants" / f"{variant}.py"
    if variant in PLANNERS:
        start = PACKAGE / f"{PLANNERS[variant]}.py"
    if not start.exists():
        return "unknown"
    found: dict[str, str] = {}
    waiting = [start]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(PACKAGE).as_posix()
        if name in found:
            continue
        tree = ast.parse(path.read_text())
        found[name] = _code(tree)
        waiting += _kernels(tree, path)
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(found):
        digest.update(f"{name}\n{found[name]}\n".encode())
    return digest.hexdigest()


def _kernels(tree: ast.Module, path: Path) -> list[Path]:
    """The files of `kernels/` and `variants/` that a file imports."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        target = folder.joinpath(*(node.module or "").split("."))
        names = [target.with_suffix(".py"), *(target / f"{a.name}.py" for a in node.names)]
        own = ("kernels", "variants")
        found += [p for p in names if p.parent.name in own and p.exists()]
    return found


def _code(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[0] = ast.Pass()
    return ast.dump(tree, include_attributes=False)
