"""Feast, imported in half the time."""

from types import ModuleType
from typing import Any

import typeguard


def import_feast() -> ModuleType:
    """Import Feast without the run-time type checks of its own functions.

    Typeguard compiles each of them anew at import, which takes longer than all else that Feast does there; `python -O`
    would leave the checks out as well.
    """
    checked, typeguard.typechecked = typeguard.typechecked, _leave_as_it_is
    try:
        import feast
    finally:
        typeguard.typechecked = checked
    return feast


def _leave_as_it_is(target: Any = None, **_: Any) -> Any:
    return _leave_as_it_is if target is None else target
