import pytest

from qfundus.errors import SetupError
from qfundus.settings import load_settings


def test_missing_settings_are_named_with_the_remedy(tmp_path, monkeypatch):
    for name in ("SITE_KEY", "S3_ENDPOINT"):
        monkeypatch.delenv(f"QFUNDUS_{name}", raising=False)
    monkeypatch.setenv("QFUNDUS_HOME", str(tmp_path))
    with pytest.raises(SetupError, match=r"QFUNDUS_SITE_KEY.*qfundus up"):
        load_settings()
