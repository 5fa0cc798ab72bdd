"""Networks that grade together, from several views, as one module."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from qfundus.grades import GRADES


class NetworkEnsemble(nn.Module):
    """Photographs `(batch, side, side, 3)` of uint8 to probabilities `(batch, 5)`.

    The logarithms of the likelihoods are averaged over a photograph's views, scaled by `scales` `(networks, 5)`, and
    averaged over the networks.
    """

    scales: torch.Tensor

    def __init__(self, networks: Iterable[nn.Module], views: int, scales: torch.Tensor) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.views = views
        self.register_buffer("scales", scales.float())

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return each network's logarithms as they are, `(networks, batch, 5)`."""
        seen = torch.cat(list(rotate_and_flip(images, self.views)))
        logits = [
            network(seen).log_softmax(dim=1).view(self.views, -1, GRADES).mean(dim=0) for network in self.networks
        ]
        return torch.stack(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        return (self.logits(images) * self.scales[:, None]).mean(dim=0).softmax(dim=1)


def rotate_and_flip(images: torch.Tensor, views: int) -> Iterator[torch.Tensor]:
    """Yield the first `views` of the eight views by right angles and mirroring."""
    for view in range(views):
        seen = images.transpose(1, 2) if view & 1 else images
        axes = [axis for axis, bit in ((1, 2), (2, 4)) if view & bit]
        yield seen.flip(axes) if axes else seen
