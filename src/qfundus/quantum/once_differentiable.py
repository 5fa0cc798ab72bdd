"""Backward passes that are not differentiated themselves."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def refuse_double_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse to differentiate a backward pass: where what comes to it needs no gradient, torch would leave terms out.

    Raises:
        RuntimeError: if the pass is part of a graph that is to be differentiated again.
    """
    within = once_differentiable(backward)

    @wraps(backward)
    def refuse_twice(ctx: Any, *upstream: torch.Tensor) -> Any:
        # Torch computes a backward pass with gradients enabled where `create_graph` is asked for, and only there.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "This layer can be differentiated once: drop `create_graph=True`, or use "
                "`method='tensor_network'`, if the circuit allows it, which can be differentiated twice."
            )
        return within(ctx, *upstream)

    return refuse_twice
