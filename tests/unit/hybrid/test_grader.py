import numpy as np

from qfundus.features.embed import embed
from qfundus.heads.fit import predict_logits
from qfundus.hybrid.grader_files import HEAD_FILE, OUTPUTS
from qfundus.onnx_graphs.run import GRADER_FILE, grade_embeddings, open_session


def test_the_head_answers_as_pytorch_does(exported):
    folder, _, classical, quantum, mixture = exported
    embeddings = np.random.default_rng(0).uniform(size=(7, 1280)).astype(np.float32)
    answer = grade_embeddings(folder / HEAD_FILE, embeddings)
    wanted = mixture.mix(predict_logits(classical, embeddings), predict_logits(quantum, embeddings))
    assert np.allclose(answer, wanted, atol=1e-5)


def test_the_grader_is_the_backbone_and_the_head_joined(exported):
    folder, backbone, *_ = exported
    images = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    whole = open_session(folder / GRADER_FILE).run(list(OUTPUTS), {"image": images})
    parts = grade_embeddings(folder / HEAD_FILE, embed(open_session(backbone), images))
    assert np.allclose(whole[0], parts, atol=1e-5)
    assert not np.allclose(whole[1], whole[2], atol=1e-3)
