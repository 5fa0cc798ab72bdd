"""Train the classical form."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_classical(
    recipe: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    figures: dsl.Output[dsl.Metrics],
):
    """Train the classical head on the embedding, or networks on the photographs, as the recipe says.

    Args:
        recipe: What to train, as JSON.
        dataset: The snapshot.
        model: The head's weights and its part of the recipe; or a folder with the networks' grader.
        figures: Losses, epochs, seconds and the number of parameters.
    """
    from qfundus.steps import train_classical as step

    figures.metadata.update(step.train_classical(recipe, dataset.path, model.path, figures.path))
