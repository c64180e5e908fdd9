"""Who may import whom, read from the imports themselves."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tritonconv"

# Every layer, and all that it may import: what it does import, and nothing to spare.
ALLOWED = {
    "provider": {
        "checks",
        "device",
        "epilogue",
        "explain",
        "functional",
        "gemm_view",
        "launch",
        "ops",
        "planning",
        "pool_problem",
        "pooling",
        "problem",
        "reference",
        "testing",
        "tuning",
        "variants",
    },
    "nn": {"checks", "errors"},
    "functional": {
        "arguments",
        "checks",
        "conv_pool",
        "errors",
        "ops",
        "pool_problem",
        "reference",
    },
    "explain": {"launch", "ops", "pool_problem", "problem"},
    "ops": {
        "checks",
        "conv_pool",
        "conv_pool_planning",
        "epilogue",
        "errors",
        "launch",
        "layout",
        "planning",
        "pool_problem",
        "pooling",
        "problem",
        "reference",
        "separable",
    },
    "pooling": {"device", "errors", "kernels", "launch", "pool_problem", "tuning", "variants"},
    "separable": {"checks", "device", "errors", "kernels", "launch", "problem", "variants"},
    "conv_pool_planning": {
        "conv_pool",
        "device",
        "gemm_view",
        "kernels",
        "launch",
        "problem",
        "variants",
    },
    "conv_pool": {"checks", "epilogue", "errors", "layout", "problem"},
    "planning": {"device", "errors", "launch", "problem", "tuning", "variants"},
    "tuning": {"device", "epilogue", "launch", "layout", "pool_problem", "problem"},
    "variants": {"device", "gemm_view", "kernels", "launch", "problem"},
    "launch": {"compiled"},
    "compiled": {"kernels"},
    "gemm_view": {"problem"},
    "device": set(),
    "arguments": {"errors"},
    "pool_problem": {"checks", "errors", "layout", "problem"},
    "problem": {"checks", "epilogue", "errors", "layout"},
    "epilogue": {"checks", "errors"},
    "checks": {"errors"},
    "layout": set(),
    "errors": set(),
    "kernels": set(),
    "reference": {"epilogue", "layout", "pool_problem", "problem"},
}


# Of autotune: what times a launch on a GPU, asks the other ranks, and makes a model's inputs.
MAY_USE = {"cuda.py": {"torch"}, "distributed.py": {"torch"}, "sources.py": {"torch"}}


def imports(path: Path) -> set[str]:
    """Absolute dotted names of every import in a file."""
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *((node.module or "").split(".") if node.module else ()))
            names |= {".".join((*module, alias.name)) for alias in node.names}
    return names


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_each_layer_imports_only_lower_ones():
    found: dict[str, set[str]] = {}
    for path in files(PACKAGE):
        if layer(path) not in ALLOWED:
            continue
        used = found.setdefault(layer(path), set())
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "tritonconv" and len(parts) > 1 and parts[1] != layer(path):
                assert parts[1] in ALLOWED[layer(path)], f"{path.name} imports {name}"
                used.add(parts[1])
    assert found == ALLOWED, "a layer may import what it no longer does"


def test_no_layer_imports_itself_through_others():
    left = {name: set(below) for name, below in ALLOWED.items()}
    while left:
        lowest = [name for name, below in left.items() if not below & set(left)]
        assert lowest, f"a circle among {sorted(left)}"
        for name in lowest:
            del left[name]


def test_kernels_import_triton_alone():
    for path in files(PACKAGE / "kernels"):
        outside = {n.split(".")[0] for n in imports(path)} - {"triton", "tritonconv", "inspect"}
        assert not outside, f"{path.name} imports {outside}"


def test_only_variants_import_kernels():
    planners = {"compiled", "conv_pool_planning", "kernels", "pooling", "separable", "variants"}
    for path in files(PACKAGE):
        if layer(path) not in planners:
            assert not any("tritonconv.kernels" in n for n in imports(path)), path


def test_the_textbook_oracle_shares_nothing():
    for name in ("textbook", "matrix", "pooling", "pooling_gradients", "pooling_channels"):
        found = {n for n in imports(PACKAGE / "reference" / f"{name}.py") if "tritonconv" in n}
        assert all(n.startswith("tritonconv.reference") for n in found), found


def test_autotune_knows_nothing_of_convolution():
    for path in files(ROOT / "autotune"):
        outside = {n.split(".")[0] for n in imports(path)} & {"tritonconv", "torch", "triton"}
        assert outside <= MAY_USE.get(path.name, set()), f"{path.name} imports {outside}"
