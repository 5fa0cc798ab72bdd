import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from qfundus.errors import SetupError
from qfundus.registry.triton import model_config
from qfundus.settings import Settings


@pytest.mark.parametrize(
    ("backend", "accelerator"),
    [("python", "cpu"), ("onnxruntime", "cpu"), ("onnxruntime", "gpu"), ("onnxruntime", "tensorrt")],
)
def test_every_configuration_is_one_by_tritons_own_schema(backend, accelerator):
    settings = Settings.model_construct(triton_backend=backend, triton_accelerator=accelerator)
    config = text_format.Parse(model_config("3", settings, 0.4), model_config_pb2.ModelConfig())
    assert config.parameters["refer_below"].string_value == "0.4"
    assert config.backend == backend
    assert list(config.version_policy.specific.versions) == [3]
    kind = model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind)
    assert kind == ("KIND_CPU" if accelerator == "cpu" else "KIND_GPU")
    chosen = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [dict(one.parameters)["precision_mode"] for one in chosen] == ["FP16"] * (accelerator == "tensorrt")
    # By their names alone a version would find another's.
    assert [dict(one.parameters)["trt_engine_cache_path"] for one in chosen] == [f"{settings.triton_engines}/3"] * len(
        chosen
    )
    # Engines are built before a version serves.
    assert [one.batch_size for one in config.model_warmup] == [1, 32] * (accelerator == "tensorrt")


def test_a_backend_that_cannot_use_a_gpu_is_refused():
    with pytest.raises(SetupError, match="QFUNDUS_TRITON_BACKEND=onnxruntime"):
        model_config("3", Settings.model_construct(triton_accelerator="tensorrt"), 0.4)
