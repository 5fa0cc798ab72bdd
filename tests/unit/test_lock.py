import re
import tomllib

from qfundus.layout import checkout


def test_the_lock_is_the_same_with_and_without_local_wheels():
    lock = (checkout() / "requirements" / "qfundus.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    assert ("torch", "2.13.0") in pins
    assert not [name for name, version in pins if name.startswith(("nvidia", "cuda")) or "+" in version]
    assert "find-links" not in lock


def test_every_direct_dependency_is_locked():
    lock = (checkout() / "requirements" / "qfundus.lock").read_text()
    project = tomllib.loads((checkout() / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert len(named) > 30
    extras = project["optional-dependencies"]
    named = [requirement for requirement in named if not requirement.startswith("qfundus[")]
    named += [requirement for name in extras if name != "dev" for requirement in extras[name]]
    for requirement in named:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^{name}(\[.*\])?==", lock, re.MULTILINE), name
