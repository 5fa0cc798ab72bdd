"""Triton's Python backend around an ONNX graph, for servers without the ONNX Runtime backend."""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Answers every request by the `model.onnx` beside this file."""

    def initialize(self, args):
        """Open the graph; the outputs are those that the configuration names."""
        folder = os.path.join(args["model_repository"], args["model_version"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        graph = os.path.join(folder, "model.onnx")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.outputs = [output["name"] for output in json.loads(args["model_config"])["output"]]

    def execute(self, requests):
        """Answer a batch of requests in one run of the graph."""
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        answers = self.session.run(self.outputs, {"image": np.concatenate(images)})
        ends = np.cumsum([len(image) for image in images])[:-1]
        parts = zip(*(np.split(answer, ends) for answer in answers))
        return [
            triton.InferenceResponse([triton.Tensor(name, part) for name, part in zip(self.outputs, answered)])
            for answered in parts
        ]
