import numpy as np

from qfundus.features.embed import embed
from qfundus.hybrid.grader import GRADER_FILE, HEAD_FILE, OUTPUTS, run_head
from qfundus.onnx_export import open_session
from qfundus.training import predict_logits


def test_the_head_answers_as_pytorch_does(exported):
    folder, _, classical, quantum, mixture = exported
    embeddings = np.random.default_rng(0).uniform(size=(7, 1280)).astype(np.float32)
    told = run_head(folder / HEAD_FILE, embeddings).probabilities
    wanted = mixture.mix(predict_logits(classical, embeddings), predict_logits(quantum, embeddings))
    assert np.allclose(told, wanted, atol=1e-5)


def test_the_grader_is_the_backbone_and_the_head_joined(exported):
    folder, backbone, *_ = exported
    images = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    whole = open_session(folder / GRADER_FILE).run(list(OUTPUTS), {"image": images})
    parts = run_head(folder / HEAD_FILE, embed(open_session(backbone), images))
    assert np.allclose(whole[0], parts.probabilities, atol=1e-5)
    assert not np.allclose(whole[1], whole[2], atol=1e-3)
