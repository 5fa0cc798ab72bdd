"""The recipe of networks on photographs, which `qfundus train` and some nightly recipes use."""

import json
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from qfundus.errors import SetupError
from qfundus.recipes.reading import LARGEST_SEED, Section, Training, read_recipe
from qfundus.recipes.spelling import nearest, to_former_names

Strategy = Literal["ddp", "fsdp2", "zero1", "zero2", "zero3"]
Head = Literal["softmax", "cumulative_link"]
Backbone = Literal[
    "efficientnet-lite0",
    "efficientnet-lite1",
    "efficientnet-lite2",
    "monai-densenet121",
    "monai-efficientnet-b0",
    "monai-resnet18",
    "monai-vit",
]
Loss = Literal["likelihood", "ranks"]
Preparation = Literal["disc", "illumination", "contrast"]
Precision = Literal["float32", "bfloat16", "float16"]


class ImageFormat(Section):
    """How a photograph becomes the network's input: `side` in pixels, and the preparation steps, in this order."""

    side: int = Field(default=224, ge=32, le=1024)
    preparation: tuple[Preparation, ...] = ()

    @field_validator("preparation")
    @classmethod
    def _in_order(cls, steps: tuple[Preparation, ...]) -> tuple[Preparation, ...]:
        return tuple(step for step in get_args(Preparation) if step in steps)


class Augmentation(Section):
    """Random changes to each training photograph; 0 switches one off. Lengths are shares of the side."""

    rotate: bool = True
    flip: bool = True
    zoom: float = Field(default=0.15, ge=0, lt=1)
    shift: float = Field(default=0.04, ge=0, lt=1)
    brightness: float = Field(default=0.25, ge=0, lt=1)
    contrast: float = Field(default=0.25, ge=0, lt=1)
    tint: float = Field(default=0.1, ge=0, lt=1)


class Architecture(Section):
    """The network and its output layer.

    `head` is softmax over the grades, or cumulative_link: four thresholds on one score, since grades are ordered.
    `drop_path` is the rate at which an EfficientNet-Lite's last block is skipped, earlier blocks less (arXiv
    1603.09382). `batch_norm` uses each process's own batch statistics, or keeps those of the pretrained weights.
    """

    backbone: Backbone = "efficientnet-lite0"
    pretrained: bool = True
    head: Head = "softmax"
    dropout: float = Field(default=0.3, ge=0, lt=1)
    drop_path: float = Field(default=0.2, ge=0, lt=1)
    batch_norm: Literal["own", "frozen"] = "own"

    @model_validator(mode="after")
    def _have_weights(self) -> Self:
        if self.pretrained and not self.backbone.startswith("efficientnet-lite"):
            raise ValueError(f"{self.backbone} has no pretrained weights here: set `pretrained: false`.")
        return self


class NetworkTraining(Training):
    """How the weights are found.

    `batch` counts photographs a step over all processes; `accumulate` cuts a process's share into that many pieces,
    whose gradients are summed before they are exchanged. `warm_up` is in epochs. `loss` is the likelihood of the grade,
    or ranks: of "this grade or worse", for each grade. `soft_labels` is the width, in grades, of the bell that spreads
    a target over its neighbours; `label_smoothing` spreads it over all grades. `balance` weighs rare grades up, from 0
    (not at all) to 1 (in full). `ema` is the decay of a moving average of the weights. `checkpoint_every` is in steps,
    0 for the ends of epochs alone; the last `keep` are kept. `final_weights` are those of the last epoch, or of the
    epoch with the best validation loss.
    """

    warm_up: float = Field(default=1.0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    clip: float = Field(default=1.0, gt=0)
    accumulate: int = Field(default=1, ge=1)
    loss: Loss = "likelihood"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    soft_labels: float = Field(default=0.0, ge=0, le=2)
    balance: float = Field(default=0.0, ge=0, le=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Precision = "float32"
    strategy: Strategy = "ddp"
    offload: bool = False
    deterministic: bool = True
    workers: int = Field(default=1, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    keep: int = Field(default=2, ge=1)
    final_weights: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.warm_up >= self.epochs:
            raise ValueError(f"The rate would still rise when training ends: lower `warm_up` below {self.epochs}.")
        if self.offload and not self.strategy.startswith("zero"):
            raise ValueError("Only zero1, zero2 and zero3 offload: leave `offload` out, or change `strategy`.")
        if self.ema and self.strategy.startswith("zero"):
            raise ValueError("DeepSpeed does not average weights: set `ema: 0`, or use ddp or fsdp2.")
        if self.precision == "float16" and self.strategy.startswith("zero"):
            raise ValueError("float16 with DeepSpeed is not supported: use bfloat16.")
        return self


class Grading(Section):
    """How a trained network grades.

    One network is trained for each of `folds`, each without its own share of the photographs, the variants in turn;
    their predictions are averaged. Each photograph is graded in `views` rotated and mirrored views. `referral_rate` is
    the share of eyes, the least certain ones, that the grader refers to a person.
    """

    folds: int = Field(default=1, ge=1)
    views: Literal[1, 2, 4, 8] = 1
    referral_rate: float = Field(default=0.1, ge=0, lt=1)


class Variant(Section):
    """How some networks of an ensemble differ from the recipe: networks that make different errors help each other."""

    backbone: Backbone | None = None
    pretrained: bool | None = None
    head: Head | None = None
    loss: Loss | None = None
    soft_labels: float | None = Field(default=None, ge=0, le=2)
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)


class NetworkRecipe(Section):
    """Everything that decides what `qfundus train` trains."""

    name: str
    seed: int = Field(ge=0, le=LARGEST_SEED)
    images: ImageFormat
    network: Architecture
    augmentation: Augmentation
    training: NetworkTraining
    grading: Grading
    variants: tuple[Variant, ...] = ()

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        for variant in self.variants:  # an invalid one is refused now, not when its turn comes
            try:
                self._apply(variant)
            except ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"Invalid variant: {why}") from None
        return self

    def learnt_settings(self) -> dict[str, Any]:
        """Return the settings that weights and grades depend on: a training resumes though the others change."""
        return self.model_dump(mode="json", exclude={"training": {"workers", "checkpoint_every", "keep"}})

    def fingerprint_text(self) -> str:
        """Write `learnt_settings` for a fingerprint; spelt as in release 0.1, whose trainings are resumed, too."""
        return json.dumps(to_former_names(self.learnt_settings()))

    def members(self) -> "list[tuple[NetworkRecipe, int]]":
        """Return the recipe of each network to train, and the fold that it does not see."""
        varied = [self._apply(variant) for variant in self.variants] or [self]
        count = max(len(varied), self.grading.folds)
        return [(varied[number % len(varied)], number % self.grading.folds) for number in range(count)]

    def _apply(self, variant: Variant) -> "NetworkRecipe":
        settings = self.model_dump()
        for name, value in variant.model_dump(exclude_none=True).items():
            settings["network" if name in Architecture.model_fields else "training"][name] = value
        return NetworkRecipe.model_validate({**settings, "variants": ()})


def find_network_recipe(named: str, folder: Path) -> NetworkRecipe:
    """Read a recipe by its name in a folder, or by its own file.

    Raises:
        SetupError: naming the nearest recipe if the folder has none of that name, and each wrong setting of a recipe.
    """
    if named.endswith((".yaml", ".yml")):
        if not Path(named).exists():
            raise SetupError(f"The recipe file {named} does not exist.")
        return read_recipe(NetworkRecipe, Path(named))
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if named not in known:
        nightly = " (It is a recipe of the nightly retraining.)" if (folder.parent / f"{named}.yaml").exists() else ""
        file = f" Did you mean the file {named}.yaml?" if Path(f"{named}.yaml").is_file() else ""
        hint = nightly or file or nearest(named, known) or f" Known recipes: {', '.join(known)}."
        raise SetupError(f"No recipe named {named} in configs/recipes/networks/.{hint}")
    return read_recipe(NetworkRecipe, folder / f"{named}.yaml")
