"""What every mixer promises, checked for every one. A new mixer is one line in `mixing.MIXERS`."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data._utils.worker import WorkerInfo

from recursivemix import MIXERS, Mixer, MixUp, NoMix, RecursiveMix, create_mixer

K = 12
PASTING = ["cutmix", "fmix", "gridmix", "recursivemix", "resizemix", "saliencymix", "transmix"]
"""The label is the share of pixels, and every pixel is one image's."""
SHRINKING = {"recursivemix", "resizemix"}
MIXING = sorted(set(MIXERS) - {"none", "cutout", "temporal_ensembling", "mean_teacher", "dlb"})
"""Two images and their labels are mixed, in a share of the batches."""


def make(name: str, **options) -> Mixer:
    """A mixer of the coded classes; one that works inside a network gets a small one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformer() if name == "transmix" else network()
    return create_mixer(name, K, model if MIXERS[name].needs_model else None, **options)


def network() -> torch.nn.Module:
    """A classifier of images of any size, kind and number of dimensions."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, K),
    )
    model.register_forward_pre_hook(as_images)
    return model


def transformer() -> torch.nn.Module:
    """The same with a class token."""
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = VisionTransformer(num_classes=K, dynamic_img_size=True, dynamic_img_pad=True, **sizes)
    model.register_forward_pre_hook(as_images)
    return model


def as_images(module, inputs):
    """(B, C, ..., H, W) of any kind as (B, 3, H, W) float32."""
    images = inputs[0].float()
    images = images.flatten(2, -3).mean(2) if images.dim() > 4 else images
    return (images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1),)


def coded(batch_size: int, size: tuple[int, ...] = (9, 7), first: int = 0, dtype=torch.float32):
    """Image i is filled with its class number, so that pixels and labels must tell the same story."""
    labels = torch.arange(first, first + batch_size) % K
    images = labels.view(-1, 1, *(1 for _ in size)).expand(-1, 3, *size).to(dtype).contiguous()
    return images, labels


def mix(mixer: Mixer, images, targets, **options):
    """Call the mixer; the network that it works inside sees the batch."""
    batch = mixer(images, targets, indices=torch.arange(len(images)), **options)
    if mixer.needs_model:
        mixer.model.train()(batch.images)
    return batch


def step(mixer: Mixer, images, targets, **options):
    """A whole turn of a loop, its logits made up."""
    batch = mix(mixer, images, targets, **options)
    logits = torch.nn.functional.one_hot(batch.targets.argmax(1), K).float()
    mixer.remember(batch, logits)
    return batch


def warmed(name: str, **options) -> Mixer:
    """A mixer whose next step mixes."""
    mixer = make(name, **options)
    step(mixer, *coded(6, first=6))
    return mixer


@contextlib.contextmanager
def torch_default(default: torch.dtype | str):
    """Set torch's default dtype, or its default device."""
    try:
        if isinstance(default, str):
            torch.set_default_device(default)
        else:
            torch.set_default_dtype(default)
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def label_shares(images: torch.Tensor) -> torch.Tensor:
    """(B, K): the share of the pixels of each coded value."""
    values = torch.arange(K).view(K, *(1,) * images.dim())
    return (images == values).float().flatten(2).mean(2).T


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MIXERS)
class TestEveryMixer:
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
    def test_rows_sum_to_one_and_shapes_hold(self, name, per_sample, batch_size):
        mixer = make(name, per_sample=per_sample)
        for _ in range(4):
            images, labels = coded(batch_size)
            batch = step(mixer, images, labels)
            assert batch.images.shape == images.shape
            assert batch.targets.shape == (batch_size, K)
            assert batch.targets.dtype == batch.lam.dtype == torch.float32
            assert batch.lam.shape == (batch_size,)
            assert ((batch.lam >= 0) & (batch.lam <= 1)).all()
            torch.testing.assert_close(batch.targets.sum(1), torch.ones(batch_size))
            assert name == "dlb" or batch.labels is labels  # which puts other samples in their places

    def test_input_is_untouched(self, name, per_sample):
        mixer = warmed(name, per_sample=per_sample)
        for _ in range(5):
            images, labels = coded(5)
            soft = torch.nn.functional.one_hot(labels, K).float()
            before, soft_before = images.clone(), soft.clone()
            step(mixer, images, soft)
            assert torch.equal(images, before)
            assert torch.equal(soft, soft_before)

    @pytest.mark.parametrize(
        "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8]
    )
    def test_dtype_is_kept(self, name, per_sample, dtype):
        # Noise is a share of what normalised pixels vary by, of no meaning for integers.
        quiet = {"noise": 0} if name == "mean_teacher" and dtype == torch.uint8 else {}
        mixer = make(name, per_sample=per_sample, **quiet)
        for _ in range(3):
            images, labels = coded(4, dtype=dtype)
            batch = step(mixer, images, labels)
            assert batch.images.dtype == dtype
            assert batch.targets.dtype == torch.float32

    def test_channels_last_is_kept(self, name, per_sample):
        mixer = make(name, per_sample=per_sample)
        for _ in range(4):
            images, labels = coded(4, size=(8, 6))
            images = images.contiguous(memory_format=torch.channels_last)
            batch = step(mixer, images, labels)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("order", [(2, 3, 1, 0), (0, 1, 3, 2)])
    def test_other_memory_formats_are_kept(self, name, per_sample, order):
        """Dimensions in another order in memory, such as batches that are stacked last."""
        mixer = make(name, per_sample=per_sample)
        for _ in range(4):
            images, labels = coded(4, size=(8, 6))
            back = [order.index(i) for i in range(4)]
            images = images.permute(order).contiguous().permute(back)
            assert not images.is_contiguous()
            assert step(mixer, images, labels).images.stride() == images.stride()

    def test_batch_size_may_change(self, name, per_sample):
        mixer = make(name, per_sample=per_sample)
        for batch_size in (4, 1, 7, 2, 7):
            batch = step(mixer, *coded(batch_size))
            assert len(batch.images) == batch_size

    def test_resolution_may_change(self, name, per_sample):
        mixer = make(name, per_sample=per_sample)
        for size in ((9, 7), (5, 12), (1, 1), (16, 16)):
            batch = step(mixer, *coded(3, size=size))
            assert batch.images.shape[2:] == size

    def test_replay_gives_the_same_batch(self, name, per_sample):
        mixer = warmed(name, per_sample=per_sample)
        images, labels = coded(6)
        first = mix(mixer, images, labels)
        stream = mixer.state_dict()["generator"]
        again = mix(mixer, images, labels, draw=first.draw)
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.targets, again.targets)
        assert torch.equal(stream, mixer.state_dict()["generator"])
        drawn = mixer.draw(6, (9, 7))
        assert torch.equal(
            mix(mixer, images, labels, draw=drawn).targets, mix(mixer, images, labels, draw=drawn).targets
        )

    def test_resumes_bit_for_bit(self, name, per_sample):
        def run(mixer, start, stop):
            return [step(mixer, *coded(5, first=t)) for t in range(start, stop)]

        whole = run(make(name, per_sample=per_sample, seed=3), 0, 8)
        first = make(name, per_sample=per_sample, seed=3)
        run(first, 0, 4)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        resumed = make(name, per_sample=per_sample, seed=99)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        for a, b in zip(whole[4:], run(resumed, 4, 8), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.targets, b.targets)
            assert torch.equal(a.lam, b.lam)

    def test_seeds_and_ranks_differ(self, name, per_sample):
        if not MIXERS[name].draws:
            return

        def draws(**options):
            mixer = make(name, per_sample=per_sample, **options)
            return [mixer.draw(6, (64, 48)) for _ in range(4)]

        def same(a, b):
            pairs = [(x, y) for d, e in zip(a, b, strict=True) for x, y in zip(d, e, strict=True)]
            return all(x is None or torch.equal(x, y) for x, y in pairs)

        assert same(draws(seed=1), draws(seed=1))
        assert not same(draws(seed=1), draws(seed=2))
        assert not same(draws(rank=0), draws(rank=1))
        assert same(draws(rank=0, sync_ranks=True), draws(rank=1, sync_ranks=True))

    def test_another_ranks_state_gives_a_stream_of_its_own(self, name, per_sample, caplog):
        """What Accelerate and Lightning do: the first process's state is loaded by all."""
        first = warmed(name, per_sample=per_sample, rank=0)
        state = first.state_dict()
        others = [make(name, per_sample=per_sample, rank=rank) for rank in (1, 2, 1)]
        for other in others:
            other.load_state_dict(state)
        assert "state is of rank 0" in caplog.text
        streams = [mixer.state_dict()["generator"] for mixer in (first, *others)]
        assert torch.equal(streams[1], streams[3])
        assert not torch.equal(streams[0], streams[1])
        assert not torch.equal(streams[1], streams[2])
        images, labels = coded(3)
        if name == "recursivemix":
            assert (others[0](images, labels).lam == 1).all()

    @pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, "meta"])
    def test_torchs_default_dtype_and_device_do_not_matter(self, name, per_sample, default):
        """``torch.set_default_device("cuda")`` with draws on the CPU; meta stands in for a device."""

        def run(change_default):
            mixer = make(name, per_sample=per_sample, seed=3)
            batches = [coded(5, first=t) for t in (6, 0, 3)]
            logits = torch.zeros(5, K)
            with change_default():
                if not mixer.needs_model:
                    mixer = create_mixer(name, K, per_sample=per_sample, seed=3)
                for images, labels in batches:
                    batch = mixer(images, labels, indices=torch.arange(5, device="cpu"))
                    if mixer.needs_model:
                        mixer.model.train()(batch.images)
                    mixer.remember(batch, logits)
                again = mixer(images, labels, indices=torch.arange(5, device="cpu"), draw=batch.draw)
            return batch, again

        for expected, batch in zip(
            run(contextlib.nullcontext), run(lambda: torch_default(default)), strict=True
        ):
            for field in ("images", "targets", "lam", "boxes", "history_probs"):
                torch.testing.assert_close(getattr(batch, field), getattr(expected, field), rtol=0, atol=0)

    def test_leaves_global_randomness_alone(self, name, per_sample):
        before = torch.get_rng_state()
        step(warmed(name, per_sample=per_sample), *coded(5))
        assert torch.equal(before, torch.get_rng_state())

    def test_prob_zero_never_mixes(self, name, per_sample):
        if name == "dlb":
            return  # draws nothing: every batch repeats half of the last
        mixer = warmed(name, per_sample=per_sample, prob=0.0)
        for _ in range(5):
            images, labels = coded(4)
            batch = step(mixer, images, labels)
            assert torch.equal(batch.images, images)
            assert (batch.lam == 1).all()

    def test_passes_through_when_off(self, name, per_sample):
        mixer = warmed(name, per_sample=per_sample)
        images, labels = coded(4)
        stream = mixer.state_dict()["generator"]
        for switch in ("eval", "disabled"):
            mixer.train(switch != "eval")
            mixer.mixup_enabled = switch != "disabled"
            batch = step(mixer, images, labels)
            assert batch.images is images
            assert (batch.lam == 1).all()
            assert torch.equal(batch.targets.argmax(1), labels)
        assert not mixer.enabled
        assert torch.equal(stream, mixer.state_dict()["generator"])

    def test_loss_has_a_gradient(self, name, per_sample):
        mixer = warmed(name, per_sample=per_sample)
        batch = mix(mixer, *coded(4))
        logits = torch.zeros(4, K, requires_grad=True)
        regions = torch.zeros(4, K, requires_grad=True)
        loss = mixer.loss(logits, batch, regions if mixer.trains_regions else None)
        terms = mixer.losses(logits, batch, regions if mixer.trains_regions else None)
        torch.testing.assert_close(loss, sum(terms.values()))
        loss.backward()
        assert logits.grad.abs().sum() > 0
        assert (batch.boxes is not None) == mixer.trains_regions
        if mixer.trains_regions:
            assert regions.grad is not None

    def test_multi_hot_targets_with_bce(self, name, per_sample):
        if name == "dlb":
            with pytest.raises(ValueError, match="needs loss='ce'"):
                make(name, loss="bce")
            return
        mixer = make(name, per_sample=per_sample, loss="bce")
        for _ in range(3):
            images, labels = coded(5)
            multi_hot = torch.nn.functional.one_hot(labels, K).roll(1, 1) + torch.nn.functional.one_hot(
                labels, K
            )
            batch = step(mixer, images, multi_hot)
            torch.testing.assert_close(batch.targets.sum(1), torch.full((5,), 2.0))
            logits = torch.zeros(5, K)
            assert torch.isfinite(mixer.loss(logits, batch, logits if mixer.trains_regions else None))

    def test_label_kinds_agree(self, name, per_sample):
        images, labels = coded(5)
        one_hot = torch.nn.functional.one_hot(labels, K)
        kinds = [labels, labels.to(torch.uint8), one_hot, one_hot.bool(), one_hot.double()]
        targets = []
        for kind in kinds:
            mixer = make(name, per_sample=per_sample, seed=5)
            step(mixer, images.flip(0), kind.flip(0))
            targets.append(mix(mixer, images, kind).targets)
        for other in targets[1:]:
            assert torch.equal(targets[0], other)

    def test_pickles_and_copies(self, name, per_sample):
        mixer = warmed(name, per_sample=per_sample)
        images, labels = coded(4)
        copies = [copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer))]
        expected = mix(mixer, images, labels)
        for other in copies:
            assert torch.equal(mix(other, images, labels).images, expected.images)

    def test_unpacks_as_images_and_targets(self, name, per_sample):
        images, targets = mix(warmed(name, per_sample=per_sample), *coded(4))
        assert images.shape == (4, 3, 9, 7)
        assert targets.shape == (4, K)

    def test_video_mixes_height_and_width_of_every_frame(self, name, per_sample):
        mixer = make(name, per_sample=per_sample)
        for first in (6, 0):
            images, labels = coded(4, size=(9, 7), first=first)
            video = images[:, :, None].expand(-1, -1, 5, -1, -1).contiguous()  # (B, C, T, H, W)
            batch = step(mixer, video, labels)
        assert batch.images.shape == video.shape
        if name == "mean_teacher":
            return  # its noise is of every pixel
        assert (batch.images == batch.images[:, :, :1]).all()

    @pytest.mark.parametrize("dims", [(-3, -2), (-4, -3, -2), (-3,)])
    def test_other_spatial_dims_agree_with_moved_ones(self, name, per_sample, dims):
        """Mixing chosen dimensions is mixing the last ones of the permuted tensor."""
        last = tuple(range(-len(dims), 0))
        chosen = make(name, per_sample=per_sample, spatial_dims=dims)
        plain = make(name, per_sample=per_sample, spatial_dims=last)
        for t in range(3):
            images = torch.rand(4, 3, 6, 5, 4, generator=torch.Generator().manual_seed(t))
            labels = torch.arange(4) + t
            a = step(chosen, images, labels)
            b = step(plain, images.movedim(dims, last).contiguous(), labels)
            assert torch.equal(a.images.movedim(dims, last), b.images)
            assert torch.equal(a.targets, b.targets)

    def test_inplace_writes_the_same_result_into_the_batch(self, name, per_sample):
        pure = make(name, per_sample=per_sample)
        owner = make(name, per_sample=per_sample, inplace=True)
        for first in (6, 0, 3):
            images, labels = coded(5, first=first)
            own = images.clone()
            expected = step(pure, images, labels)
            batch = step(owner, own, labels)
            assert batch.images is own
            assert torch.equal(own, expected.images)
            assert torch.equal(batch.targets, expected.targets)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", PASTING)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 9), (32, 32), (64, 3)])
class TestPastingMixers:
    """Odd and unequal sizes: swapped axes cannot hide."""

    def test_targets_are_the_pixel_shares(self, name, per_sample, size):
        nearest = {"interpolation": "nearest"} if name in SHRINKING else {}
        mixer = make(name, per_sample=per_sample, **nearest)
        step(mixer, *coded(6, size, first=6))
        mixer.start_epoch()  # a history of one source: no older pixels
        step(mixer, *coded(6, size, first=6))
        for _ in range(10):
            images, labels = coded(6, size)
            batch = mixer(images, labels)
            torch.testing.assert_close(label_shares(batch.images), batch.targets, atol=1e-6, rtol=0)
            own = (batch.images == images).float().flatten(1).mean(1)
            partner_is_self = batch.targets.amax(1) == 1
            torch.testing.assert_close(
                own[~partner_is_self], batch.lam[~partner_is_self], atol=1e-6, rtol=0
            )

    def test_masks_get_the_same_draw_and_no_new_classes(self, name, per_sample, size):
        mixer = make(name, per_sample=per_sample)
        for t in range(6):
            images, labels = coded(6, size, first=t)
            masks = (images[:, 0] * 10).long()
            masks[:, ::2] = 255  # an ignore index
            masks_before = masks.clone()
            batch = step(mixer, images, labels, masks=masks)
            assert torch.equal(masks, masks_before)
            assert batch.masks.dtype == torch.int64
            assert set(batch.masks.unique().tolist()) <= {*(10 * k for k in range(K)), 255}
            real = batch.masks != 255
            pixels = (batch.images[:, 0] * 10).round().long()
            assert torch.equal(batch.masks[real], pixels[real])

    def test_whole_batch_and_single_boxes_agree(self, name, per_sample, size):
        """One decision for the batch, and the same one for each sample, which may be mixed otherwise."""
        if per_sample:
            return
        mixer = make(name, **({"interpolation": "nearest"} if name in SHRINKING else {}))
        for t in range(8):
            images = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(t))
            draw = mixer.draw(4, size)
            shared = mixer(images, torch.arange(4), draw=draw)
            each = {
                field: value.repeat(4, *(1,) * (value.dim() - 1))
                for field, value in draw._asdict().items()
                if value is not None and field != "partners"
            }
            single = mixer(images, torch.arange(4), draw=draw._replace(**each))
            assert torch.equal(shared.images, single.images)
            assert torch.equal(shared.targets, single.targets)
            mixer.remember(shared, torch.zeros(4, K))


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("per_sample", [False, True])
def test_prob_is_the_share_that_is_mixed(name, prob, per_sample):
    """One gate: a second one would mix prob squared of the batches."""
    # Of few cells all may happen to be the own image's.
    options = {"grid": 16} if name == "gridmix" else {}
    mixer = make(name, prob=prob, per_sample=per_sample, **options)
    mixed, count = 0, 0
    for _ in range(300 if per_sample else 1500):
        draw = mixer.draw(8, (64, 64))
        if draw.lam is not None:
            chosen = draw.lam < 1
        elif draw.weights is not None:
            chosen = (draw.weights < 1).flatten(1).any(1)
        else:
            chosen = ((draw.boxes[:, 2:] - draw.boxes[:, :2]) > 0).all(1)
        mixed, count = mixed + int(chosen.sum()), count + len(chosen)
    # Some boxes are empty although chosen: a Beta draw near 1, a tiny area.
    assert mixed / count == pytest.approx(prob, abs=4 * (0.25 / count) ** 0.5 + 0.005)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("name", ["resizemix", "recursivemix"])
def test_shared_box_and_single_boxes_agree_for_every_interpolation(name, dtype, interpolation):
    """`F.interpolate` against weights of fixed shape."""
    mixer = make(name, interpolation=interpolation)
    # Of 255: float rounding of the weights; one step of an integer, or of a bfloat16 at 255.
    tolerance = {torch.float32: 2e-3, torch.uint8: 1, torch.bfloat16: 1}[dtype]
    for t in range(6):
        images = 255 * torch.rand(4, 3, 23, 31, generator=torch.Generator().manual_seed(t))
        images = images.to(dtype)
        draw = mixer.draw(4, (23, 31))
        shared = mixer(images, torch.arange(4), draw=draw)
        single = mixer(images, torch.arange(4), draw=draw._replace(boxes=draw.boxes.repeat(4, 1)))
        difference = (shared.images.float() - single.images.float()).abs().max()
        assert difference <= (0 if interpolation == "nearest" else tolerance)
        mixer.remember(shared, torch.zeros(4, K))


IMAGES, LABELS = coded(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((torch.zeros(4, 9, 7)), LABELS), r"\(B, C, H, W\).*\(4, 9, 7\)"),
        ((torch.zeros(0, 3, 9, 7), LABELS), "none empty"),
        ((IMAGES.long(), LABELS), "floating or uint8, got torch.int64"),
        ((IMAGES.numpy(), LABELS), "images must be a torch tensor, got ndarray"),
        ((IMAGES, LABELS.tolist()), "targets must be a torch tensor, got list"),
        ((IMAGES, LABELS.to("meta")), "targets are on meta, images on cpu"),
        ((IMAGES, LABELS[:3]), r"\(4,\) class indices .*\(3,\)"),
        ((IMAGES, LABELS.float()), "class indices.*float32"),
        ((IMAGES, torch.zeros(4, K + 1)), r"num_classes=12, got .*\(4, 13\)"),
        ((IMAGES, torch.zeros(4, 9, 7, dtype=torch.long)), r"\(4, 9, 7\)"),
        ((IMAGES, LABELS + K), r"0\.\.11 for num_classes=12, got 12\.\.15"),
        ((IMAGES, LABELS - 1), r"got -1\.\.2"),
    ],
)
@pytest.mark.parametrize("name", MIXERS)
def test_wrong_input_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(name)(*arguments)


@pytest.mark.parametrize("masks", [torch.zeros(4, 9, 6, dtype=torch.long), torch.zeros(4, 9, 7)])
def test_wrong_masks_are_named(masks):
    with pytest.raises(ValueError, match=r"masks must be integers of shape \(4, 9, 7\)"):
        create_mixer("cutmix", K)(IMAGES, LABELS, masks=masks)


@pytest.mark.parametrize("name", MIXERS)
def test_states_belong_to_one_method(name):
    for other in set(MIXERS) - {name}:
        with pytest.raises(ValueError, match="can't be loaded into"):
            make(name).load_state_dict(make(other).state_dict())


@pytest.mark.parametrize("used_before", [False, True])
def test_workers_of_a_loader_draw_differently(monkeypatch, used_before):
    """A mixer as ``collate_fn`` is copied to every worker, again in every epoch."""
    mixer = MixUp(K)
    if used_before:
        mixer.draw(4, (9, 7))

    def drawn(seed):
        worker = WorkerInfo(id=0, num_workers=2, seed=seed, dataset=None)
        monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_info", worker)
        copied = copy.deepcopy(mixer)
        return [copied.draw(4, (9, 7)).lam.item() for _ in range(2)]

    first, second = drawn(1), drawn(2)
    assert first == drawn(1)
    assert len({*first, *second}) == 4


def test_mixup_passes_masks_through_where_it_does_not_mix():
    masks = torch.zeros(4, 9, 7, dtype=torch.long)
    assert MixUp(K).eval()(IMAGES, LABELS, masks=masks).masks is masks


def test_mixup_refuses_masks():
    with pytest.raises(ValueError, match="invent classes"):
        MixUp(K)(IMAGES, LABELS, masks=torch.zeros(4, 9, 7, dtype=torch.long))


def test_a_draw_for_another_batch_is_named():
    mixer = create_mixer("cutmix", K)
    with pytest.raises(ValueError, match=r"draw.partners does not fit a batch of 4"):
        mixer(IMAGES, LABELS, draw=mixer.draw(5, (9, 7)))
    with pytest.raises(ValueError, match="CutMix draws boxes and partners, got a draw of lam and partners"):
        mixer(IMAGES, LABELS, draw=MixUp(K).draw(4, (9, 7)))
    far = mixer.draw(4, (9, 7))._replace(partners=torch.tensor([0, 1, 2, 4]))
    with pytest.raises(ValueError, match=r"draw\.partners must lie inside"):
        mixer(IMAGES, LABELS, draw=far)
    heavy = MixUp(K).draw(4, (9, 7))._replace(lam=torch.tensor([7.0]))
    with pytest.raises(ValueError, match=r"draw\.lam must lie inside"):
        MixUp(K)(IMAGES, LABELS, draw=heavy)
    large = mixer.draw(4, (9, 7))._replace(boxes=torch.tensor([[0, 0, 8, 9]]))
    with pytest.raises(ValueError, match="must lie inside the image"):
        mixer(IMAGES, LABELS, draw=large)
    with pytest.raises(ValueError, match="draw needs a batch of at least 1 and 2 sizes"):
        mixer.draw(4, (9,))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixup", {"alpha": 0}, "Beta parameter"),
        ("mixup", {"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ("mixup", {"seed": None}, "seed must be a whole number, got None"),
        ("mixup", {"rank": -1}, "rank must be a whole number of at least 0, got -1"),
        ("cutout", {"size": "half"}, r"size must be in \(0, 1\], got 'half'"),
        ("fmix", {"decay": "3"}, "decay is a power and must be 0 or more and finite, got '3'"),
        ("gridmix", {"grid": True}, "grid must be a whole number of at least 1, got True"),
        ("smoothmix", {"sigma": ("a", "b")}, r"the least and the largest.*got \('a', 'b'\)"),
        ("alignmix", {"epsilon": "x"}, "epsilon is a weight of the entropy .* got 'x'"),
        ("alignmix", {"iterations": 2.5}, "iterations must be a whole number of at least 1, got 2.5"),
        ("dlb", {"temperature": "3"}, "temperature is a divisor of logits .* got '3'"),
        ("mean_teacher", {"noise": "x"}, "noise is a standard deviation .* got 'x'"),
        ("cutmix", {"alpha": -1}, "Beta parameter"),
        ("cutmix", {"alpha": float("nan")}, "Beta parameter"),
        ("recursivemix", {"omega": float("nan")}, "0 or more"),
        ("resizemix", {"max_scale": 1.5}, r"max_scale must be in \[0, 1\]"),
        ("resizemix", {"min_scale": 0.9}, r"min_scale must be in \[0, 0.8\]"),
        ("recursivemix", {"max_area": 2}, r"max_area must be in \(0, 1\], got 2"),
        (
            "recursivemix",
            {"alpha": 0.3, "max_area": 0.3},
            "another name for max_area: set one, got 0.3 and 0.3",
        ),
        ("recursivemix", {"omega": -1}, "0 or more"),
        ("recursivemix", {"interpolation": "cubic"}, "'nearest', 'bilinear' or 'area'"),
        ("none", {"prob": 1.5}, r"prob must be in \[0, 1\]"),
        ("none", {"loss": "mse"}, "'ce' or 'bce'"),
        ("none", {"spatial_dims": (2, 3)}, "negative"),
        ("none", {"spatial_dims": (-1, -2)}, "ascending"),
        ("none", {"num_classes_typo": 1}, "does not take these options"),
        ("cutmix", {"alfa": 1}, "unexpected keyword argument 'alfa'; it takes alpha, prob"),
        ("cutmx", {}, "unknown mixer 'cutmx'; there are none, "),
    ],
)
def test_wrong_settings_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer(name, K, network(), **options)


def test_the_loss_names_a_wrong_width_and_missing_regions():
    mixer = RecursiveMix(K)
    batch = mixer(IMAGES, LABELS)
    with pytest.raises(ValueError, match="is num_classes=12 the model's"):
        mixer.loss(torch.zeros(4, K + 1), batch, torch.zeros(4, K))
    with pytest.raises(ValueError, match="omega=0"):
        mixer.loss(torch.zeros(4, K), batch)
    with pytest.raises(ValueError, match="takes no region_logits"):
        NoMix(K).loss(torch.zeros(4, K), NoMix(K)(IMAGES, LABELS), torch.zeros(4, K))
    with pytest.raises(ValueError, match=r"the loss needs logits of shape \(4, 12\), got \(4, 11\)"):
        mixer.loss(torch.zeros(4, K), batch, torch.zeros(4, K - 1))
    with pytest.raises(ValueError, match=r"remember needs a tensor of logits of shape \(4, 12\), got None"):
        mixer.remember(batch)
    with pytest.raises(ValueError, match=r"got tuple$"):  # what RegionModel returns
        mixer.remember(batch, (torch.zeros(4, K), torch.zeros(4, K)))
