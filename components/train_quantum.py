"""Train the quantum head."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_quantum(
    recipe: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    figures: dsl.Output[dsl.Metrics],
):
    """Train the quantum circuit on a projection of the embedding, with exact gradients.

    Args:
        recipe: What to train, as JSON.
        dataset: The snapshot.
        model: The head's weights and its part of the recipe.
        figures: Losses, epochs, seconds and the number of parameters.
    """
    from qfundus.steps import train_quantum as step

    figures.metadata.update(step.train_quantum(recipe, dataset.path, model.path, figures.path))
