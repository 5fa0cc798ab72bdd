"""The gate."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def judge_candidate(
    recipe: str,
    champion: str,
    dataset: dsl.Input[dsl.Dataset],
    grader: dsl.Input[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Compare the candidate with the version in service on the same eyes; return the verdict as JSON.

    Args:
        recipe: What to train, as JSON.
        champion: The version in service, empty where there is none.
        dataset: The snapshot.
        grader: The candidate.
        report: A page for the person who is to approve.
    """
    from qfundus.steps import judge_candidate as step

    return step.judge_candidate(recipe, grader.path, champion, dataset.path, report.path)
