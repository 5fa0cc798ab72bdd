"""What to train of a network on photographs: the part of a recipe that `qfundus train` reads."""

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from qfundus.errors import SetupError
from qfundus.layout import network_recipes, recipe_file
from qfundus.recipe_parts import LARGEST_SEED, Part, Training, nearest, read_recipe

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


class Pictures(Part):
    """How a photograph becomes the network's input: `side` in pixels, and what is done to it before, in this order."""

    side: int = Field(default=224, ge=32, le=1024)
    preparation: tuple[Preparation, ...] = ()

    @field_validator("preparation")
    @classmethod
    def _in_order(cls, said: tuple[Preparation, ...]) -> tuple[Preparation, ...]:
        return tuple(step for step in get_args(Preparation) if step in said)


class Augmentation(Part):
    """What a photograph may look like as well; nought leaves it alone. Lengths are shares of the side."""

    turn: bool = True
    mirror: bool = True
    zoom: float = Field(default=0.15, ge=0, lt=1)
    shift: float = Field(default=0.04, ge=0, lt=1)
    brightness: float = Field(default=0.25, ge=0, lt=1)
    contrast: float = Field(default=0.25, ge=0, lt=1)
    tint: float = Field(default=0.1, ge=0, lt=1)


class Network(Part):
    """The network and how its answer is read.

    `head` is softmax over the grades, or cumulative_link: four thresholds on one score, since grades are ordered.
    `drop_path` is how often an EfficientNet-Lite's last block is passed over, the earlier the less (arXiv 1603.09382).
    `batch_norm` takes the statistics of each process's own batch, or stays with those the weights came with.
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
            raise ValueError(f"There are no weights to begin {self.backbone} with: set `pretrained: false`.")
        return self


class Fitting(Training):
    """How the weights are found.

    `batch` counts photographs a step over all processes; `accumulate` cuts a process's share into that many pieces,
    whose gradients are summed before the processes talk. `warm_up` is in epochs. `loss` is of the grade's likelihood,
    or of ranks: of "this grade or worse", for each grade. `soften` spreads a grade's target over its neighbours by a
    bell of that width in grades, `label_smoothing` over all. `balance` weighs rare grades up:
    0 not at all, 1 in full. `ema` keeps a moving average of the weights with that decay. `checkpoint_every` is in
    steps, 0 for the ends of epochs alone; the last `keep` are kept. `take` says whose weights are taken in the end:
    those of the last epoch, or of the one with the least loss on what is held out.
    """

    warm_up: float = Field(default=1.0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    clip: float = Field(default=1.0, gt=0)
    accumulate: int = Field(default=1, ge=1)
    loss: Loss = "likelihood"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    soften: float = Field(default=0.0, ge=0, le=2)
    balance: float = Field(default=0.0, ge=0, le=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Precision = "float32"
    strategy: Strategy = "ddp"
    offload: bool = False
    deterministic: bool = True
    workers: int = Field(default=1, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    keep: int = Field(default=2, ge=1)
    take: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.warm_up >= self.epochs:
            raise ValueError(f"The rate would still rise when training ends: lower `warm_up` below {self.epochs}.")
        if self.offload and not self.strategy.startswith("zero"):
            raise ValueError("Only zero1, zero2 and zero3 offload: leave `offload` out, or change `strategy`.")
        if self.ema and self.strategy.startswith("zero"):
            raise ValueError("DeepSpeed keeps no average of the weights: set `ema: 0`, or take ddp or fsdp2.")
        if self.precision == "float16" and self.strategy.startswith("zero"):
            raise ValueError("float16 with DeepSpeed is not offered: take bfloat16.")
        return self


class Grading(Part):
    """How a trained network grades.

    As many networks are trained as there are `folds`, each without a share of its own of the photographs, the variants
    in turn; all answer together. Of each photograph `views` turned and mirrored views are looked at. `referred` is the
    share of eyes, the least certain ones, of which the grader says that a person should look.
    """

    folds: int = Field(default=1, ge=1)
    views: Literal[1, 2, 4, 8] = 1
    referred: float = Field(default=0.1, ge=0, lt=1)


class Variant(Part):
    """In what some of an ensemble's networks differ from the recipe: networks that err otherwise help each other."""

    backbone: Backbone | None = None
    pretrained: bool | None = None
    head: Head | None = None
    loss: Loss | None = None
    soften: float | None = Field(default=None, ge=0, le=2)
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)


class NetworkRecipe(Part):
    """Everything that decides what `qfundus train` trains."""

    name: str
    seed: int = Field(ge=0, le=LARGEST_SEED)
    pictures: Pictures
    network: Network
    augmentation: Augmentation
    fitting: Fitting
    grading: Grading
    variants: tuple[Variant, ...] = ()

    @model_validator(mode="after")
    def _vary(self) -> Self:
        for variant in self.variants:  # one that cannot be is refused now, not when its turn comes
            try:
                self._varied(variant)
            except ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"A variant cannot be: {why}") from None
        return self

    def what_is_learnt(self) -> dict[str, Any]:
        """Return all but what no weight and no grade follows from: a training goes on though that is changed."""
        return self.model_dump(mode="json", exclude={"fitting": {"workers", "checkpoint_every", "keep"}})

    def members(self) -> "list[tuple[NetworkRecipe, int]]":
        """Return the recipe of each network to train, and the fold that it does not see."""
        varied = [self._varied(variant) for variant in self.variants] or [self]
        count = max(len(varied), self.grading.folds)
        return [(varied[number % len(varied)], number % self.grading.folds) for number in range(count)]

    def _varied(self, variant: Variant) -> "NetworkRecipe":
        said = variant.model_dump(exclude_none=True)
        whole = self.model_dump()
        for name, value in said.items():
            whole["network" if name in Network.model_fields else "fitting"][name] = value
        return NetworkRecipe.model_validate({**whole, "variants": ()})


def find_recipe(named: str) -> NetworkRecipe:
    """Read a recipe by its name in configs/recipes/networks/, or by its file.

    Raises:
        SetupError: naming the nearest recipe where there is none of that name, and each wrong setting in one there is.
    """
    if named.endswith((".yaml", ".yml")):
        if not Path(named).exists():
            raise SetupError(f"There is no file {named}.")
        return read_recipe(NetworkRecipe, Path(named))
    there = sorted(file.stem for file in network_recipes().glob("*.yaml"))
    if named not in there:
        nightly = " (It is one of the nightly retraining's.)" if recipe_file(named).exists() else ""
        file = f" Did you mean the file {named}.yaml?" if Path(f"{named}.yaml").is_file() else ""
        known = nightly or file or nearest(named, there) or f" There are {', '.join(there)}."
        raise SetupError(f"There is no recipe {named} in configs/recipes/networks/.{known}")
    return read_recipe(NetworkRecipe, network_recipes() / f"{named}.yaml")
