"""What to train: a recipe in YAML, read into types that refuse impossible combinations."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from qfundus.classical.recipe import NetworkRecipe, Pictures, find_recipe
from qfundus.imaging.normalise import SIDE
from qfundus.recipe_parts import LARGEST_SEED, Part, Training, read_recipe

# What Triton is sent: a network of the nightly retraining sees the same.
SERVED = Pictures(side=SIDE, preparation=("disc",))


class Splits(Part):
    """Shares of the patients."""

    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _fill_the_whole(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("The splits must add up to 1: change train, validation or test.")
        return self


class Classical(Training):
    """The classical network on the embedding."""

    hidden: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)


class Quantum(Training):
    """The quantum circuit on a projection of the embedding."""

    features: int = Field(gt=0, le=1280)
    ansatz: Literal["chain", "ring", "brick", "all_to_all", "reupload", "real_amplitudes", "zz_feature_map"] = "chain"
    qubits: int = Field(ge=1)
    layers: int = Field(gt=0)
    method: Literal["auto", "state_vector", "tensor_network"] = "auto"

    @model_validator(mode="after")
    def _fit_the_simulator(self) -> Self:
        if self.ansatz == "zz_feature_map" and self.qubits < 2:
            raise ValueError("The circuit zz_feature_map joins pairs of qubits: take two `qubits` or more, or chain.")
        if self.ansatz in ("all_to_all", "zz_feature_map") and self.qubits > 26:
            raise ValueError(
                f"The circuit {self.ansatz} can be simulated up to 26 qubits: lower `qubits`, or take chain."
            )
        return self


class Evaluation(Part):
    """How to measure; `explained` eyes of each grade are looked at to see where grades come from."""

    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    specificity: float = Field(gt=0, lt=1)
    explained: int = Field(default=4, ge=0)


class Gate(Part):
    """What a candidate must show."""

    margin: float = Field(ge=0)
    floor: float = Field(ge=-1, le=1)


class Serving(Part):
    """How the grader is served: in whole numbers of 8 bits only where that costs `most_lost` at most.

    That is of accuracy and of kappa on the test split, to the end of the interval. `referred` is the share of the
    validation split's eyes, the least certain ones, of which the grader says that a person should look.
    """

    form: Literal["float32", "int8"] = "float32"
    most_lost: float = Field(default=0.05, ge=0)
    referred: float = Field(default=0.1, ge=0, lt=1)


def _form(said: Any) -> str:
    """Tell which form of the classical part is meant."""
    keys: Any = said if isinstance(said, dict) else getattr(said, "__dict__", {})
    return "(network)" if "network" in keys or "pictures" in keys else "(head)"


class Recipe(Part):
    """Everything that decides what is trained and how it is judged.

    `classical` is a head on the embedding, or a whole network on photographs: then it is given by its name in
    configs/recipes/networks/, or written out as there.
    """

    name: str
    seed: int = Field(ge=0, le=LARGEST_SEED)
    splits: Splits
    classical: Annotated[
        Annotated[Classical, Tag("(head)")] | Annotated[NetworkRecipe, Tag("(network)")], Discriminator(_form)
    ]
    quantum: Quantum
    evaluation: Evaluation
    gate: Gate
    serving: Serving = Serving()

    @field_validator("classical", mode="before")
    @classmethod
    def _find_network(cls, said: Any) -> Any:
        return find_recipe(said) if isinstance(said, str) else said

    @model_validator(mode="after")
    def _see_what_is_served(self) -> Self:
        if isinstance(self.classical, NetworkRecipe) and self.classical.pictures != SERVED:
            raise ValueError(
                f"The network {self.classical.name} must see what is served: "
                f"set its `pictures` to {{side: {SERVED.side}, preparation: [disc]}}."
            )
        return self

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe as it travels between pipeline steps."""
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        """Write the recipe for travel, always in the same way, so that a cache recognises it."""
        return json.dumps(self.model_dump(), sort_keys=True)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe of the nightly retraining from YAML.

    Raises:
        SetupError: naming the setting and the remedy.
    """
    return read_recipe(Recipe, path)
