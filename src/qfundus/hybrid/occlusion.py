"""Where on the disc grades come from, without showing anybody's eye.

Parts of the disc are covered, one after the other, and the told grade's probability is asked for again: occlusion
sensitivity (M. Zeiler and R. Fergus, arXiv 1311.2901). It needs no gradient, so it is the served graph itself that is
asked, and it is averaged over eyes: a report outlives a photograph that must be forgotten.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from qfundus.imaging.normalise import SIDE
from qfundus.onnx_export import open_session

PARTS = 7  # a side: small enough for the optic disc, large enough to be missed
_AT_ONCE = 16  # covered discs in one call
_PART = SIDE // PARTS


def choose_eyes(probabilities: np.ndarray, most: int) -> np.ndarray:
    """Return the rows of the surest eyes of each told grade, `most` of a grade, of probabilities `(eyes, 5)`."""
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    told = probabilities[surest].argmax(axis=1)
    chosen = [surest[told == grade][:most] for grade in range(probabilities.shape[1])]
    return np.concatenate(chosen)


def map_occlusion(
    graph: Path, discs: Iterable[np.ndarray | None], grades: Iterable[int], left: Iterable[bool]
) -> dict[str, dict[str, object]]:
    """Average over eyes by how much the told grade's probability falls when a part of the disc is covered.

    `discs` are `(224, 224, 3)` of uint8, None for one that cannot be had; left eyes are mirrored onto right ones.
    Returns by grade how many `eyes` there were and the `fall` `(7, 7)`.
    """
    session = open_session(graph)
    falls: dict[int, list[np.ndarray]] = {}
    for disc, grade, mirrored in zip(discs, grades, left, strict=True):
        if disc is not None:
            fall = _cover_parts(session, disc, int(grade))
            falls.setdefault(int(grade), []).append(fall[:, ::-1] if mirrored else fall)
    return {
        str(grade): {"eyes": len(found), "fall": np.mean(found, axis=0).tolist()}
        for grade, found in sorted(falls.items())
    }


def _cover_parts(session: onnxruntime.InferenceSession, disc: np.ndarray, grade: int) -> np.ndarray:
    from captum.attr import FeatureAblation

    colour = np.rint(disc.mean(axis=(0, 1))).astype(np.uint8)  # the disc's own

    def grade_covered(seen: torch.Tensor) -> torch.Tensor:
        # Of parts `(batch, 7, 7)`, not of pixels: captum handles three thousand times less.
        shown = seen.bool().numpy().repeat(_PART, axis=1).repeat(_PART, axis=2)[..., None]
        told = session.run(["probabilities"], {"image": np.where(shown, disc, colour)})[0]
        return torch.from_numpy(np.asarray(told))

    everything = torch.ones(1, PARTS, PARTS)
    fall = FeatureAblation(grade_covered).attribute(everything, target=grade, perturbations_per_eval=_AT_ONCE)
    return fall[0].numpy()
