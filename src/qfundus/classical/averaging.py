"""Averages: of the weights over steps, and of batch statistics over processes."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from qfundus.classical.parallel import Layout


def statistics_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the statistics of batches that a network keeps, by name."""
    return {name: value for name, value in network.named_buffers() if value.is_floating_point()}


def average_over_processes(values: Sequence[torch.Tensor], layout: Layout) -> None:
    """Average tensors in place: of statistics each process has seen its own share."""
    if layout.world == 1 or not values:
        return
    joined = torch.cat([value.flatten() for value in values])
    distributed.all_reduce(joined)
    joined /= layout.world
    for value, agreed in zip(values, joined.split([value.numel() for value in values]), strict=True):
        value.copy_(agreed.view_as(value))


class Average:
    """An exponential moving average of the weights, which begins fast: the decay is at most (1 + n) / (10 + n)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = torch.zeros(())
        self.live = dict(_learned(network))
        self.shadow: dict[str, Any] = {name: value.detach().clone() for name, value in self.live.items()}
        self.shadow["updates"] = self.updates

    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        n = float(self.updates)
        decay = min(self.decay, (1 + n) / (10 + n))
        for name, value in self.live.items():
            self.shadow[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Put the average into the network, for a while."""
        live_values = {name: value.detach().clone() for name, value in self.live.items()}
        self._put(self.shadow)
        try:
            yield
        finally:
            self._put(live_values)

    def load(self, state: dict[str, Any]) -> None:
        """Take over an average."""
        for name, value in state.items():
            self.shadow[name].copy_(value)

    def _put(self, values: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.live.items():
                value.copy_(values[name])


def _learned(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters()
    yield from ((name, value) for name, value in network.named_buffers() if value.is_floating_point())
