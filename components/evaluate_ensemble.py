"""Fit and measure the ensemble."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_ensemble(
    recipe: str,
    dataset: dsl.Input[dsl.Dataset],
    classical: dsl.Input[dsl.Model],
    quantum: dsl.Input[dsl.Model],
    grader: dsl.Output[dsl.Model],
    figures: dsl.Output[dsl.Metrics],
):
    """Mix both heads on the validation split, export the grader, and measure all three forms on the test split.

    Where the recipe asks for it and the gate bears what it costs, the grader is int8, and that is what is measured.

    Args:
        recipe: What to train, as JSON.
        dataset: The snapshot.
        classical: The classical head.
        quantum: The quantum head.
        grader: A folder with the ONNX graphs, the test split's predictions and a smoke test.
        figures: Every figure of every form with its confidence interval.
    """
    from qfundus.steps import evaluate_ensemble as step

    heads = classical.path, quantum.path
    figures.metadata.update(step.evaluate_ensemble(recipe, dataset.path, *heads, grader.path, figures.path))
