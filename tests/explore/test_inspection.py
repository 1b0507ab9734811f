"""Guards: the map of a query is the attention the block applies, laid where its keys lie, with honest numbers."""

import math

import pytest
import torch

from transkd_lite.explore.attention import BlockAttention, attend, class_share, receptive_field
from transkd_lite.models.weights import create_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("segformer_b0", 5).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def small(weights, size=(2, 4), reduction=2):
    return BlockAttention(torch.tensor(weights).reshape(1, 1, -1, 2), size, reduction)


@pytest.fixture
def two_keys():
    """A grid of 2 x 4 positions, two keys of 2 x 2; query (1, 3), the last, gives 0.75 to the left key."""
    return small([0.5, 0.5] * 7 + [0.75, 0.25])


@pytest.mark.parametrize("name", ["segformer_b0", "pvt_v2_b0"])
def test_every_block_is_kept_on_its_grid(name, images):
    network = create_model(name, 5).train()
    seen = attend(network, images)
    assert network.training
    assert list(seen) == [(s, b) for s in (1, 2, 3, 4) for b in (1, 2)]
    sizes = {stage: (seen[stage, 1].size, seen[stage, 1].reduction) for stage in (1, 2, 3, 4)}
    assert sizes == {1: ((16, 32), 8), 2: ((8, 16), 4), 3: ((4, 8), 2), 4: ((2, 4), 1)}
    for attention in seen.values():
        assert attention.key_size == (2, 4)


def test_a_query_is_its_row_of_the_map(model, images):
    attention = attend(model, images)[2, 1]
    keys = attention.weights[1, 1, 3 * 16 + 5].unflatten(0, (2, 4))
    spread = attention.query((3, 5), head=2, image=1)
    assert spread.shape == (8, 16)
    assert spread.sum().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(spread[4:8, 8:12], (keys[1, 2] / 16).expand(4, 4))


def test_a_pixel_beneath_a_key_moves_what_the_key_says(model, images):
    """Reduction 8 in stage 1: the key in row 1, column 3 stands for pixels from row 32 and column 96 on."""
    changed = images.clone()
    changed[:, :, 40:48, 104:112] = 0
    before, after = (attend(model, x)[1, 1] for x in (images, changed))
    moved = (after.query((0, 0)) - before.query((0, 0))).abs() > 1e-7
    assert moved[8:16, 24:32].all()
    # Keys share a softmax, so all weights move; the scores themselves do so only at that key.
    ratio = (after.weights / before.weights)[0, 0, 0]
    assert ratio[:7].max() - ratio[:7].min() < 1e-4
    assert abs(ratio[7] - ratio[0]) > 1e-4


def test_positions_beneath_no_key_get_nothing():
    attention = BlockAttention(torch.full((1, 1, 15, 2), 0.5), (3, 5), 2)
    spread = attention.query((2, 4))
    assert spread.tolist() == [[0.125] * 4 + [0], [0.125] * 4 + [0], [0] * 5]


def test_class_share_by_hand(two_keys):
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 255, 1]]])
    # Four queries of class 0 give 0.5 to the left key, all of it class 0. Queries of class 1 find it in 3/4 of the
    # right key: two give 0.5 * 0.75, the last 0.25 * 0.75. The void position does not ask.
    share, even = class_share(two_keys, labels)
    assert share == pytest.approx((4 * 0.5 + 2 * 0.375 + 0.1875) / 7)
    assert even == pytest.approx((4 * 0.5 + 3 * 0.375) / 7)


def test_class_share_equals_the_sum_over_queries(model, images):
    attention = attend(model, images)[3, 2]
    labels = torch.randint(3, (2, 4, 8), generator=torch.Generator().manual_seed(1))
    labels[0, 0, :3] = 255
    shares = [
        attention.query((row, column), head=head, image=image)[labels[image] == labels[image, row, column]].sum()
        for image in range(2)
        for row in range(4)
        for column in range(8)
        for head in range(1, 6)
        if labels[image, row, column] != 255
    ]
    assert class_share(attention, labels)[0] == pytest.approx(float(torch.stack(shares).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.query((2, 0)), "out of bounds"),
        (lambda a: a.query((0, 0), head=2), "out of bounds"),
        (lambda a: a.query((0, 0), image=1), "out of bounds"),
        (lambda a: a.query((-1, 0)), "positions and images count from 0"),
        (lambda a: a.query((0, 0), head=0), "heads from 1"),
        (lambda a: class_share(a, torch.zeros(1, 4, 4)), r"labels must be \(1, 2, 4\), got \(1, 4, 4\)"),
    ],
)
def test_what_is_not_there_is_said(two_keys, call, message):
    with pytest.raises((IndexError, ValueError), match=message):
        call(two_keys)


def test_where_all_is_void_no_share_is_known(two_keys):
    assert all(math.isnan(value) for value in class_share(two_keys, torch.full((1, 2, 4), 255)))


def test_receptive_field_of_the_first_embedding_is_local_and_of_a_stage_is_not(model, images):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fields = [receptive_field(model, images, stage) for stage in (1, 4)]
    for field in fields:
        assert field.shape == (64, 128)
        assert field.sum().item() == pytest.approx(1, rel=1e-5)
        assert field.min() >= 0
    # The middle of stage 1 is position (8, 16): its own patch is around pixel (32, 64).
    peak = divmod(int(fields[0].argmax()), 128)
    assert abs(peak[0] - 32) <= 8
    assert abs(peak[1] - 64) <= 8
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_receptive_field_is_the_size_of_the_jacobian():
    """A network whose feature is a known linear map of one pixel: only that pixel counts, for any signs."""

    class Linear(torch.nn.Module):
        spec = create_model("segformer_b0", 5).spec

        def encode(self, x):
            feature = torch.stack([3 * x[:, 0, 2:4, 2:4], -4 * x[:, 1, 2:4, 2:4]], dim=1)
            return [(feature, None)] * 4

    field = receptive_field(Linear(), torch.rand(2, 3, 4, 4), 1)
    assert field[3, 3].item() == pytest.approx(1)
    assert field.sum().item() == pytest.approx(1)
