"""Where on the disc grades come from, without showing anybody's eye.

One part of the disc after the other is covered, and the drop in the predicted grade's probability is measured:
occlusion sensitivity (M. Zeiler and R. Fergus, arXiv 1311.2901). It needs no gradient, so the served graph itself is
measured, and it is averaged over eyes: a report outlives a photograph that must be erased.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from qfundus.imaging.normalise import SIDE
from qfundus.onnx_graphs.run import open_session

PARTS = 7  # a side: a part is about as large as the optic disc
_BATCH = 16  # covered discs in one call
_PART = SIDE // PARTS


def choose_eyes(probabilities: np.ndarray, most: int) -> np.ndarray:
    """Return the rows of the `most` surest eyes of each predicted grade, from probabilities `(eyes, 5)`."""
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    predicted = probabilities[surest].argmax(axis=1)
    chosen = [surest[predicted == grade][:most] for grade in range(probabilities.shape[1])]
    return np.concatenate(chosen)


def map_occlusion(
    graph: Path, discs: Iterable[np.ndarray | None], grades: Iterable[int], left: Iterable[bool]
) -> dict[str, dict[str, object]]:
    """Average over eyes by how much the predicted grade's probability drops when a part of the disc is covered.

    `discs` are `(224, 224, 3)` of uint8, None for one that was erased; left eyes are mirrored onto right ones.
    Returns by grade the number of `eyes` and the drop, `fall` `(7, 7)`.
    """
    session = open_session(graph)
    drops_by_grade: dict[int, list[np.ndarray]] = {}
    for disc, grade, mirrored in zip(discs, grades, left, strict=True):
        if disc is not None:
            drop = _cover_parts(session, disc, int(grade))
            drops_by_grade.setdefault(int(grade), []).append(drop[:, ::-1] if mirrored else drop)
    return {
        str(grade): {"eyes": len(drops), "fall": np.mean(drops, axis=0).tolist()}
        for grade, drops in sorted(drops_by_grade.items())
    }


def _cover_parts(session: onnxruntime.InferenceSession, disc: np.ndarray, grade: int) -> np.ndarray:
    from captum.attr import FeatureAblation

    colour = np.rint(disc.mean(axis=(0, 1))).astype(np.uint8)  # the disc's own

    def grade_covered(visible: torch.Tensor) -> torch.Tensor:
        # Of parts `(batch, 7, 7)`, not of pixels: captum handles three thousand times less.
        shown = visible.bool().numpy().repeat(_PART, axis=1).repeat(_PART, axis=2)[..., None]
        probabilities = session.run(["probabilities"], {"image": np.where(shown, disc, colour)})[0]
        return torch.from_numpy(np.asarray(probabilities))

    everything = torch.ones(1, PARTS, PARTS)
    drop = FeatureAblation(grade_covered).attribute(everything, target=grade, perturbations_per_eval=_BATCH)
    return drop[0].numpy()
