"""Triton's model repository: versions as folders, loaded on demand, tried before they serve."""

import math
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from qfundus.errors import Retry, SetupError
from qfundus.hybrid.grader_files import OUTPUTS
from qfundus.imaging.normalise import SIDE
from qfundus.layout import checkout
from qfundus.onnx_graphs.run import GRADER_FILE
from qfundus.settings import SERVED_MODEL, Settings

_log = structlog.get_logger()
# Where rounding is coarse, another processor may round the other way.
SMOKE_TOLERANCE, COARSE_TOLERANCE = 1e-4, 0.02
_TIMEOUT, _BUILDING = 60.0, 1800.0  # seconds; TensorRT's engines take minutes
_LARGEST_BATCH, _TRIES = 32, 3
_REFER_BELOW = "refer_below"


class SmokeTestError(Exception):
    """A version that Triton loaded does not answer as it did when it was made."""


@dataclass(frozen=True)
class Answer:
    """Triton's probabilities `(eyes, 5)` by each form, the version that gave them, and its referral threshold."""

    probabilities: np.ndarray
    classical: np.ndarray
    quantum: np.ndarray
    version: str
    refer_below: float

    def refers(self, probabilities: np.ndarray) -> bool | None:
        """Return whether an eye of probabilities `(5,)` is referred to a person; None if the version has no rule."""
        return None if math.isnan(self.refer_below) else bool(probabilities.max() < self.refer_below)


def write_version(settings: Settings, version: str, graph: Path) -> None:
    """Put a version's graph into the repository; complete, or not under its name."""
    folder = settings.triton_repository / SERVED_MODEL / version
    if folder.exists():
        return
    draft = folder.with_name(f".{version}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shutil.copy(graph, draft / GRADER_FILE)
    if settings.triton_backend == "python":
        shutil.copy(checkout() / "deploy" / "triton" / "model.py", draft / "model.py")
    draft.rename(folder)


def remove_version(settings: Settings, version: str) -> None:
    """Take a version out of the repository."""
    shutil.rmtree(settings.triton_repository / SERVED_MODEL / version, ignore_errors=True)


def serve_version(settings: Settings, version: str, refer_below: float) -> None:
    """Let Triton load one version in place of what it serves; it answers from the old one until the new one is up.

    Eyes whose highest probability is below `refer_below` are referred to a person: Triton's model
    configuration carries the threshold.

    Raises:
        Retry: if Triton does not load it.
    """
    config = settings.triton_repository / SERVED_MODEL / "config.pbtxt"
    draft = config.with_suffix(".draft")
    draft.write_text(model_config(version, settings, refer_below))
    draft.replace(config)
    with _retryable(f"load version {version}"):
        _http(settings, _BUILDING if settings.triton_accelerator == "tensorrt" else _TIMEOUT).load_model(SERVED_MODEL)


def stop_serving(settings: Settings) -> None:
    """Let Triton serve no version, as before the first promotion."""
    (settings.triton_repository / SERVED_MODEL / "config.pbtxt").unlink(missing_ok=True)
    with _retryable("unload the model"):
        _http(settings).unload_model(SERVED_MODEL)


def model_config(version: str, settings: Settings, refer_below: float) -> str:
    """Write the configuration that serves one version, on the CPU, on a GPU, or on a GPU by TensorRT in half precision.

    Raises:
        SetupError: if the backend is not one that can use a GPU.
    """
    backend, accelerator = settings.triton_backend, settings.triton_accelerator
    if accelerator != "cpu" and backend != "onnxruntime":
        raise SetupError(f"{accelerator} needs QFUNDUS_TRITON_BACKEND=onnxruntime: {backend} runs on the CPU.")
    outputs = ",\n".join(f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ 5 ] }}' for name in OUTPUTS)
    return f"""name: "{SERVED_MODEL}"
backend: "{backend}"
max_batch_size: {_LARGEST_BATCH}
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {SIDE}, {SIDE}, 3 ] }} ]
output [
{outputs}
]
parameters: {{ key: "{_REFER_BELOW}" value: {{ string_value: "{refer_below}" }} }}
version_policy: {{ specific: {{ versions: [ {version} ] }} }}
dynamic_batching {{ max_queue_delay_microseconds: 1000 }}
instance_group [ {{ kind: {"KIND_CPU" if accelerator == "cpu" else "KIND_GPU"} count: 1 }} ]
{_tensorrt(f"{settings.triton_engines}/{version}") if accelerator == "tensorrt" else ""}"""


def _tensorrt(engines: str) -> str:
    """Let engines be built once, before the version serves, for all batches between the least and the largest.

    `engines` is a folder of the version's own: they are found there by names, which all nights' graphs share.
    """
    warm_up = "\n".join(
        f"""model_warmup [ {{ name: "{batch}" batch_size: {batch} inputs {{
  key: "image" value {{ data_type: TYPE_UINT8 dims: [ {SIDE}, {SIDE}, 3 ] zero_data: true }}
}} }} ]"""
        for batch in (1, _LARGEST_BATCH)
    )
    return f"""optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{
  name: "tensorrt"
  parameters {{ key: "precision_mode" value: "FP16" }}
  parameters {{ key: "max_workspace_size_bytes" value: "1073741824" }}
  parameters {{ key: "trt_engine_cache_enable" value: "true" }}
  parameters {{ key: "trt_engine_cache_path" value: "{engines}" }}
}} ] }} }}
{warm_up}
"""


def smoke_test(settings: Settings, version: str, smoke: Path) -> None:
    """Send Triton a version's smoke test over HTTP and gRPC, and compare the answers.

    Raises:
        SmokeTestError: if an answer differs, or another version gave it.
    """
    expected = np.load(smoke)
    coarse = settings.triton_accelerator == "tensorrt" or expected.get("form", "float32") == "int8"
    for ask in (grade_over_http, grade_over_grpc):
        try:
            answer = ask(settings, expected["images"])
        except (Retry, ValueError) as error:  # ValueError: an answer of the wrong shape
            raise SmokeTestError(f"Triton does not answer: {error}") from None
        if answer.version != version:
            raise SmokeTestError(f"Version {answer.version} is being served instead of {version}.")
        worst = float(np.abs(answer.probabilities - expected["probabilities"]).max())
        if not worst <= (COARSE_TOLERANCE if coarse else SMOKE_TOLERANCE):
            raise SmokeTestError(f"A probability differs by {worst:.1e} from what it was when the version was made.")
    _log.info("Smoke test passed", version=version)


def grade_over_http(settings: Settings, images: np.ndarray) -> Answer:
    """Grade cropped discs `(eyes, 224, 224, 3)` of uint8 over HTTP.

    Raises:
        Retry: if Triton does not answer.
    """
    from tritonclient import http

    return _grade(_http(settings), http, images)


def grade_over_grpc(settings: Settings, images: np.ndarray) -> Answer:
    """Grade cropped discs `(eyes, 224, 224, 3)` of uint8 over gRPC.

    Raises:
        Retry: if Triton does not answer.
    """
    from tritonclient import grpc

    with grpc.InferenceServerClient(settings.triton_grpc) as client:
        return _grade(client, grpc, images)


def _grade(client: Any, protocol: Any, images: np.ndarray) -> Answer:
    request = protocol.InferInput("image", list(images.shape), "UINT8")
    request.set_data_from_numpy(images)
    wanted = [protocol.InferRequestedOutput(name) for name in OUTPUTS]
    for _ in range(_TRIES):  # another version may begin to serve between the two requests
        with _retryable("answer"):
            configured = client.get_model_config(SERVED_MODEL)
            answer = client.infer(SERVED_MODEL, [request], outputs=wanted)
        response = answer.get_response()
        version = str(response["model_version"] if isinstance(response, dict) else response.model_version)
        serving, refer_below = _read_config(configured)
        if serving == version:
            return Answer(*(answer.as_numpy(name) for name in OUTPUTS), version=version, refer_below=refer_below)
    raise Retry("Triton changed its version during each request: try again.")


def _read_config(config: Any) -> tuple[str, float]:
    """Return the version that is served and its referral threshold, NaN if it has none."""
    if isinstance(config, dict):
        (serving,) = config["version_policy"]["specific"]["versions"]
        return str(serving), float(config.get("parameters", {}).get(_REFER_BELOW, {}).get("string_value", "nan"))
    (serving,) = config.config.version_policy.specific.versions
    parameters = config.config.parameters
    return str(serving), float(parameters[_REFER_BELOW].string_value if _REFER_BELOW in parameters else "nan")


@contextmanager
def _retryable(what: str) -> Generator[None]:
    """Turn what the clients raise where the server is away or refuses into one error."""
    from geventhttpclient.response import HTTPParseError
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except (InferenceServerException, HTTPParseError, OSError) as error:
        raise Retry(f"Triton did not {what}: {str(error)[:300]} See `qfundus status`.") from None


def _http(settings: Settings, timeout: float = _TIMEOUT) -> Any:
    from tritonclient import http

    return http.InferenceServerClient(settings.triton_http, network_timeout=timeout, connection_timeout=_TIMEOUT)
