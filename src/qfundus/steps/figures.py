"""Write the figures of a pipeline step as its artifact."""

import json
from pathlib import Path


def write_figures(path: str, figures: dict[str, float]) -> dict[str, float]:
    """Write figures as JSON, and return them.

    KFP's cache takes an artifact without a file for a lost one, and would run the step again.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(figures, indent=1, sort_keys=True))
    return figures
