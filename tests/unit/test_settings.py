import pytest

from qfundus.errors import SetupError
from qfundus.layout import checkout
from qfundus.settings import Settings, load_settings


def test_the_page_of_settings_lists_each():
    page = (checkout() / "docs" / "settings.md").read_text()
    assert [name for name in Settings.model_fields if f"{name.upper()}`" not in page] == []


def test_missing_settings_are_named_with_the_remedy(tmp_path, monkeypatch):
    for name in ("SITE_KEY", "S3_ENDPOINT"):
        monkeypatch.delenv(f"QFUNDUS_{name}", raising=False)
    monkeypatch.setenv("QFUNDUS_HOME", str(tmp_path))
    with pytest.raises(SetupError, match=r"QFUNDUS_SITE_KEY.*qfundus up"):
        load_settings()


def test_a_setting_of_training_that_does_not_exist_is_refused_with_the_nearest(monkeypatch):
    from qfundus.settings import load_training_settings

    monkeypatch.setenv("QFUNDUS_TRAINING_LAUNCHR", "trainjob")
    with pytest.raises(SetupError, match="Did you mean QFUNDUS_TRAINING_LAUNCHER"):
        load_training_settings()
    monkeypatch.delenv("QFUNDUS_TRAINING_LAUNCHR")
    monkeypatch.setenv("QFUNDUS_TRAINING_PROCESSES", "0")
    with pytest.raises(SetupError, match="QFUNDUS_TRAINING_PROCESSES: "):
        load_training_settings()
