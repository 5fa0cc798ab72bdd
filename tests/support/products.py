"""Full products of settings: one of each pair runs every time, all of them under `make test-all`."""

import pytest


def product(*values):
    """Mark one of several parameters that only `make test-all` tries: another value takes the same path."""
    return pytest.param(*values, marks=pytest.mark.product)
