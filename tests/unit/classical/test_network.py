import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qfundus.classical.network import CumulativeLink, Network
from qfundus.classical.precision import keep_depthwise_whole
from qfundus.recipes.network import Architecture


@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        *(("efficientnet-lite0", 32), ("efficientnet-lite1", 48), ("efficientnet-lite2", 64)),
        *(("monai-densenet121", 64), ("monai-efficientnet-b0", 64), ("monai-resnet18", 64), ("monai-vit", 64)),
    ],
)
@pytest.mark.parametrize("head", ["softmax", "cumulative_link"])
def test_every_backbone_and_head_grades_and_learns(backbone, side, head):
    how = Architecture(backbone=backbone, head=head, pretrained=backbone.startswith("efficientnet-lite"))
    network = Network(how, side)
    logits = network(torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8))
    assert logits.shape == (2, 5)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
    assert all(value.grad is not None for value in network.parameters())


def test_pretrained_weights_are_there_and_random_ones_are_not_them():
    taken, drawn = (Network(Architecture(pretrained=yes), 32).backbone.state_dict() for yes in (True, False))
    assert not torch.equal(next(iter(taken.values())), next(iter(drawn.values())))


@settings(max_examples=50, deadline=None)
@given(st.floats(-60, 60), st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_a_cumulative_link_gives_likelihoods_that_sum_to_one_and_rise_with_the_score(score, gaps):
    head = CumulativeLink(1)
    head.score.weight.data.fill_(1.0)
    head.gaps.data.copy_(torch.tensor(gaps))
    logits = head(torch.tensor([[score], [score + 1.0]]))
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits.exp().sum(dim=1), torch.ones(2), atol=1e-4)
    mean = (logits.exp() * torch.arange(5)).sum(dim=1)
    assert mean[1] >= mean[0] - 1e-4


def test_frozen_batch_norm_keeps_its_statistics():
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    for how, moves in (("frozen", False), ("own", True)):
        network = Network(Architecture(batch_norm=how), 32).train()
        before = {name: value.clone() for name, value in network.named_buffers() if "running_mean" in name}
        network(images)
        after = dict(network.named_buffers())
        assert moves != all(torch.equal(before[name], after[name]) for name in before)


def test_convolutions_within_channels_stay_out_of_bfloat16():
    network = Network(Architecture(), 32).eval()
    keep_depthwise_whole(network)
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda part, _, output: kinds[part.groups > 1].add(output.dtype))
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(images)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    assert torch.allclose(mixed.float(), network(images), atol=0.05)


def test_padding_within_the_convolutions_changes_no_value():
    from efficientnet_lite_pytorch import EfficientNet

    network = Network(Architecture(pretrained=False), 64).eval()
    published = EfficientNet.from_name("efficientnet-lite0").eval()
    published._fc = torch.nn.Identity()  # noqa: SLF001  (as the network has it)
    published.load_state_dict(network.backbone.network.state_dict())
    scaled = torch.randn(2, 3, 64, 64)
    assert any(part.padding == (2, 2) for part in network.modules() if isinstance(part, torch.nn.Conv2d))
    assert torch.allclose(network.backbone(scaled), published(scaled), atol=1e-5)
