"""The recipe of the nightly retraining: what to train, how to measure it, and what the gate asks of it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from qfundus.recipes.network import ImageFormat, NetworkRecipe, find_network_recipe
from qfundus.recipes.reading import LARGEST_SEED, Section, Training, read_settings, validate

# What Triton is sent: a network of the nightly retraining is trained on the same.
SERVED_IMAGES = ImageFormat(side=224, preparation=("disc",))


class Splits(Section):
    """Shares of the patients."""

    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _add_up_to_one(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("The splits must add up to 1: change train, validation or test.")
        return self


class ClassicalHeadRecipe(Training):
    """The classical head on the embedding."""

    hidden: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)


class QuantumHeadRecipe(Training):
    """The quantum circuit on a projection of the embedding."""

    features: int = Field(gt=0, le=1280)
    ansatz: Literal["chain", "ring", "brick", "all_to_all", "reupload", "real_amplitudes", "zz_feature_map"] = "chain"
    qubits: int = Field(ge=1)
    layers: int = Field(gt=0)
    method: Literal["auto", "state_vector", "tensor_network"] = "auto"

    @model_validator(mode="after")
    def _fit_the_simulator(self) -> Self:
        if self.ansatz == "zz_feature_map" and self.qubits < 2:
            raise ValueError("The circuit zz_feature_map joins pairs of qubits: use two `qubits` or more, or chain.")
        if self.ansatz in ("all_to_all", "zz_feature_map") and self.qubits > 26:
            raise ValueError(
                f"The circuit {self.ansatz} can be simulated up to 26 qubits: lower `qubits`, or use chain."
            )
        return self


class EvaluationRecipe(Section):
    """How to measure; `explained` eyes of each predicted grade show where on the disc that grade comes from."""

    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    specificity: float = Field(gt=0, lt=1)
    explained: int = Field(default=4, ge=0)


class GateRecipe(Section):
    """What a candidate must show; both bounds hold for the lower end of the confidence interval.

    `margin` is by how much its quadratic weighted kappa may be worse than the champion's, `floor` is the least kappa
    that it must have by itself.
    """

    margin: float = Field(ge=0)
    floor: float = Field(ge=-1, le=1)


class ServingRecipe(Section):
    """How the grader is served: as int8 only if accuracy and kappa drop by at most `max_drop`.

    The drop is measured on the test split, at the upper end of its confidence interval. `referral_rate` is the share of
    the validation split's eyes, the least certain ones, that the grader refers to a person.
    """

    form: Literal["float32", "int8"] = "float32"
    max_drop: float = Field(default=0.05, ge=0)
    referral_rate: float = Field(default=0.1, ge=0, lt=1)


def _classical_form(settings: Any) -> str:
    """Tell which form of the classical part is meant."""
    keys: Any = settings if isinstance(settings, dict) else getattr(settings, "__dict__", {})
    return "(network)" if keys.keys() & {"network", "images", "pictures"} else "(head)"


class NightlyRecipe(Section):
    """Everything that decides what is trained and how it is judged.

    `classical` is a head on the embedding, or a whole network on photographs. In a YAML file the network is written
    out, or named: then it is a recipe in the folder `networks/` beside the file.
    """

    name: str
    seed: int = Field(ge=0, le=LARGEST_SEED)
    splits: Splits
    classical: Annotated[
        Annotated[ClassicalHeadRecipe, Tag("(head)")] | Annotated[NetworkRecipe, Tag("(network)")],
        Discriminator(_classical_form),
    ]
    quantum: QuantumHeadRecipe
    evaluation: EvaluationRecipe
    gate: GateRecipe
    serving: ServingRecipe = ServingRecipe()

    @model_validator(mode="after")
    def _train_on_what_is_served(self) -> Self:
        if isinstance(self.classical, NetworkRecipe) and self.classical.images != SERVED_IMAGES:
            raise ValueError(
                f"The network {self.classical.name} must be trained on what is served: "
                f"set its `images` to {{side: {SERVED_IMAGES.side}, preparation: [disc]}}."
            )
        return self

    @classmethod
    def from_json(cls, text: str) -> "NightlyRecipe":
        """Read a recipe as it travels between pipeline steps."""
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        """Write the recipe for travel, always in the same way, so that a cache recognises it."""
        return json.dumps(self.model_dump(), sort_keys=True)


def load_nightly_recipe(path: Path, networks: Path | None = None) -> NightlyRecipe:
    """Read a recipe of the nightly retraining from YAML.

    `networks` is the folder of network recipes, `networks/` beside the file unless given.

    Raises:
        SetupError: naming the setting and the remedy.
    """
    settings = read_settings(path)
    if isinstance(settings.get("classical"), str):
        settings["classical"] = find_network_recipe(settings["classical"], networks or path.parent / "networks")
    return validate(NightlyRecipe, settings, path)
