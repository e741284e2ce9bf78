"""Temporal ensembling, mean teacher and DLB against plain loops over samples and parameters."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from recursivemix import DLB, MeanTeacher, TemporalEnsembling, create_mixer

K = 4


def network(dropout=0.0):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(24, K),
    )


def data(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 4, 4, generator=generator), torch.randint(K, (count,), generator=generator)


def softmax(row, temperature=1.0):
    powers = [math.exp(float(v) / temperature) for v in row]
    return [p / sum(powers) for p in powers]


def kept(mixer):
    """What a file of the mixer's state gives back."""
    file = io.BytesIO()
    torch.save(mixer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class TestTemporalEnsembling:
    def test_is_the_loop_over_samples(self):
        mixer = TemporalEnsembling(K, weight=7, momentum=0.6, rampup=3)
        ensemble, counts = {}, {}
        generator = torch.Generator().manual_seed(1)
        for epoch in range(5):
            mixer.start_epoch()
            order = torch.randperm(23, generator=generator)
            for indices in order[: 23 - epoch].split(5):  # some samples are left out of some epochs
                images, labels = data(len(indices))
                batch = mixer(images, labels, indices=indices)
                assert batch.images is images
                logits = torch.randn(len(indices), K, generator=generator)
                total = 0.0
                for i, index in enumerate(indices.tolist()):
                    now = softmax(logits[i])
                    if index in ensemble:
                        past = [v / (1 - 0.6 ** counts[index]) for v in ensemble[index]]
                        total += sum((a - b) ** 2 for a, b in zip(now, past, strict=True)) / K
                    old = ensemble.get(index, [0.0] * K)
                    ensemble[index] = [0.6 * a + 0.4 * b for a, b in zip(old, now, strict=True)]
                    counts[index] = counts.get(index, 0) + 1
                ramp = math.exp(-5 * (1 - min(epoch / 3, 1)) ** 2)
                losses = mixer.losses(logits, batch)
                expected = torch.tensor(7 * ramp * total / len(indices))
                torch.testing.assert_close(losses["consistency"], expected, atol=1e-6, rtol=1e-4)
                expected = nn.functional.cross_entropy(logits, labels)
                torch.testing.assert_close(losses["label"], expected)
                mixer.remember(batch, logits)

    def test_what_it_asks_for_is_a_prediction(self):
        """The bias of the start is corrected: rows of probabilities, and those of a constant network."""
        mixer = TemporalEnsembling(K)
        images, labels = data()
        logits = torch.randn(6, K)
        indices = torch.tensor([3, 100, 0, 7, 50, 51])
        assert (mixer(images, labels, indices=indices).history_probs == 0).all()
        for _ in range(4):
            mixer.remember(mixer(images, labels, indices=indices), logits)
            probs = mixer(images, labels, indices=indices).history_probs
            torch.testing.assert_close(probs, logits.softmax(1))
        unknown = mixer(images, labels, indices=torch.tensor([3, 4, 10_000, 7, 1, 2])).history_probs
        assert (unknown.sum(1) > 0).tolist() == [True, False, False, True, False, False]

    def test_sees_no_gradient_and_gives_one(self):
        mixer = TemporalEnsembling(K, rampup=0)
        images, labels = data()
        logits = torch.randn(6, K, requires_grad=True)
        indices = torch.arange(6)
        mixer.remember(mixer(images, labels, indices=indices), logits)
        batch = mixer(images, labels, indices=indices)
        assert not batch.history_probs.requires_grad
        now = (logits.detach() + torch.arange(K)).requires_grad_()
        mixer.losses(now, batch)["consistency"].backward()
        assert now.grad.abs().sum() > 0
        assert logits.grad is None

    def test_a_sample_that_stands_twice_counts_once(self):
        mixer = TemporalEnsembling(K)
        images, labels = data(3)
        logits = torch.randn(3, K)
        indices = torch.tensor([1, 1, 0])
        mixer.remember(mixer(images, labels, indices=indices), logits)
        probs = mixer(images, labels, indices=indices).history_probs
        torch.testing.assert_close(probs, logits[[1, 1, 2]].softmax(1))  # the last one's

    def test_several_labels_are_compared_as_such(self):
        mixer = TemporalEnsembling(K, loss="bce", rampup=0, weight=1)
        images, _ = data(2)
        targets = torch.ones(2, K)
        first, second = torch.randn(2, 2, K)
        mixer.remember(mixer(images, targets, indices=torch.arange(2)), first)
        losses = mixer.losses(second, mixer(images, targets, indices=torch.arange(2)))
        expected = (first.sigmoid() - second.sigmoid()).square().mean()
        torch.testing.assert_close(losses["consistency"], expected)

    def test_wrong_use_is_named(self):
        mixer = TemporalEnsembling(K)
        images, labels = data()
        with pytest.raises(ValueError, match=r"call mixer\(images, labels, indices=indices\)"):
            mixer(images, labels)
        with pytest.raises(ValueError, match="counted from 0"):
            mixer(images, labels, indices=torch.arange(-1, 5))
        batch = mixer(images, labels, indices=torch.arange(6))
        with pytest.raises(ValueError, match=r"logits of shape \(6, 4\), got None"):
            mixer.remember(batch)
        with pytest.raises(ValueError, match="last batch, once"):
            mixer.remember(batch, torch.zeros(6, K))
        with pytest.raises(ValueError, match="momentum must be below 1"):
            TemporalEnsembling(K, momentum=1)
        with pytest.raises(ValueError, match="weight of a loss and must be 0 or more and finite, got -1"):
            TemporalEnsembling(K, weight=-1)
        with pytest.raises(ValueError, match="the state of 4 classes, this mixer has 5"):
            TemporalEnsembling(K + 1).load_state_dict(mixer.state_dict())

    def test_off_means_off(self):
        mixer = TemporalEnsembling(K)
        images, labels = data()
        for switch in ("eval", "disabled"):
            mixer.train(switch != "eval").enabled = switch != "disabled"
            batch = mixer(images, labels)
            assert mixer.losses(torch.zeros(6, K), batch)["consistency"] == 0
            mixer.remember(batch, torch.zeros(6, K))


class TestMeanTeacher:
    def test_is_the_loop_over_parameters(self):
        """Weights, predictions and losses of the teacher, step by step, through an optimiser."""
        torch.manual_seed(0)
        model = network()
        twin = copy.deepcopy(model).train()
        mixer = MeanTeacher(K, model, decay=0.7, weight=3, rampup=2, noise=0.1)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for step in range(9):
            if step % 3 == 0:
                mixer.start_epoch()
            if step > 0:
                decay = min(1 - 1 / (step + 1), 0.7)
                for mean, student in zip(twin.parameters(), model.parameters(), strict=True):
                    mean.data = decay * mean.data + (1 - decay) * student.data
            images, labels = data(seed=step)
            batch = mixer(images, labels)
            for mean, teacher in zip(twin.parameters(), mixer.teacher.parameters(), strict=True):
                torch.testing.assert_close(teacher, mean, atol=1e-6, rtol=1e-5)
            noise = torch.Generator().manual_seed(int(batch.draw.noise_seed))
            for_student, for_teacher = (0.1 * torch.randn(6, 3, 4, 4, generator=noise) for _ in range(2))
            torch.testing.assert_close(batch.images, images + for_student)
            with torch.no_grad():
                probs = twin(images + for_teacher).softmax(1)
            torch.testing.assert_close(batch.history_probs, probs, atol=1e-5, rtol=1e-4)
            logits = model(batch.images)
            losses = mixer.losses(logits, batch)
            ramp = math.exp(-5 * (1 - min(step // 3 / 2, 1)) ** 2)
            expected = 3 * ramp * (logits.softmax(1) - probs).square().mean()
            torch.testing.assert_close(losses["consistency"], expected, atol=1e-5, rtol=1e-3)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            mixer.remember(batch, logits)
        assert all(not p.requires_grad and p.grad is None for p in mixer.teacher.parameters())
        for (name, a), (_, b) in zip(mixer.teacher.named_buffers(), twin.named_buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)  # its own statistics

    def test_dropout_of_the_two_is_independent_and_replayed(self):
        torch.manual_seed(0)
        model = network(dropout=0.5)
        mixer = MeanTeacher(K, model, noise=0)
        images, labels = data()
        before = torch.get_rng_state()
        batch = mixer(images, labels)
        assert torch.equal(before, torch.get_rng_state())
        assert batch.images is images
        same = copy.deepcopy(model)
        student = same(images).softmax(1)
        assert not torch.allclose(student, batch.history_probs, atol=1e-3)
        torch.rand(1)
        assert torch.equal(mixer(images, labels, draw=batch.draw).history_probs, batch.history_probs)
        assert not torch.equal(mixer(images, labels).history_probs, batch.history_probs)

    def test_a_replayed_batch_is_no_step(self):
        model = network()
        mixer = MeanTeacher(K, model)
        images, labels = data()
        batch = mixer(images, labels)
        before = copy.deepcopy(mixer.teacher.state_dict())["0.weight"]
        nn.init.zeros_(model[0].weight)
        mixer(images, labels, draw=batch.draw)
        assert torch.equal(mixer.teacher[0].weight, before)
        mixer.remember(batch)
        mixer(images, labels)
        assert not torch.equal(mixer.teacher[0].weight, before)

    def test_off_means_off(self):
        model = network()
        mixer = MeanTeacher(K, model)
        images, labels = data()
        mixer.remember(mixer(images, labels))
        before = copy.deepcopy(mixer.teacher.state_dict())
        batch = mixer.eval()(images, labels)
        assert batch.images is images
        assert mixer.losses(torch.zeros(6, K), batch)["consistency"] == 0
        mixer.remember(batch)
        after = mixer.teacher.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        mixer.train().enabled = False
        mixer.remember(mixer(images, labels))
        assert mixer.teacher is None  # by the time it is on again, an average of old weights

    def test_the_network_is_left_alone(self):
        model = network()
        before = copy.deepcopy(model.state_dict())
        MeanTeacher(K, model)(*data())
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_wrong_settings_are_named(self):
        for options, message in (
            ({"decay": 1.5}, r"decay must be in \[0, 1\]"),
            ({"noise": -1}, "standard deviation"),
            ({"weight": -1}, "weight of a loss"),
        ):
            with pytest.raises(ValueError, match=message):
                MeanTeacher(K, network(), **options)
        with pytest.raises(ValueError, match=r"floating, normalised images, got torch.uint8"):
            MeanTeacher(K, network())(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2))


class TestDLB:
    def test_is_the_loop_over_samples(self):
        mixer = DLB(K, weight=0.5, temperature=3)
        past = []  # (image, label, logits) of the second half
        for t, count in enumerate((6, 6, 7, 4, 9, 1, 5, 6)):
            images, labels = data(count, seed=t)
            before = images.clone()
            batch = mixer(images, labels)
            assert torch.equal(images, before)
            repeated = past[: count // 2]
            here = list(zip(before, labels, strict=True))
            here[: len(repeated)] = [(image, label) for image, label, _ in repeated]
            assert torch.equal(batch.images, torch.stack([image for image, _ in here]))
            assert batch.labels.tolist() == [int(label) for _, label in here]
            assert batch.targets.argmax(1).tolist() == [int(label) for _, label in here]
            assert batch.lam.tolist() == [0.0] * len(repeated) + [1.0] * (count - len(repeated))
            logits = torch.randn(count, K)
            total = 0.0
            for i, (_, _, then) in enumerate(repeated):
                p, q = softmax(then, 3), softmax(logits[i], 3)
                total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            losses = mixer.losses(logits, batch)
            expected = torch.tensor(0.5 * 9 * total / max(len(repeated), 1))
            torch.testing.assert_close(losses["consistency"], expected, atol=1e-6, rtol=1e-4)
            expected = nn.functional.cross_entropy(logits, batch.labels)
            torch.testing.assert_close(losses["label"], expected)
            mixer.remember(batch, logits)
            half = count // 2
            past = [(*here[i], logits[i]) for i in range(count - half, count)]

    def test_masks_and_soft_labels_go_with_their_images(self):
        mixer = DLB(K)
        images, labels = data()
        soft = torch.eye(K)[labels] * 0.9 + 0.025
        masks = torch.arange(6).view(6, 1, 1).expand(6, 4, 4).contiguous()
        first = mixer(images, soft, masks=masks)
        mixer.remember(first, torch.zeros(6, K))
        batch = mixer(images, soft, masks=masks + 10)
        assert batch.masks[:, 0, 0].tolist() == [3, 4, 5, 13, 14, 15]
        torch.testing.assert_close(batch.labels[:3], soft[3:])
        torch.testing.assert_close(batch.targets[:3], soft[3:])

    @pytest.mark.parametrize("other", ["size", "kind of labels", "masks", "integers"])
    def test_what_does_not_fit_is_not_repeated(self, other, caplog):
        mixer = DLB(K)
        images, labels = data()
        mixer.remember(mixer(images, labels), torch.zeros(6, K))
        given = {
            "size": (images[..., :3], labels),
            "kind of labels": (images, torch.eye(K)[labels]),
            "masks": (images, labels),
            "integers": (images.byte(), labels),
        }[other]
        masks = torch.zeros(6, 4, 4, dtype=torch.long) if other == "masks" else None
        batch = mixer(*given, masks=masks)
        assert batch.images is given[0]
        assert (batch.lam == 1).all()
        assert mixer.losses(torch.randn(6, K), batch)["consistency"] == 0
        assert "nothing is repeated" in caplog.text

    def test_the_history_is_a_copy(self):
        mixer = DLB(K)
        images, labels = data()
        expected = images[3:].clone()
        mixer.remember(mixer(images, labels), torch.zeros(6, K))
        images.zero_()  # a loader that refills its buffer
        assert torch.equal(mixer(images, labels).images[:3], expected)

    def test_off_means_off_and_forgets(self):
        mixer = DLB(K)
        images, labels = data()
        mixer.remember(mixer(images, labels), torch.zeros(6, K))
        mixer.enabled = False
        batch = mixer(images, labels)
        assert batch.images is images
        assert mixer.losses(torch.randn(6, K), batch)["consistency"] == 0
        mixer.remember(batch, torch.zeros(6, K))
        mixer.enabled = True
        assert (mixer(images, labels).lam == 1).all()

    def test_wrong_use_is_named(self):
        for options, message in (
            ({"loss": "bce"}, "needs loss='ce', got 'bce'"),
            ({"temperature": 0}, "above 0 and finite"),
            ({"weight": float("nan")}, "weight of a loss"),
        ):
            with pytest.raises(ValueError, match=message):
                DLB(K, **options)
        mixer = DLB(K)
        with pytest.raises(ValueError, match=r"logits of shape \(6, 4\), got None"):
            mixer.remember(mixer(*data()))

    def test_a_state_of_other_classes_is_not_repeated(self, caplog):
        mixer, other = DLB(K), DLB(K + 1)
        mixer.remember(mixer(*data()), torch.zeros(6, K))
        other.load_state_dict(mixer.state_dict())
        assert (other(*data()).lam == 1).all()
        assert "does not fit this one" in caplog.text


@pytest.mark.parametrize("name", ["temporal_ensembling", "mean_teacher", "dlb"])
def test_training_resumes_bit_for_bit(name):
    def start():
        torch.manual_seed(0)
        model = network()
        return model, create_mixer(name, K, model, seed=3), torch.optim.SGD(model.parameters(), 0.1)

    def run(model, mixer, optimizer, steps):
        found = []
        for t in steps:
            if t % 4 == 0:
                mixer.start_epoch()
            images, labels = data(seed=t)
            batch = mixer(images, labels, indices=6 * (t % 4) + torch.arange(6))
            logits = model(batch.images)
            losses = mixer.losses(logits, batch)
            mixer.remember(batch, logits)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            found += [losses["consistency"].detach(), batch.images, batch.targets]
        return found + [p.detach().clone() for p in model.parameters()]

    whole = run(*start(), range(14))
    first = start()
    run(*first, range(6))  # within an epoch
    state = kept(first[1])
    second = start()
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(state)
    rest = run(*second, range(6, 14))
    assert any(value.dim() == 0 and value > 0 for value in rest)
    for a, b in zip(whole[-len(rest) :], rest, strict=True):
        assert torch.equal(a, b)
    # The state that was loaded is nobody's to write into.
    third = start()
    third[0].load_state_dict(first[0].state_dict())
    third[1].load_state_dict(state)
    for a, b in zip(rest, run(*third, range(6, 14)), strict=True):
        assert torch.equal(a, b)
