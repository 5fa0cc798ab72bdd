"""Compile every pipeline to the YAML that Kubeflow takes."""

from pathlib import Path

from kfp import compiler

from pipelines.retraining import retraining

PIPELINES = {"retraining": retraining}
COMPILED = Path(__file__).parent / "compiled"


def compiled_file(name: str) -> Path:
    """Return where a compiled pipeline lies."""
    return COMPILED / f"{name}.yaml"


def compile_all() -> None:
    """Compile every pipeline."""
    COMPILED.mkdir(exist_ok=True)
    for name, pipeline in PIPELINES.items():
        compiler.Compiler().compile(pipeline, str(compiled_file(name)))


if __name__ == "__main__":
    compile_all()
