"""The file services of the demo are examples/files.py itself, wherever this package runs from."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

_PACKAGE: Final = Path(__file__).parents[2]
#: In a wheel the examples are inside the package, in a checkout beside it.
_PLACES: Final = (_PACKAGE / "examples" / "files.py", _PACKAGE.parent / "examples" / "files.py")


def load_files() -> ModuleType:
    """Import the example.

    Raises:
        FileNotFoundError: the examples are missing from this installation.
    """
    path = next((place for place in _PLACES if place.is_file()), None)
    spec = path and importlib.util.spec_from_file_location("zmdp_demo_files", path)
    if not spec or not spec.loader:
        raise FileNotFoundError(f"the demo needs {_PLACES[0]}, which is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
