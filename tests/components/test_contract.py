"""Every file in components/ is one step, found by looking: there is no list to edit."""

import ast
import importlib

import pytest

from qfundus.layout import checkout

FILES = sorted(file for file in (checkout() / "components").glob("*.py") if file.stem != "__init__")


def load(file):
    return getattr(importlib.import_module(f"components.{file.stem}"), file.stem)


def test_there_are_components():
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_component_is_named_like_its_file_and_described(file):
    component = load(file)
    assert component.name == file.stem.replace("_", "-")
    assert component.description
    documented = component.python_func.__doc__
    for name in (*component.component_spec.inputs, *(component.component_spec.outputs or ())):
        assert name == "Output" or f"{name}:" in documented, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_component_installs_nothing_and_runs_in_the_image(file):
    container = load(file).component_spec.implementation.container
    assert container.image.startswith("qfundus/pipeline:")
    assert "pip" not in " ".join(container.command)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_component_makes_one_call_into_qfundus_and_no_more(file):
    [function] = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    calls = [
        node.func.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "step"
    ]
    assert calls == [file.stem]
    assert not [node for node in ast.walk(function) if isinstance(node, ast.If | ast.For | ast.While | ast.Try)]
