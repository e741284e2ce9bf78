"""RecursiveMix against the paper: a slow twin written in loops, its history step by step, its extras."""

import io
import math

import pytest
import torch

from recursivemix import RecursiveMix

K = 7


class PaperInLoops:
    """The method as docs/paper.md 1.1 tells it, in Python numbers and lists. Independent of the package.

    Its only random source is a torch stream of the same seed: gate, area, centre row and centre column.
    """

    def __init__(self, seed, alpha=0.5, omega=0.5):
        self.generator = torch.Generator().manual_seed(seed)
        self.alpha, self.omega = alpha, omega
        self.past = None

    def epoch(self):
        self.past = None

    def mix(self, images, labels):
        """images: nested lists [B][C][H][W]; returns mixed images, targets, lam, box."""
        height, width = len(images[0][0]), len(images[0][0][0])
        _, u, v_row, v_column = torch.rand(1, 4, generator=self.generator, dtype=torch.float64)[0].tolist()
        targets = [[1.0 if k == label else 0.0 for k in range(K)] for label in labels]
        if self.past is None:
            return images, targets, 1.0, None
        side = math.sqrt(u * self.alpha)
        half_w, half_h = math.floor(width * side) // 2, math.floor(height * side) // 2
        row, column = int(v_row * height), int(v_column * width)
        x1, x2 = max(column - half_w, 0), min(column + half_w, width)
        y1, y2 = max(row - half_h, 0), min(row + half_h, height)
        if x2 <= x1 or y2 <= y1:
            return images, targets, 1.0, None
        lam = 1 - (x2 - x1) * (y2 - y1) / (height * width)
        past_images, past_targets, _ = self.past
        mixed = []
        for i, image in enumerate(images):
            rows = []
            for c, channel in enumerate(image):
                rows.append([line[:] for line in channel])
                source = past_images[i][c]
                for y in range(y1, y2):
                    for x in range(x1, x2):
                        from_y = (y - y1) * len(source) // (y2 - y1)
                        from_x = (x - x1) * len(source[0]) // (x2 - x1)
                        rows[-1][y][x] = source[from_y][from_x]
            mixed.append(rows)
        fused = [
            [lam * new + (1 - lam) * old for new, old in zip(target, past_targets[i], strict=True)]
            for i, target in enumerate(targets)
        ]
        return mixed, fused, lam, (x1, y1, x2, y2)

    def loss(self, logits, region_logits, targets, lam):
        label = sum(cross_entropy(z, t) for z, t in zip(logits, targets, strict=True)) / len(logits)
        if lam == 1:
            return label
        past_logits = self.past[2]
        pairs = zip(region_logits, past_logits[: len(logits)], strict=True)
        agreement = sum(cross_entropy(z, softmax(p)) for z, p in pairs) / len(logits)
        return label + self.omega * (1 - lam) * agreement

    def remember(self, images, targets, logits):
        self.past = (images, targets, logits)


def softmax(logits):
    top = max(logits)
    powers = [math.exp(z - top) for z in logits]
    return [p / sum(powers) for p in powers]


def cross_entropy(logits, target):
    return -sum(t * math.log(p) for t, p in zip(target, softmax(logits), strict=True))


@pytest.mark.parametrize("size", [(16, 16), (8, 13), (11, 6)])
def test_agrees_with_the_paper_in_loops_over_a_hundred_steps(size):
    """Pixel for pixel, label for label, loss for loss: two epochs, each with a short last batch."""
    mixer = RecursiveMix.paper(K, omega=0.3, seed=17)
    twin = PaperInLoops(seed=17, omega=0.3)
    source = torch.Generator().manual_seed(0)
    mixed_steps = 0
    for t in range(100):
        if t % 50 == 0:
            mixer.start_epoch()
            twin.epoch()
        batch_size = 3 if t % 50 == 49 else 4
        images = torch.randn(batch_size, 2, *size, generator=source)
        labels = torch.randint(K, (batch_size,), generator=source)
        logits, region_logits = 3 * torch.randn(2, batch_size, K, generator=source)

        batch = mixer(images, labels)
        loss = mixer.loss(logits, batch, region_logits)
        mixer.remember(batch, logits)

        twin_images, twin_targets, lam, box = twin.mix(images.tolist(), labels.tolist())
        twin_loss = twin.loss(logits.tolist(), region_logits.tolist(), twin_targets, lam)
        twin.remember(twin_images, twin_targets, logits.tolist())

        assert batch.images.tolist() == twin_images
        torch.testing.assert_close(batch.targets, torch.tensor(twin_targets), atol=1e-6, rtol=0)
        assert loss.item() == pytest.approx(twin_loss, abs=1e-5)
        assert batch.lam.tolist() == pytest.approx([lam] * batch_size, abs=1e-7)
        whole = (0, 0, size[1], size[0])
        assert batch.boxes.tolist() == [list(box or whole)] * batch_size
        mixed_steps += lam < 1
    assert mixed_steps > 60  # narrow images often draw an empty box


def test_history_step_by_step():
    """After each call, what is read and what is stored."""
    mixer = RecursiveMix(K, seed=1)
    first, second = torch.full((2, 1, 32, 32), 1.0), torch.full((2, 1, 32, 32), 2.0)
    labels = torch.tensor([1, 1])
    assert mixer.history is None

    batch = mixer(first, labels)
    assert batch.images is first
    assert mixer.history is None  # the call reads, it never writes

    logits = torch.randn(2, K, requires_grad=True)
    mixer.remember(batch, logits)
    assert mixer.history.images.data_ptr() == first.data_ptr()  # a reference, no copy
    assert not mixer.history.probs.requires_grad
    torch.testing.assert_close(mixer.history.probs, logits.detach().softmax(-1))

    mixed = mixer(second, torch.tensor([2, 2]))
    assert set(mixed.images.unique().tolist()) == {1.0, 2.0}
    assert mixer.history.images.data_ptr() == first.data_ptr()
    assert torch.equal(mixed.history_probs, mixer.history.probs)

    mixer.remember(mixed, logits)
    third = mixer(torch.full((2, 1, 32, 32), 3.0), torch.tensor([3, 3]))
    assert mixer.history.images is not first
    # The recursion: the first label is still there, weighted twice.
    expected = (1 - third.lam[0]) * (1 - mixed.lam[0])
    assert third.targets[0, 1].item() == pytest.approx(expected.item(), abs=1e-6)

    mixer.reset()
    assert mixer.history is None
    assert (mixer(second, labels).lam == 1).all()


def test_epochs_begin_without_history_unless_told():
    for across, kept in ((False, False), (True, True)):
        mixer = RecursiveMix(K, across_epochs=across)
        mixer.remember(mixer(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])), torch.zeros(2, K))
        mixer.start_epoch()
        assert (mixer.history is not None) == kept


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("size", [(24, 10), (9, 31), (32, 32)])
def test_the_box_points_at_the_patch(size, per_sample):
    """The authors' first release had the box transposed (docs/paper.md 1.2)."""
    mixer = RecursiveMix(K, per_sample=per_sample, seed=2)
    labels = torch.zeros(3, dtype=torch.long)
    for _ in range(20):
        mixer.reset()
        mixer.remember(mixer(torch.ones(3, 1, *size), labels), torch.zeros(3, K))
        batch = mixer(torch.zeros(3, 1, *size), labels)
        for image, (x1, y1, x2, y2), lam in zip(batch.images, batch.boxes.tolist(), batch.lam, strict=True):
            if lam == 1:
                assert (x1, y1, x2, y2) == (0, 0, size[1], size[0])
                assert image.sum() == 0
                continue
            assert image[0, y1:y2, x1:x2].all()
            assert image.sum() == (y2 - y1) * (x2 - x1)


def test_samples_without_a_partner_stay_unmixed():
    mixer = RecursiveMix(K, seed=3)
    mixer.remember(mixer(torch.ones(2, 3, 16, 16), torch.tensor([1, 1])), torch.zeros(2, K))
    for per_sample in (False, True):
        mixer.per_sample = per_sample
        batch = mixer(torch.zeros(5, 3, 16, 16), torch.tensor([0] * 5))
        assert (batch.lam[2:] == 1).all()
        assert (batch.images[2:] == 0).all()
        assert (batch.targets[2:, 0] == 1).all()
        assert batch.boxes[2:].tolist() == [[0, 0, 16, 16]] * 3
        assert (batch.history_probs[2:] == 0).all()
        assert (batch.lam[:2] < 1).any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["pixel", "logits"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("side", [32, 80])  # below and above the size that is pasted sample by sample
def test_nothing_non_finite_is_read_from_the_history(value, where, per_sample, side):
    """Only what is pasted counts: a pixel that the shrunken image leaves out may be anything."""
    mixer = RecursiveMix(K, seed=4, per_sample=per_sample)
    images, logits = torch.ones(4, 3, side, side), torch.zeros(4, K)
    (images[2, 1, 13, 17:18] if where == "pixel" else logits[2]).fill_(value)
    labels = torch.zeros(4, dtype=torch.long)
    mixer.remember(mixer(images, labels), logits)
    mark = torch.zeros(1, 1, side, side)
    mark[..., 13, 17] = 1
    dropped, mixed = 0, 0
    for _ in range(25):
        batch = mixer(torch.zeros(4, 3, side, side), labels + 1)
        assert torch.isfinite(batch.images).all()
        assert torch.isfinite(batch.targets).all()
        assert torch.isfinite(mixer.loss(torch.zeros(4, K), batch, torch.zeros(4, K)))
        x1, y1, x2, y2 = batch.draw.boxes[2 if per_sample else 0].tolist()
        empty = x2 <= x1 or y2 <= y1
        used = where == "logits"
        if where == "pixel" and not empty:
            used = bool(torch.nn.functional.interpolate(mark, size=(y2 - y1, x2 - x1)).any())
        assert (batch.lam[2] == 1) == (used or empty)
        assert (batch.images[2] == 0).all() == (used or empty)
        dropped, mixed = dropped + used, mixed + bool((batch.lam[[0, 1, 3]] < 1).any())
        assert mixer.stats == {"dropped_non_finite": dropped}
    assert dropped > 0
    assert mixed > 20
    mixer.remember(batch, torch.zeros(4, K))
    assert mixer.history.valid is None  # all are finite


@pytest.mark.parametrize(("batch_size", "dropped"), [(4, 1), (7, 1), (3, 0)])
def test_samples_without_a_history_are_not_counted_as_dropped(batch_size, dropped):
    mixer = RecursiveMix(K, seed=4)
    logits = torch.zeros(4, K)
    logits[3] = math.nan
    mixer.remember(mixer(torch.ones(4, 3, 16, 16), torch.zeros(4, dtype=torch.long)), logits)
    batch = mixer(torch.zeros(batch_size, 3, 16, 16), torch.zeros(batch_size, dtype=torch.long))
    assert batch.lam[0] < 1
    assert (batch.lam[3:] == 1).all()
    assert mixer.stats == {"dropped_non_finite": dropped}


def test_samples_that_are_not_mixed_count_in_the_mean_of_the_consistency():
    mixer = RecursiveMix(K, seed=4, omega=0.3)
    logits = torch.randn(4, K, generator=torch.Generator().manual_seed(0))
    logits[3] = math.nan
    mixer.remember(mixer(torch.ones(4, 3, 16, 16), torch.zeros(4, dtype=torch.long)), logits)
    batch = mixer(torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    assert (batch.lam < 1).tolist() == [True, True, True, False]
    region_logits = torch.randn(4, K, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for lam, row, before in zip(batch.lam.tolist(), region_logits, logits, strict=True):
        if lam < 1:
            total -= (1 - lam) * float((before.softmax(0) * row.log_softmax(0)).sum())
    found = mixer.losses(torch.zeros(4, K), batch, region_logits)["consistency"]
    assert float(found) == pytest.approx(0.3 * total / 4, rel=1e-5)


def test_history_that_does_not_fit_is_not_used(caplog):
    mixer = RecursiveMix(K)
    mixer.remember(mixer(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])), torch.zeros(2, K))
    batch = mixer(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    assert (batch.lam == 1).all()
    assert "does not fit" in caplog.text


def test_switching_off_forgets():
    """What is old by the time mixing starts again is no history."""
    mixer = RecursiveMix(K)
    step = lambda: mixer.remember(mixer(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])), torch.zeros(2, K))  # noqa: E731
    step()
    mixer.enabled = False
    step()
    assert mixer.history is None
    mixer.enabled = True
    step()
    mixer.eval()
    kept = mixer.history
    step()
    assert mixer.history is kept  # evaluation neither reads nor writes


def test_omega_zero_needs_no_regions():
    mixer = RecursiveMix(K, omega=0)
    for t in range(3):
        batch = mixer(torch.full((2, 3, 8, 8), float(t)), torch.tensor([t, t]))
        assert batch.boxes is None
        assert batch.history_probs is None
        mixer.loss(torch.zeros(2, K), batch)
        mixer.remember(batch)
    assert batch.lam[0] < 1


def test_state_holds_plain_values_and_tensors():
    mixer = RecursiveMix(K)
    masks = torch.ones(2, 8, 8, dtype=torch.long)
    batch = mixer(torch.ones(2, 3, 8, 8), torch.tensor([0, 1]), masks=masks)
    mixer.remember(batch, torch.zeros(2, K))
    file = io.BytesIO()
    torch.save(mixer.state_dict(), file)
    file.seek(0)
    other = RecursiveMix(K)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.history.images, batch.images)
    assert torch.equal(other.history.masks, masks)
    assert other.stats == mixer.stats


def test_alpha_is_max_area():
    assert RecursiveMix(K, alpha=0.3).max_area == RecursiveMix(K, max_area=0.3).max_area == 0.3
    paper = RecursiveMix.paper(K)
    assert (paper.max_area, paper.omega, paper.interpolation) == (0.5, 0.5, "nearest")


def test_integer_images_keep_their_values():
    """A uint8 history is pasted as it is by nearest, and rounded by the others."""
    for interpolation in ("nearest", "bilinear", "area"):
        mixer = RecursiveMix(K, interpolation=interpolation, omega=0)
        for value in (200, 7):
            batch = mixer(torch.full((2, 3, 16, 16), value, dtype=torch.uint8), torch.tensor([0, 1]))
            mixer.remember(batch)
        assert batch.images.dtype == torch.uint8
        assert set(batch.images.unique().tolist()) == {7, 200}


def test_consistency_has_the_gradient_of_the_kl_divergence():
    """The figure says KL, the code soft cross-entropy: the same gradient (docs/paper.md 1.1)."""
    mixer = RecursiveMix(K, omega=0.7, seed=5)
    past = torch.randn(3, K)
    mixer.remember(mixer(torch.ones(3, 3, 16, 16), torch.tensor([0, 1, 2])), past)
    batch = mixer(torch.zeros(3, 3, 16, 16), torch.tensor([0, 1, 2]))
    assert batch.lam[0] < 1
    region_logits = torch.randn(3, K, requires_grad=True)
    (ours,) = torch.autograd.grad(
        mixer.losses(torch.zeros(3, K), batch, region_logits)["consistency"], region_logits
    )
    kl = torch.nn.functional.kl_div(region_logits.log_softmax(-1), past.softmax(-1), reduction="batchmean")
    (theirs,) = torch.autograd.grad(0.7 * (1 - batch.lam[0]) * kl, region_logits)
    torch.testing.assert_close(ours, theirs)


def test_a_refilled_buffer_is_noticed():
    """The history is a reference; labels of one image and pixels of another would be silent."""
    for inplace in (False, True):
        mixer = RecursiveMix(K, inplace=inplace)
        buffer = torch.ones(2, 3, 16, 16)
        mixer.remember(mixer(buffer, torch.tensor([0, 1])), torch.zeros(2, K))
        buffer.fill_(2)
        with pytest.raises(ValueError, match="written over"):
            mixer(buffer, torch.tensor([0, 1]))


def test_refilled_labels_and_masks_are_noticed():
    """They are references too where nothing was mixed, as in the first step."""
    mixer = RecursiveMix(K, omega=0)
    images, masks = torch.ones(2, 3, 16, 16), torch.zeros(2, 16, 16, dtype=torch.long)
    for buffer in ("labels", "masks"):
        mixer.reset()
        labels = torch.eye(K)[:2]
        mixer.remember(mixer(images, labels, masks=masks))
        (labels if buffer == "labels" else masks).fill_(1)
        with pytest.raises(ValueError, match="targets or masks were written over"):
            mixer(images, torch.tensor([0, 1]))


def test_the_same_batch_may_be_given_again():
    for inplace in (False, True):
        mixer = RecursiveMix(K, inplace=inplace)
        images = torch.ones(2, 3, 16, 16)
        for _ in range(4):
            mixer.remember(mixer(images, torch.tensor([0, 1])), torch.zeros(2, K))


def test_a_state_does_not_save_what_the_history_is_a_view_of():
    everything = torch.ones(500, 3, 16, 16)
    mixer = RecursiveMix(K, omega=0)
    mixer.remember(mixer(everything[:2], torch.tensor([0, 1])))
    file = io.BytesIO()
    torch.save(mixer.state_dict(), file)
    assert len(file.getvalue()) < 100_000


def test_a_history_without_probabilities_is_no_target():
    first = RecursiveMix(K, omega=0)
    first.remember(first(torch.ones(2, 3, 16, 16), torch.tensor([0, 1])))
    second = RecursiveMix(K, omega=0.5)
    second.load_state_dict(first.state_dict())
    assert (second(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])).lam == 1).all()


def test_integer_and_floating_pixels_are_not_mixed():
    mixer = RecursiveMix(K, omega=0)
    mixer.remember(mixer(torch.full((2, 3, 16, 16), -1.7), torch.tensor([0, 1])))
    batch = mixer(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1]))
    assert (batch.images == 0).all()
    assert (batch.lam == 1).all()


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_cut_takes_the_histories_own_pixels(per_sample):
    """The ablation's cut: CutMix's patch, from the history."""
    mixer = RecursiveMix(K, patch="cut", per_sample=per_sample, seed=4)
    past = torch.rand(3, 2, 12, 20)
    mixer.remember(mixer(past, torch.tensor([0, 1, 2])), torch.zeros(3, K))
    images = torch.rand(3, 2, 12, 20)
    batch = mixer(images, torch.tensor([3, 3, 3]))
    for i in range(3):
        x1, y1, x2, y2 = batch.draw.boxes[i if per_sample else 0].tolist()
        expected = images[i].clone()
        for y in range(y1, y2):
            for x in range(x1, x2):
                expected[:, y, x] = past[i, :, y, x]
        assert torch.equal(batch.images[i], expected)
        assert batch.lam[i].item() == pytest.approx(1 - (x2 - x1) * (y2 - y1) / 240)


def test_a_cut_needs_a_history_of_the_same_size(caplog):
    mixer = RecursiveMix(K, patch="cut")
    mixer.remember(mixer(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])), torch.zeros(2, K))
    assert (mixer(torch.zeros(2, 3, 9, 8), torch.tensor([0, 1])).lam == 1).all()
    assert "another size to cut from" in caplog.text


@pytest.mark.parametrize("patch", ["resize", "cut"])
def test_a_partner_of_the_same_batch_needs_no_history(patch):
    mixer = RecursiveMix(K, partner="batch", patch=patch, omega=0, seed=1)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()
    labels = torch.arange(4)
    mixed = 0
    for _ in range(10):
        batch = mixer(images, labels)
        assert batch.boxes is None
        for i, partner in enumerate(batch.draw.partners.tolist()):
            share = (batch.images[i] == i).float().mean().item()
            if partner == i:
                continue
            assert share == pytest.approx(batch.lam[i].item(), abs=1e-6)
            assert (batch.images[i] == partner).float().mean().item() == pytest.approx(1 - share, abs=1e-6)
            assert batch.targets[i, partner].item() == pytest.approx(1 - share, abs=1e-6)
            mixed += share < 1
        mixer.remember(batch, torch.zeros(4, K))
        assert mixer.history is None
    assert mixed > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partner": "other"}, "'history' or 'batch', got 'other'"),
        ({"patch": "crop"}, "'resize' or 'cut', got 'crop'"),
        ({"partner": "batch"}, "omega=0, got 0.5"),
        ({"patch": "cut", "interpolation": "area"}, "patch='cut' shrinks nothing, so interpolation='area'"),
    ],
)
def test_wrong_parts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RecursiveMix(K, **options)


def test_recipes_can_be_cut():
    """They state the default interpolation."""
    assert RecursiveMix(K, patch="cut", interpolation="nearest").patch == "cut"
    assert RecursiveMix.paper(K, patch="cut").patch == "cut"


def test_the_largest_patch_grows_over_the_epochs():
    """A quarter more in each of four epochs; the same draws as a mixer built with that area."""
    mixer = RecursiveMix(K, max_area=0.8, growth_epochs=4, seed=3)
    assert mixer.current_max_area == pytest.approx(0.2)  # before the first epoch as in it
    for epoch, area in enumerate([0.2, 0.4, 0.6, 0.8, 0.8]):
        mixer.start_epoch()
        assert mixer.current_max_area == pytest.approx(area)
        fixed = RecursiveMix(K, max_area=area)
        fixed.stream.generator.set_state(mixer.stream.generator.get_state())
        assert torch.equal(mixer.draw(4, (64, 64)).boxes, fixed.draw(4, (64, 64)).boxes)
        resumed = RecursiveMix(K, max_area=0.8, growth_epochs=4)
        resumed.load_state_dict(mixer.state_dict())
        assert resumed.current_max_area == mixer.current_max_area
        assert torch.equal(resumed.draw(4, (64, 64)).boxes, mixer.draw(4, (64, 64)).boxes), epoch


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "3"])
def test_growth_is_a_number_of_epochs(value):
    with pytest.raises(ValueError, match="growth_epochs must be a whole number"):
        RecursiveMix(K, growth_epochs=value)


def test_a_patch_without_area_is_refused():
    with pytest.raises(ValueError, match=r"max_area must be in \(0, 1\], got 0; set prob=0"):
        RecursiveMix(K, max_area=0)
