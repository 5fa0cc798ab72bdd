"""Record the retraining and register its candidate."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register_candidate(
    recipe: str,
    as_of: str,
    champion: str,
    verdict: str,
    grader: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.HTML],
    classical_figures: dsl.Input[dsl.Metrics],
    quantum_figures: dsl.Input[dsl.Metrics],
) -> str:
    """Record the retraining in MLflow; return the registered version, empty where the gate refused it.

    Args:
        recipe: What was trained, as JSON.
        as_of: The snapshot's moment.
        champion: The version it was compared with.
        verdict: The gate's verdict, as JSON.
        grader: The candidate.
        report: The page for the person who is to approve.
        classical_figures: How the classical head trained.
        quantum_figures: How the quantum head trained.
    """
    from qfundus.steps import register_candidate as step

    trained = {"classical": classical_figures.metadata, "quantum": quantum_figures.metadata}
    return step.register_candidate(recipe, as_of, champion, verdict, grader.path, report.path, trained)
