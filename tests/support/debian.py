"""Programs of Debian that some tests need: without them these tests are skipped, and fail in CI."""

import os
import shutil

import pytest

IN_CI = bool(os.environ.get("CI"))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not installed; in CI the test runs, and fails."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing) and not IN_CI, reason=f"not installed: {', '.join(missing)}")


def skip_without(found: object, what: str) -> None:
    """Skip the rest of a test where something is missing; in CI, fail."""
    if found:
        return
    if IN_CI:
        pytest.fail(f"{what} is missing, and CI must not skip this test")
    pytest.skip(f"{what} is missing")
