"""Each layer imports only from those above it; the core does no I/O and reads no clock."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import zmdp_trio

ROOT = Path(zmdp_trio.__file__).parent
PACKAGE = ROOT.name
FILES = sorted(ROOT.rglob("*.py"))

#: What each layer may import of the package; the first name that fits a module is its layer.
SHELL = ("_errors", "_settings", "_wire", "_core", "_transport", "_engine")
LAYERS: dict[str, tuple[str, ...]] = {
    "_errors": (),
    "_settings": (),
    "_chance": (),
    "_wire": ("_errors", "_settings", "_wire"),
    "_core": ("_errors", "_settings", "_wire", "_core"),
    "_transport": ("_wire.frames", "_transport"),
    "_log": (),
    "_resolve": ("_chance",),
    "_engine": ("_settings", "_wire", "_core", "_transport", "_chance", "_log", "_resolve", "_engine"),
    "_names": ("_wire", "_chance"),
    "_nursery": (),
    "_payload": ("_errors", "_wire"),
    "_watchdog": (),
    "_arguments": SHELL,
    "_client": SHELL,
    "_stream": SHELL,
    "_broker": SHELL,
    "_worker": SHELL,
    "_service": SHELL,
    "_request": SHELL,
    "_handlers": SHELL,
    "_threads": SHELL,
    "_failures": SHELL,
    "_crew": SHELL,
    "_gateway": SHELL,
    "_rep": SHELL,
    # A broker's opposite: it shares nothing with ours but frames and sockets.
    "conformance": ("_errors", "_chance", "_wire", "_transport", "conformance"),
}
SHELLS = [name for name, allowed in LAYERS.items() if allowed is SHELL]
#: The shells know each other.
SHELL_PARTS = (*SHELLS, "_chance", "_names", "_nursery", "_payload", "_watchdog")


def module_name(file: Path) -> str:
    """Return a file's name in the package: `_core.link`; the empty name is the package itself."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(file: Path) -> Iterator[str]:
    """Yield what a file imports, wherever in it, by full names: `trio`, `zmdp_trio._core.link`."""
    package = [PACKAGE, *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                # `from ._wire import commands` imports a module, `from ._errors import Code` does not.
                full = f"{source}.{alias.name}"
                path = ROOT.parent.joinpath(*full.split("."))
                yield full if path.is_dir() or path.with_suffix(".py").exists() else source


def inside(file: Path) -> set[str]:
    """What a file imports of the package: `_core.link`."""
    return {name.removeprefix(PACKAGE).lstrip(".") for name in imports(file) if name.split(".")[0] == PACKAGE}


def outside(file: Path) -> set[str]:
    """What a file imports from elsewhere, by the names of the top packages."""
    return {top for name in imports(file) if (top := name.split(".")[0]) != PACKAGE}


def within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def files(*layers: str) -> list[Path]:
    return [file for file in FILES if any(within(module_name(file), layer) for layer in layers)]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", files(*LAYERS), ids=name_of)
def test_a_module_imports_only_from_the_layers_above_it(file: Path) -> None:
    layer = next(layer for layer in LAYERS if within(module_name(file), layer))
    allowed = LAYERS[layer] + (SHELL_PARTS if layer in SHELLS else ())
    assert {name for name in inside(file) if not any(within(name, each) for each in allowed)} == set()


def test_every_module_has_its_layer() -> None:
    known = (*LAYERS, "cli", "testing", "__main__")
    assert [name_of(file) for file in FILES if module_name(file) and not files_in(file, known)] == []


def files_in(file: Path, layers: tuple[str, ...]) -> bool:
    return any(within(module_name(file), layer) for layer in layers)


@pytest.mark.parametrize("file", files("_errors", "_settings", "_wire", "_core"), ids=name_of)
def test_the_core_does_no_io_and_reads_no_clock(file: Path) -> None:
    pure = {
        "__future__",
        "abc",
        "attrs",
        "bisect",
        "collections",
        "difflib",
        "enum",
        "hashlib",
        "heapq",
        "itertools",
        "math",
        "operator",
        "re",
        "msgspec",
        "semantic_version",
        "typing",
        "zlib",
    }
    assert outside(file) - pure == set()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_the_transport_for_zeromq_knows_zeromq(file: Path) -> None:
    assert "zmq" not in outside(file) or within(module_name(file), "_transport.zmq")


@pytest.mark.parametrize("file", files("_core", "_wire", "_payload", "_settings", "_errors"), ids=name_of)
def test_no_machine_calls_a_clock(file: Path) -> None:
    assert clock_calls(file) == []


@pytest.mark.parametrize("file", files(*SHELLS, "_chance", "_names", "_nursery", "_log"), ids=name_of)
def test_the_shells_leave_the_clock_to_the_engine(file: Path) -> None:
    assert clock_calls(file) == []
    assert not {"time", "datetime"} & outside(file)


def clock_calls(file: Path) -> list[str]:
    clocks = {"current_time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "now", "utcnow"}
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in clocks
    ]


@pytest.mark.parametrize("file", files("cli", "__main__"), ids=name_of)
def test_the_command_line_uses_the_public_package_alone(file: Path) -> None:
    assert {name for name in inside(file) if name and not within(name, "cli")} == set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and "." * node.level + (node.module or "") in (PACKAGE, "..", "..."):
            assert all(not alias.name.startswith("_") or alias.name == "__version__" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_the_plugin_beside_the_package_needs_pytest(file: Path) -> None:
    assert not {"pytest", "pytest_trio", "hypothesis"} & outside(file)


@pytest.mark.parametrize("file", [file for file in FILES if not files_in(file, ("testing",))], ids=name_of)
def test_the_product_does_without_its_harness(file: Path) -> None:
    assert not any(within(name, "testing") for name in inside(file))


def test_the_core_s_tests_know_no_trio() -> None:
    for file in (Path(__file__).parent / "core").rglob("*.py"):
        assert not {"trio", "anyio", "zmq", "time", "pytest_trio"} & {
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
