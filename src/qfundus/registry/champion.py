"""Ask the version in service for its predictions, to compare a candidate with."""

import tempfile
from pathlib import Path

import numpy as np

from qfundus.errors import SetupError
from qfundus.features.photographs import grade_photographs
from qfundus.features.snapshot import Split
from qfundus.hybrid.grader_files import HEAD_FILE
from qfundus.onnx_graphs.run import GRADER_FILE, grade_embeddings
from qfundus.registry.versions import download_file, has_file
from qfundus.site import Site


def grade_by_version(site: Site, version: str, eyes: Split) -> np.ndarray:
    """Return a version's probabilities `(eyes, 5)`: of stored embeddings, or of photographs if it has no head.

    Raises:
        SetupError: if a photograph that is needed was erased meanwhile.
    """
    with tempfile.TemporaryDirectory() as folder:
        if has_file(site.settings, version, HEAD_FILE):
            return grade_embeddings(download_file(site.settings, version, HEAD_FILE, Path(folder)), eyes.embeddings)
        graph = download_file(site.settings, version, GRADER_FILE, Path(folder))
        (probabilities,), present = grade_photographs(site, graph, eyes.rows["instance_digest"])
    if not present.all():
        raise SetupError(
            f"{(~present).sum()} photographs of the test split were erased meanwhile: start the retraining again."
        )
    return probabilities
