"""Which photographs a network is trained on, and which are held out from it."""

import warnings

import numpy as np
import structlog

from qfundus.classical.shards import ShardTable
from qfundus.errors import SetupError
from qfundus.grades import GRADES

_log = structlog.get_logger()
_HELD = ("val", "validation")
_ALONE_HELD = 8  # without a split of its own, every eighth photograph is held out from a single network


def split_fold(table: ShardTable, folds: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows held out; a patient's photographs stay together where it is known whose.

    The test split is in neither. The folds hold out a share each, together everything once.

    Raises:
        SetupError: if there is too little to divide, all is of one grade, or a patient is in two splits.
    """
    rows = np.flatnonzero(table.splits != "test")
    _check_grades(table.grades[rows])
    given = np.isin(table.splits, _HELD)
    _check_patients(table, np.where(table.splits == "test", 2, given & (folds == 1)))
    if folds == 1 and given.any():
        trained = np.flatnonzero(~given & (table.splits != "test"))
        if not len(trained):
            raise SetupError(
                "All photographs are of the validation split: give a train split, or set `grading.folds: 2`."
            )
        _check_grades(table.grades[trained])
        return trained, np.flatnonzero(given)
    parts = _fold(table, rows, folds if folds > 1 else _ALONE_HELD)
    trained = rows[parts != fold]
    _check_grades(table.grades[trained])
    return trained, rows[parts == fold]


def warn_of_gaps(table: ShardTable) -> None:
    """Say of which grades there is nothing to learn from."""
    present = set(table.grades[table.splits != "test"].tolist())
    for grade in sorted(set(range(GRADES)) - present):
        _log.warning("No photograph has this grade: the grader will hardly ever predict it", grade=grade)


def _fold(table: ShardTable, rows: np.ndarray, parts: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    patients = np.where(table.patients == "", table.names, table.patients)[rows]
    commonest = np.bincount(table.grades[rows]).max()
    if min(len(np.unique(patients)), commonest) < parts:
        raise SetupError(
            f"{len(rows)} photographs, {commonest} of the commonest grade, cannot be held out in {parts} parts: "
            "give more, name a validation split and set `grading.folds` to 1, or lower it."
        )
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
    part_of = np.zeros(len(rows), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a grade may be rarer than there are parts: what there is is divided
        for part, (_, held) in enumerate(folds.split(rows, table.grades[rows], patients)):
            part_of[held] = part
    return part_of


def _check_patients(table: ShardTable, parts: np.ndarray) -> None:
    """Refuse a patient with photographs in two `parts` `(photographs,)`: what is measured would be known already."""
    known = table.patients != ""
    pairs = np.unique(np.stack([np.unique(table.patients[known], return_inverse=True)[1], parts[known]]), axis=1)
    if both := int((np.bincount(pairs[0]) > 1).sum()):
        raise SetupError(
            f"{both} patient{'s have' if both > 1 else ' has'} photographs in more than one split: put all of a "
            "patient's into one."
        )


def _check_grades(grades: np.ndarray) -> None:
    if not len(grades):
        raise SetupError("No photographs to train on: those of the test split are left out.")
    present = np.unique(grades)
    if len(present) < 2:
        raise SetupError(
            f"All {len(grades)} photographs to train on are of grade {present[0]}: a grader needs two grades at least."
        )
