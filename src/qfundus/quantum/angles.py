"""The angles of a circuit's gates, evaluated by PyTorch."""

import torch
from torch import nn

from qfundus.quantum.gates import Gate, Polynomial


class Angles(nn.Module):
    """The angles of one sort of rotations: polynomials of the features and weights, all evaluated at once."""

    factors: torch.Tensor
    coefficients: torch.Tensor
    owners: torch.Tensor

    def __init__(self, polynomials: tuple[Polynomial, ...], *, n_features: int, by_feature: bool) -> None:
        super().__init__()
        terms = [(owner, places, value) for owner, terms in enumerate(polynomials) for places, value in terms.items()]
        degree = max((len(places) for _, places, _ in terms), default=1) or 1
        self.count = len(polynomials)
        self.by_feature = by_feature
        used = {place for _, places, _ in terms for place in places}
        self._features, self._weights = by_feature, not by_feature or max(used, default=0) >= n_features
        first = 0 if self._features else n_features
        # Place 0 holds the number 1, with which a term of a lower degree is filled up.
        padded = [[place - first + 1 for place in places] + [0] * (degree - len(places)) for _, places, _ in terms]
        self._plain = len(terms) == self.count and all(len(p) == 1 and value == 1.0 for _, p, value in terms)
        self._in_order = self._plain and [place for _, [place], _ in terms] == list(range(first, first + self.count))
        self.register_buffer("factors", torch.tensor(padded, dtype=torch.int64).reshape(-1, degree), persistent=False)
        values = torch.tensor([value for *_, value in terms], dtype=torch.float64)
        self.register_buffer("coefficients", values, persistent=False)
        owners = torch.tensor([owner for owner, *_ in terms], dtype=torch.int64)
        self.register_buffer("owners", owners, persistent=False)

    def forward(self, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return angles `(batch, angles)` of features `(batch, features)` and weights `(weights,)`.

        Those by weights alone are `(angles,)`.
        """
        if not self._features:
            parameters = weights
        elif not self._weights:
            parameters = features
        else:
            parameters = torch.cat((features, weights.expand(features.shape[0], -1)), dim=1)
        if self._in_order and parameters.shape[-1] == self.count:
            return parameters
        if self._plain:
            return parameters.index_select(-1, self.factors[:, 0] - 1)
        padded = nn.functional.pad(parameters, (1, 0), value=1.0)
        chosen = padded.index_select(-1, self.factors.flatten()).unflatten(-1, self.factors.shape)
        terms = self.coefficients.to(parameters.dtype) * chosen.prod(dim=-1)
        return terms.new_zeros((*terms.shape[:-1], self.count)).index_add(-1, self.owners, terms)


class AngleSums(nn.Module):
    """The sum of the angles of the gates in each place."""

    shared: torch.Tensor
    by_feature: torch.Tensor

    def __init__(self, places: list[list[Gate]]) -> None:
        super().__init__()
        for name in ("shared", "by_feature"):
            chosen = [[g.angle for g in gates if g.by_feature == (name == "by_feature")] for gates in places]
            most = max((len(angles) for angles in chosen), default=0)
            # Place 0 holds an angle of zero.
            table = [[angle + 1 for angle in angles] + [0] * (most - len(angles)) for angles in chosen]
            indices = torch.tensor(table, dtype=torch.int64).reshape(len(places), most)
            self.register_buffer(name, indices, persistent=False)

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        """Return `(batch, places)`; `(1, places)` where no feature is in them."""
        if not self.by_feature.shape[1]:
            return _gathered(shared.unsqueeze(0), self.shared)
        own = _gathered(by_feature, self.by_feature)
        return own + _gathered(shared.unsqueeze(0), self.shared) if self.shared.shape[1] else own


def _gathered(angles: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    if not table.shape[1]:
        return angles.new_zeros((angles.shape[0], table.shape[0]))
    padded = nn.functional.pad(angles, (1, 0))
    chosen = padded.index_select(1, table.flatten())
    return chosen if table.shape[1] == 1 else chosen.unflatten(1, table.shape).sum(dim=2)
