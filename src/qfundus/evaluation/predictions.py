"""The table of predictions: what each form of the grader says of the test split's eyes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from qfundus.grades import GRADES

FORMS = ("classical", "quantum", "hybrid")


@dataclass(frozen=True)
class Predictions:
    """Probabilities `(eyes, 5)` by form, beside what is known of each eye, a row each.

    `eyes` has the columns `eye_id`, `study_id`, `patient_id` and `grade`.
    """

    eyes: pd.DataFrame
    by_form: dict[str, np.ndarray]

    @property
    def hybrid(self) -> np.ndarray:
        """The hybrid's probabilities, `(eyes, 5)`."""
        return self.by_form["hybrid"]

    @property
    def grades(self) -> np.ndarray:
        """The grades that people gave, `(eyes,)`."""
        return self.eyes["grade"].to_numpy(np.int64)

    @property
    def patients(self) -> np.ndarray:
        """The patients' pseudonyms, `(eyes,)`."""
        return self.eyes["patient_id"].to_numpy(str)

    def only(self, chosen: np.ndarray) -> "Predictions":
        """Return the eyes where `chosen` `(eyes,)` is true."""
        eyes = self.eyes.loc[chosen].reset_index(drop=True)
        return Predictions(eyes, {form: probabilities[chosen] for form, probabilities in self.by_form.items()})

    def write(self, path: Path) -> None:
        """Write the table as Parquet: a column for each form and grade, such as `hybrid_3`."""
        columns = {_column(form, grade): self.by_form[form][:, grade] for form in FORMS for grade in range(GRADES)}
        self.eyes.drop(columns="instance_digest", errors="ignore").assign(**columns).to_parquet(path, index=False)


def read_predictions(path: Path) -> Predictions:
    """Read what `Predictions.write` wrote."""
    table = pd.read_parquet(path)
    names = {form: [_column(form, grade) for grade in range(GRADES)] for form in FORMS}
    by_form = {form: table[columns].to_numpy() for form, columns in names.items()}
    return Predictions(table.drop(columns=[column for columns in names.values() for column in columns]), by_form)


def _column(form: str, grade: int) -> str:
    return f"{form}_{grade}"
