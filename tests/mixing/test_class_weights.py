"""The label loss with class weights, beside torch's with class indices and a loop over mixed labels."""

import pytest
import torch
import torch.nn.functional as F

from recursivemix import CutMix, NoMix, RecursiveMix, create_mixer

K = 5
WEIGHTS = [0.5, 2.0, 1.0, 3.5, 0.1]


def batch_of(mixer, labels):
    images = torch.rand(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return mixer(images, labels)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_unmixed_labels_give_the_loss_of_torch(label_smoothing):
    labels = torch.tensor([0, 3, 3, 1, 4, 2, 0])
    logits = torch.randn(7, K, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mixer = NoMix(K, class_weights=WEIGHTS, label_smoothing=label_smoothing)
    found = mixer.loss(logits, batch_of(mixer, labels))
    weight = torch.tensor(WEIGHTS)
    expected = F.cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_mixed_labels_count_by_their_shares(loss):
    labels = torch.tensor([0, 3, 3, 1])
    if loss == "bce":
        labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
    mixer = CutMix(K, class_weights=WEIGHTS, loss=loss, seed=3)
    logits = torch.randn(4, K, generator=torch.Generator().manual_seed(1))
    batch = batch_of(mixer, labels)
    assert 0 < batch.lam.min() < 1
    total = weights = 0.0
    for i in range(4):
        for c in range(K):
            target = float(batch.targets[i, c])
            if loss == "ce":
                total -= WEIGHTS[c] * target * float(logits[i].log_softmax(0)[c])
                weights += WEIGHTS[c] * target
            else:
                p = float(logits[i, c].sigmoid())
                log = torch.tensor([p, 1 - p]).log()
                total -= WEIGHTS[c] * float(target * log[0] + (1 - target) * log[1])
                weights += WEIGHTS[c]
    assert float(mixer.loss(logits, batch)) == pytest.approx(total / weights, rel=1e-5)


def test_equal_weights_change_nothing():
    labels = torch.tensor([0, 3, 3, 1])
    logits = torch.randn(4, K, generator=torch.Generator().manual_seed(1))
    for loss in ("ce", "bce"):
        plain = CutMix(K, loss=loss, seed=3, label_smoothing=0.1)
        weighted = CutMix(K, loss=loss, seed=3, label_smoothing=0.1, class_weights=[2.0] * K)
        targets = labels if loss == "ce" else F.one_hot(labels, K)
        losses = [mixer.loss(logits, batch_of(mixer, targets)) for mixer in (plain, weighted)]
        torch.testing.assert_close(*losses)


def test_the_consistency_loss_has_no_weights():
    generator = torch.Generator().manual_seed(1)
    logits, region_logits = torch.randn(2, 4, K, generator=generator)
    terms = []
    for weights in (None, WEIGHTS):
        mixer = RecursiveMix(K, class_weights=weights, seed=3)
        for _ in range(2):
            batch = batch_of(mixer, torch.tensor([0, 3, 3, 1]))
            mixer.remember(batch, logits)
        batch = batch_of(mixer, torch.tensor([0, 3, 3, 1]))
        terms.append(mixer.losses(logits, batch, region_logits))
    assert torch.equal(terms[0]["consistency"], terms[1]["consistency"])
    assert not torch.equal(terms[0]["label"], terms[1]["label"])


@pytest.mark.parametrize(
    "weights", [[1.0] * 4, [1, 1, 0, 1, 1], [1, 1, -1, 1, 1], [1, 1, float("nan"), 1, 1]]
)
def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match="class_weights must"):
        NoMix(K, class_weights=weights)


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("shape", [(4, 1), (1, K), (K,), (4, K + 1)])
def test_logits_of_another_shape_are_refused(loss, shape):
    """Most of these shapes would be broadcast, to a loss of something else."""
    mixer = NoMix(K, loss=loss, class_weights=WEIGHTS)
    labels = torch.tensor([0, 3, 3, 1])
    batch = batch_of(mixer, labels if loss == "ce" else F.one_hot(labels, K))
    with pytest.raises(ValueError, match=r"the loss needs logits of shape \(4, 5\)"):
        mixer.loss(torch.zeros(shape), batch)


@pytest.mark.parametrize("method", ["cutmix", "recursivemix"])
def test_several_labels_mix_by_area(method):
    """A loop over pixels: the labels of an image count by its share, also where both images have one."""
    mixer = create_mixer(method, K, loss="bce", seed=5)
    labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
    previous, mixed_count = None, 0
    for step in range(6):
        # The first channel holds the image's number, to see whose pixel is where.
        images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8).clone()
        images += 10 * step
        batch = mixer(images, labels)
        mixer.remember(batch, torch.zeros(4, K))
        for i in range(4):
            expected = torch.zeros(K)
            if method == "cutmix":
                for pixel in batch.images[i, 0].flatten().tolist():
                    expected += labels[round(pixel) % 10] / 64
            elif batch.boxes is not None and previous is not None:
                x1, y1, x2, y2 = batch.boxes[i].tolist()
                inside = 0
                for y in range(8):
                    for x in range(8):
                        inside += x1 <= x < x2 and y1 <= y < y2
                pasted = inside if batch.lam[i] < 1 else 0
                partner = previous.targets[i] if pasted else torch.zeros(K)
                expected = labels[i] * (64 - pasted) / 64 + partner * pasted / 64
            else:
                expected = labels[i].float()
            torch.testing.assert_close(batch.targets[i], expected)
            mixed_count += float(batch.lam[i]) < 1
        previous = batch
    assert mixed_count
