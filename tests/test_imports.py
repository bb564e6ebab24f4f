"""Who may import whom (docs of the house: the design's arrows), read from the sources and seen in a subprocess."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxgpt

PACKAGE = Path(onnxgpt.__file__).parent
HEAVY = {"torch", "onnx", "onnxscript", "onnx_ir", "transformers", "safetensors", "gguf", "huggingface_hub"}
RUNTIME_MAY_IMPORT = {"numpy", "onnxruntime", "tokenizers", "minijinja"}
PARTS = ("models", "export", "graphs", "runtime", "quantize", "doctor", "cli")


def modules(part: str) -> list[Path]:
    """The source files of a folder or of a top-level module."""
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Every module that a source file imports, by absolute name."""
    relative = path.relative_to(PACKAGE).with_suffix("")
    package = ["onnxgpt", *relative.parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _reached(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _reached(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import: not the bodies of functions, nor what only a type checker sees."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def siblings_of(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "onnxgpt" and len(name) > 1} & {*PARTS}


def outsiders_of(path: Path, **how: bool) -> set[str]:
    tops = {name.split(".")[0] for name in imports(path, **how)}
    return tops - set(sys.stdlib_module_names) - {"onnxgpt", "__future__"}


@pytest.mark.parametrize("path", modules("runtime"), ids=lambda path: path.name)
def test_runtime_knows_nothing_of_the_rest(path: Path) -> None:
    assert siblings_of(path) <= {"runtime"}
    assert outsiders_of(path) <= RUNTIME_MAY_IMPORT


def test_only_the_engine_imports_onnxruntime() -> None:
    having = {path.name for path in modules("runtime") if "onnxruntime" in outsiders_of(path)}

    assert having == {"engine.py"}


def test_models_uses_of_the_runtime_only_its_errors_and_formats() -> None:
    for path in modules("models"):
        of_runtime = {name for name in imports(path) if name.startswith("onnxgpt.runtime")}

        assert siblings_of(path) <= {"models", "runtime"}, path
        assert all(name.startswith("onnxgpt.runtime.errors") for name in of_runtime), (path, of_runtime)


def test_export_uses_models_graphs_and_runtime_and_of_quantize_only_the_blocks() -> None:
    for path in modules("export"):
        of_quantize = {name for name in imports(path) if name.startswith("onnxgpt.quantize")}

        assert siblings_of(path) <= {"export", "graphs", "models", "quantize", "runtime"}, path
        assert all(name.startswith("onnxgpt.quantize.blocks") for name in of_quantize), (path, of_quantize)


@pytest.mark.parametrize("part", ["graphs", "quantize"])
def test_quantizing_knows_no_torch(part: str) -> None:
    for path in modules(part):
        assert siblings_of(path) <= {"graphs", "quantize", "runtime"}, path
        assert outsiders_of(path) <= {"numpy", "onnx", "onnx_ir", "matplotlib"}, path


@pytest.mark.parametrize("part", ["models/__init__", "models/catalog", "export/__init__", "export/passes", "__init__"])
def test_these_modules_load_no_torch(part: str) -> None:
    for path in modules(part):
        assert "torch" not in outsiders_of(path, top_level_only=True), path


def test_doctor_runs_where_anything_may_be_missing() -> None:
    for path in modules("doctor"):
        top_level = outsiders_of(path, top_level_only=True)

        assert siblings_of(path) <= {"doctor", "graphs", "models", "runtime"}, path
        assert outsiders_of(path) <= {"numpy", "onnx_ir"}, path
        assert path.stem in ("products", "product_graph") or not top_level, path


def test_the_families_are_told_where_pytorch_is_not_installed() -> None:
    loaded = loaded_modules("from onnxgpt.models.families import FAMILIES; assert len(FAMILIES) > 10")

    assert not loaded & HEAVY


def test_nothing_imports_the_command_line() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in ("models", "export", "graphs", "runtime", "quantize", "doctor"):
            assert "cli" not in siblings_of(path), path
            assert "click" not in outsiders_of(path), path


def test_the_command_line_loads_no_heavy_module_until_a_command_needs_it() -> None:
    for name in ("__init__", "__main__", "cli", "cli_options", "terminal", "loading"):
        path = PACKAGE / f"{name}.py"
        reached = {module.split(".")[0] for module in imports(path, top_level_only=True)}

        assert not reached & (HEAVY | {"onnxruntime", "numpy", "rich"}), path


def loaded_modules(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `program`."""
    ending = "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_onnxgpt_loads_nothing() -> None:
    loaded = loaded_modules("import onnxgpt; onnxgpt.__version__; dir(onnxgpt)")

    assert not loaded & (HEAVY | RUNTIME_MAY_IMPORT | {"click", "rich"})


def test_loading_and_generating_imports_only_the_runtime_s_own_dependencies() -> None:
    before = loaded_modules(
        "import numpy, tokenizers, os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime"
    )
    loaded = loaded_modules(
        "import onnxgpt\n"
        "model = onnxgpt.load('fairytale')\n"
        "assert model.generate('Once upon a time', max_new_tokens=4)[0].token_ids\n"
        "assert model.score('Once upon a time')\n"
    )

    assert not loaded & (HEAVY | {"click", "rich"})
    assert {"numpy", "onnxruntime", "tokenizers"} <= loaded
    assert loaded - before - set(sys.stdlib_module_names) <= {"onnxgpt", "minijinja"}


def test_every_public_name_is_there() -> None:
    assert sorted(onnxgpt.__all__) == onnxgpt.__all__
    for name in onnxgpt.__all__:
        assert getattr(onnxgpt, name) is not None

    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        onnxgpt.genrate  # noqa: B018
