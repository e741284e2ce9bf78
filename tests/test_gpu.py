"""What only a GPU can show: no wait for the device, and the same batches as on a CPU. Skips without one."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from recursivemix import MIXERS, RegionModel, create_mixer, region_pool

K = 10
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.fixture
def no_waiting():
    """Any operation that waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def network():
    """A transformer, whose attention a method may want."""
    sizes = {"img_size": (40, 32), "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    return VisionTransformer(num_classes=K, attn_drop_rate=0.1, **sizes)


def batches(count, device):
    generator = torch.Generator().manual_seed(0)
    for t in range(count):
        images = torch.rand(8 - t % 2, 3, 40, 32, generator=generator)
        labels = torch.randint(K, (len(images),), generator=generator)
        yield images.to(device), labels.to(device)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_same_batches_as_on_a_cpu(name, per_sample):
    # Noise is made where the images are, from the draw's seed: of one kind, not of one value.
    options = {"noise": 0} if name == "mean_teacher" else {}
    on_cpu, on_gpu = (
        create_mixer(name, K, model, per_sample=per_sample, **options)
        for model in (network(), network().cuda())
    )
    for (images, labels), (gpu_images, gpu_labels) in zip(
        batches(6, "cpu"), batches(6, "cuda"), strict=True
    ):
        indices = torch.arange(len(images))
        a = on_cpu(images, labels, indices=indices)
        b = on_gpu(gpu_images, gpu_labels, indices=indices)
        assert b.images.device.type == b.targets.device.type == b.lam.device.type == "cuda"
        torch.testing.assert_close(a.images, b.images.cpu(), atol=1e-5, rtol=0)
        torch.testing.assert_close(a.targets, b.targets.cpu())
        torch.testing.assert_close(a.lam, b.lam.cpu())
        logits = torch.linspace(-1, 1, len(images) * K).view(-1, K)
        on_cpu.remember(a, logits)
        on_gpu.remember(b, logits.cuda())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_a_step_never_waits(name, per_sample, no_waiting):
    torch.cuda.set_sync_debug_mode("default")
    data = list(batches(6, "cuda"))
    backbone = network().cuda()
    mixer = create_mixer(name, K, backbone, per_sample=per_sample)
    model = RegionModel(backbone, image_size=(40, 32)) if mixer.trains_regions else backbone
    torch.cuda.set_sync_debug_mode("error")
    for images, labels in data:
        batch = mixer(images, labels, indices=torch.arange(len(images)))
        if batch.boxes is None:
            logits, region_logits = model(batch.images), None
        else:
            logits, region_logits = model(batch.images, batch.boxes)
        mixer.loss(logits, batch, region_logits).backward()
        mixer.remember(batch, logits)


def test_region_pool_as_on_a_cpu():
    features = torch.randn(4, 8, 7, 5)
    boxes = torch.tensor([[0, 0, 80, 112], [3, 9, 41, 30], [10, 10, 10, 10], [79, 111, 80, 112]])
    expected = region_pool(features, boxes, (112, 80))
    torch.testing.assert_close(region_pool(features.cuda(), boxes.cuda(), (112, 80)).cpu(), expected)


def test_a_history_from_a_cpu_checkpoint_is_used():
    mixer = create_mixer("recursivemix", K)
    mixer.remember(mixer(torch.ones(8, 3, 32, 32), torch.arange(8)), torch.zeros(8, K))
    batch = mixer(torch.zeros(8, 3, 32, 32, device="cuda"), torch.arange(8, device="cuda"))
    assert batch.images.is_cuda
    assert (batch.lam < 1).all()


@pytest.mark.parametrize("mixer", ["recursivemix", "none"])
def test_a_step_of_the_trainer_never_waits(mixer, tmp_path):
    """Batch, mixing, both passes and the optimiser, through Lightning; from the third step on."""
    from lightning import Callback

    from recursivemix.tasks.settings import ClassificationSettings
    from recursivemix.training.fit import fit
    from recursivemix.training.prepare import prepare

    class Strict(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            torch.cuda.set_sync_debug_mode("error" if 2 <= index < 10 else "default")

        def on_train_batch_end(self, *args):
            torch.cuda.set_sync_debug_mode("default")

    config = ClassificationSettings(
        mixer=mixer, device="gpu", epochs=1, out=tmp_path / "run", checkpoint_every=1000
    )
    options = {"log_every_n_steps": 1000, "limit_train_batches": 10, "enable_progress_bar": False}
    try:
        fit(prepare(config, [Strict()], options))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("hold", [True, False])
def test_batches_are_those_of_a_cpu(hold):
    """The same batches, without a wait: of images on the GPU, and of images that workers read."""
    from recursivemix.data.augment import Augmentation
    from recursivemix.data.batches import TrainingBatches
    from recursivemix.data.images import StackedImages
    from recursivemix.data.order import TrainingOrder

    pixels = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8)
    images = StackedImages(pixels, torch.arange(20), "test")
    augmentation = Augmentation(
        size=16, mean=(0.5,) * 3, std=(0.2,) * 3, crop="pad", padding=2, lighting=0.1
    )
    found = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        order = TrainingOrder(20, 8, 0)
        workers = 0 if hold else 2
        loader = TrainingBatches(
            images, order, augmentation, lambda: 0, device=device, hold=hold, workers=workers
        )
        next(iter(loader))
        torch.cuda.set_sync_debug_mode("error")
        try:
            found[name] = list(loader)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for (a, b, _), (x, y, _) in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(a, x.cpu(), atol=1e-5, rtol=0)
        assert torch.equal(b, y.cpu())


@pytest.mark.parametrize("compile", [False, True])
def test_a_run_on_the_gpu_stops_and_goes_on(compile, tmp_path):
    import os
    import signal

    from lightning import Callback

    from recursivemix.tasks.settings import ClassificationSettings
    from recursivemix.training.checkpoints import StoppedError
    from recursivemix.training.fit import fit
    from recursivemix.training.prepare import prepare

    class Stops(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.global_step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "run"
    config = ClassificationSettings(device="gpu", epochs=2, out=out, compile=compile, ema_decay=0.9)
    with pytest.raises(StoppedError):
        fit(prepare(config, [Stops()], {}))
    result = fit(prepare(config, [], {}, resume=out / "checkpoints" / "last.ckpt"))
    assert [row["epoch"] for row in result.rows] == [1, 2]


@pytest.mark.parametrize("name", ["atss", "gfl", "fcos", "retinanet", "maskrcnn"])
def test_a_detector_trains_and_detects(name):
    """Losses and gradients in half precision, detections in whole pixels' precision."""
    from recursivemix.tasks.backbone_weights import load_backbone
    from recursivemix.tasks.detection.create import create_detector

    loaded = load_backbone("random", "resnet10t")
    detector = create_detector(name, loaded, 3, image_size=96, max_size=128, channels=32, depth=1).cuda()
    image = torch.rand(3, 80, 96, device="cuda")
    mask = torch.zeros(1, 80, 96, dtype=torch.uint8, device="cuda")
    mask[:, 20:60, 10:50] = 1
    target = {
        "boxes": torch.tensor([[10.0, 20.0, 50.0, 60.0]], device="cuda"),
        "labels": torch.tensor([1], device="cuda"),
        "masks": mask,
    }
    with torch.autocast("cuda", torch.bfloat16):
        losses = detector([image, image], [dict(target), dict(target)])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)
    detector.eval()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        found = detector([image])
    assert found[0]["boxes"].dtype == torch.float32


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_transfer_run_with_dense_mixing(task, tmp_path):
    from recursivemix.tasks import settings_class
    from recursivemix.training.fit import fit
    from recursivemix.training.prepare import prepare

    settings = {"epochs": 2, "mixer": "recursivemix", "channels": 16, "ema_decay": 0.9}
    config = settings_class(task)(device="gpu", out=tmp_path / "run", **settings)
    options = {"limit_train_batches": 3, "limit_val_batches": 2, "enable_progress_bar": False}
    result = fit(prepare(config, [], options))
    assert [row["epoch"] for row in result.rows] == [1, 2]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in result.rows)


def test_activation_maps_are_those_of_the_cpu():
    from recursivemix.evaluation.activation import activation_maps
    from recursivemix.models.create import create_model

    torch.manual_seed(0)
    network = create_model("resnet20", 5, 32).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    for method in ("cam", "gradcam"):
        expected = activation_maps(network.cpu(), images, labels, method=method)
        found = activation_maps(network.cuda(), images.cuda(), labels.cuda(), method=method)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
