"""Snapshot the training set."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def snapshot_dataset(recipe: str, as_of: str, dataset: dsl.Output[dsl.Dataset]):
    """Join every graded eye with what was known of it at one moment, each patient in one split.

    Args:
        recipe: What to train, as JSON.
        as_of: The moment, in ISO 8601.
        dataset: One row for each eye and visit, as Parquet.
    """
    from qfundus.steps import snapshot_dataset as step

    dataset.metadata.update(step.snapshot_dataset(recipe, as_of, dataset.path))
