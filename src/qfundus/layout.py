"""Where the parts of a checkout lie, for the embedded platform and the command line."""

import os
from pathlib import Path


def checkout() -> Path:
    """Return the folder of the checkout, `QFUNDUS_CHECKOUT` or where this package is installed from."""
    return Path(os.environ.get("QFUNDUS_CHECKOUT", Path(__file__).parents[2])).resolve()


def policy_file() -> Path:
    """Return the de-identification policy."""
    return checkout() / "configs" / "deidentify.yaml"


def recipe_file(name: str) -> Path:
    """Return a recipe by its name."""
    return checkout() / "configs" / "recipes" / f"{name}.yaml"


def network_recipes() -> Path:
    """Return the folder of recipes for networks on photographs."""
    return checkout() / "configs" / "recipes" / "networks"


def feature_repo() -> Path:
    """Return the folder of Feast definitions."""
    return checkout() / "feature_repo"
