"""Feast, imported in a quarter of the time."""

import sys
from functools import cache
from types import ModuleType
from typing import Any

import typeguard


@cache
def import_feast() -> ModuleType:
    """Import Feast without the run-time type checks of its own functions, and without PyTorch.

    Typeguard compiles each function anew at import, which takes longer than all else that Feast does there; `python -O`
    would leave the checks out as well. PyTorch would serve only Feast's answers as tensors, which nobody asks for.
    """
    checked, typeguard.typechecked = typeguard.typechecked, _leave_as_it_is
    torch_is_hidden = "torch" not in sys.modules
    if torch_is_hidden:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  (to import it raises an ImportError)
    try:
        import feast
    finally:
        typeguard.typechecked = checked
        if torch_is_hidden:
            del sys.modules["torch"]
    return feast


def _leave_as_it_is(target: Any = None, **_: Any) -> Any:
    return _leave_as_it_is if target is None else target
