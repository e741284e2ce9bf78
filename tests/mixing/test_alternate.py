"""A mixer made of mixers: against its members, called by hand in the same order."""

import pytest
import torch

from recursivemix import Alternate, CutMix, Draw, MixUp, RecursiveMix, create_mixer

K = 5


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(6, 3, 16, 16, generator=generator), torch.randint(K, (6,), generator=generator)


def logits_of(step: int) -> torch.Tensor:
    return torch.randn(6, K, generator=torch.Generator().manual_seed(1000 + step))


def test_batches_and_losses_are_those_of_the_members():
    """Each batch is replayed by the member that its draw names; the history is of the last batch of any."""
    mixer = Alternate(K, members={"recursivemix": {"omega": 0.3}, "cutmix": {"alpha": 0.7}}, seed=3)
    members = [RecursiveMix(K, omega=0.3), CutMix(K, alpha=0.7)]
    seen = set()
    for t in range(40):
        images, labels = data(t)
        batch = mixer(images, labels)
        number = int(batch.draw.member)
        seen.add(number)
        expected = members[number](images, labels, draw=batch.draw._replace(member=None))
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.targets, expected.targets)
        assert torch.equal(batch.lam, expected.lam)
        logits, regions = logits_of(t), logits_of(t + 500)
        losses = mixer.losses(logits, batch, regions)
        assert losses.keys() == {"label", "consistency"}
        if number == 0:
            assert torch.equal(batch.boxes, expected.boxes)
            assert losses == members[0].losses(logits, expected, regions)
        else:
            assert batch.boxes.tolist() == [[0, 0, 16, 16]] * 6
            assert torch.equal(losses["label"], members[1].loss(logits, expected))
            assert losses["consistency"] == 0
        mixer.remember(batch, logits)
        members[0].remember(expected, logits)
    assert seen == {0, 1}


def test_the_region_head_has_a_gradient_in_every_step():
    mixer = Alternate(K, weights=(0, 1))
    batch = mixer(*data(0))
    regions = logits_of(1).requires_grad_()
    mixer.loss(logits_of(0), batch, regions).backward()
    assert torch.equal(regions.grad, torch.zeros(6, K))
    with pytest.raises(ValueError, match="needs the logits of a region head"):
        mixer.loss(logits_of(0), batch)


def test_logits_of_another_kind_are_refused_by_name():
    """On a batch of either member."""
    mixer = Alternate(K)
    for t in range(12):
        batch = mixer(*data(t))
        with pytest.raises(ValueError, match="the loss"):
            mixer.loss([[0.5] * K] * 6, batch, logits_of(t))
        with pytest.raises(ValueError, match="the loss"):
            mixer.loss(logits_of(t), batch, [[0.5] * K] * 6)


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ([1, 3], 0.25), ([5, 0], 1.0)])
def test_members_are_drawn_by_weight(weights, share):
    mixer = Alternate(K, members={"mixup": {}, "cutmix": {}}, weights=weights)
    drawn = [int(mixer.draw(4, (8, 8)).member) for _ in range(2000)]
    assert drawn.count(0) / 2000 == pytest.approx(share, abs=0.035)


def test_options_are_shared_and_prob_may_differ():
    options = {"prob": 0.5, "per_sample": True, "loss": "bce", "label_smoothing": 0.1}
    mixer = Alternate(K, members={"mixup": {}, "cutmix": {"prob": 1.0}}, **options)
    mixup, cutmix = mixer.members
    assert isinstance(mixup, MixUp)
    assert (mixup.prob, cutmix.prob) == (0.5, 1.0)
    for member in mixer.members:
        assert (member.per_sample, member.loss_name, member.label_smoothing) == (True, "bce", 0.1)
    assert mixer.blends
    assert not mixer.trains_regions
    assert mixer(*data(0)).boxes is None


def test_the_switch_reaches_the_history():
    mixer = Alternate(K, weights=(1, 0))
    for t in range(2):
        mixer.remember(mixer(*data(t)), logits_of(t))
    mixer.enabled = False
    batch = mixer(*data(2))
    assert batch.draw == Draw()
    mixer.remember(batch, logits_of(2))
    assert mixer.members[0].history is None


def test_a_state_of_other_members_is_refused():
    state = Alternate(K).state_dict()
    with pytest.raises(ValueError, match="the members recursivemix, cutmix, it can't be loaded into mixup"):
        Alternate(K, members={"mixup": {}}).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": {}}, "members must be a table of at least one mixer"),
        ({"members": ["mixup"]}, "members must be a table of at least one mixer"),
        ({"members": {"transmix": {}}}, "members must be among none, cutout, .* got 'transmix'"),
        ({"members": {"dlb": {}}}, "got 'dlb'"),
        ({"members": {"alternate": {}}}, "got 'alternate'"),
        ({"members": {"mixup": 3}}, "the options of mixup must be a table, got 3"),
        ({"members": {"mixup": {"loss": "bce"}}}, "mixup cannot have its own loss"),
        ({"members": {"mixup": {"area": 1}}}, "does not take these options"),
        ({"weights": [1]}, "weights must be 2 numbers"),
        ({"weights": [0, 0]}, "one above 0"),
        ({"weights": [1, -1]}, "of at least 0"),
        ({"weights": [1, float("nan")]}, "weights must be"),
        ({"weights": "ab"}, "weights must be"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer("alternate", K, **options)


@pytest.mark.parametrize("member", [torch.tensor([2]), torch.tensor([0.0]), torch.tensor(0), 1, "a"])
def test_draws_that_no_member_made(member):
    draw = Alternate(K).draw(6, (16, 16))._replace(member=member)
    with pytest.raises(ValueError, match=r"draw\.member must be"):
        Alternate(K)(*data(0), draw=draw)
