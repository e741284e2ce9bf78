"""Classification: a network trained on mixed batches, its data, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import Batch, EvaluationBatches, TrainingBatches
from recursivemix.data.cache import CACHE_LIMIT, cache_bytes, stack
from recursivemix.data.images import ImageData, LabelledImages, StackedImages, spread_indices
from recursivemix.data.open import open_images
from recursivemix.data.order import TrainingOrder
from recursivemix.data.splits import strata
from recursivemix.mixing import MixedBatch, Mixer, create_mixer
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.checkpoint_file import CheckpointError
from recursivemix.models.create import create_model
from recursivemix.models.pretrained import StoredWeights, load_weights
from recursivemix.models.region import RegionModel
from recursivemix.models.stages import classifier_layers, classifier_names, layers_of, set_to_zero
from recursivemix.models.trained import preprocessing_of
from recursivemix.training.devices import launched_rank
from recursivemix.training.learner import Learner
from recursivemix.training.task import Task

from .class_weights import class_weights
from .classification_metrics import MultiLabelScores, SingleLabelScores
from .frozen_part import FrozenPart
from .initial_weights import file_weights, initial_weights, run_preprocessing, source_flag
from .memorization import mixing_advice
from .settings import ClassificationSettings

PROBE = 512
"""Number of training images whose accuracy without mixing is measured after each epoch."""


class MixedClassifier(Learner):
    """A classifier trained on mixed batches.

    Args:
        settings: of the run.
        classes: names of the K classes, in the order of their indices.
        image_size: side of the network's input in pixels.
        data: plain values about the data; a checkpoint holds them: at least the number of ``images``, and
            ``mean`` and ``std`` of the preprocessing.
        multi_label: train on any number of labels per image, by binary cross-entropy.
        weights: trained weights to start from; None: random ones, or those of a checkpoint to resume from.
        loss_weights: of the classes, in the label loss; None: all the same.
    """

    identity = ("model", "classes", "image_size", "mixer", "loss_weights")
    mixer: Mixer

    def __init__(
        self,
        settings: ClassificationSettings,
        classes: Sequence[str],
        image_size: int,
        data: dict[str, Any],
        multi_label: bool = False,
        weights: StoredWeights | None = None,
        loss_weights: list[float] | None = None,
    ) -> None:
        facts = {"classes": list(classes), "image_size": image_size, "data": data}
        super().__init__(settings, facts | {"multi_label": multi_label, "loss_weights": loss_weights})
        # In place: the loader makes new images in every step, and nothing else reads them.
        options = {"seed": settings.seed, "inplace": True} | settings.mixer_options
        if multi_label and options.get("loss", "bce") != "bce":
            raise ValueError(
                f"--mixer-options.loss {options['loss']} is for one label per image, the data have "
                f"several: leave it out"
            )
        if multi_label or settings.bce:
            options["loss"] = "bce"
        if settings.label_smoothing:
            options["label_smoothing"] = settings.label_smoothing
        if loss_weights is not None:
            options["class_weights"] = loss_weights
        self.network: nn.Module = create_model(
            settings.model, len(classes), image_size, drop_path=settings.drop_path, drop=settings.drop
        )
        if weights is not None:
            keep = settings.init_head == "keep"
            loaded = load_weights(self.network, weights, source_flag(settings), classifier=keep)
            self.hparams["data"]["weights"] = loaded.record()
            self.notes = (str(loaded),)
        if settings.init_head == "zero":
            set_to_zero(*classifier_layers(self.network))
        self.mixer = create_mixer(settings.mixer, len(classes), self.network, **options)
        self.means: tuple[str, ...] = ("loss_label",) if multi_label else ("loss_label", "acc_mixed")
        if self.mixer.trains_regions:
            size = (image_size, image_size)
            self.network = RegionModel(self.network, region_head=settings.region_head, image_size=size)
            if settings.init_head == "zero":
                set_to_zero(self.network.region_head)
            self.means = (self.means[0], "loss_consistency", *self.means[1:])
        # The fastest memory format of convolutions, on CPUs and on GPUs in half precision.
        self.network = self.network.to(memory_format=torch.channels_last)
        self.frozen: FrozenPart | None = None
        if settings.freeze is not None:
            self.trains_all_from_start = settings.unfreeze_epoch is None
            self.frozen = FrozenPart(self.inference_network, str(settings.freeze), settings.unfreeze_epoch)
            if not any(parameter.requires_grad for parameter in self.network.parameters()):
                raise ValueError(f"--freeze {settings.freeze} leaves nothing to train")
        self.watch: Callable[[MixedBatch], None] | None = None
        """Is called with every mixed batch, to draw it."""
        scores = MultiLabelScores if multi_label else SingleLabelScores
        self.scores, self.probe_scores = scores(len(classes)), scores(len(classes))
        self.evaluated = ("loss_clean", scores.probe_score, *scores.names)
        self.score = scores.score

    @property
    def inference_network(self) -> nn.Module:
        return self.network.backbone if isinstance(self.network, RegionModel) else self.network

    def record(self) -> dict[str, Any]:
        entries = {"weights": self.hparams["data"].get("weights"), "feature_map": None}
        if isinstance(self.network, RegionModel):
            feature_map = self.network.feature_map
            words = f"{feature_map.name} ({feature_map.layout}, {feature_map.channels} channels)"
            entries["feature_map"] = words
        return entries

    def _start_epoch(self) -> None:
        super()._start_epoch()
        if self.frozen is not None:
            self.frozen.start_epoch(self.current_epoch, self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.frozen is not None:
            self.frozen.drop_gradients(self.current_epoch)

    def rates(self) -> dict[nn.Parameter, float] | None:
        """Return the learning rates of ``--layer-decay`` and ``--head-lr``."""
        settings, network = self.settings, self.inference_network
        assert isinstance(settings, ClassificationSettings)
        decay = 1.0 if settings.layer_decay is None else settings.layer_decay
        head_lr = settings.lr if settings.head_lr is None else settings.head_lr
        if decay == 1 and head_lr == settings.lr:
            return None
        rates = dict.fromkeys(self.network.parameters(), head_lr)  # so that of the region head too
        layers = dict.fromkeys(dict(network.named_parameters()), 0) if decay == 1 else layers_of(network)
        last, head = max(layers.values()), classifier_names(network)
        for name, parameter in network.named_parameters():
            if name not in head:
                rates[parameter] = settings.lr * decay ** (last - layers[name])
        return rates

    def advice(self, metrics: dict[str, float]) -> str | None:
        if "acc_clean" not in metrics:
            return None
        settings = self.settings
        assert isinstance(settings, ClassificationSettings)
        return "\n".join(mixing_advice(metrics["acc_clean"], settings.mixer, settings.fine_tunes))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits of (B, 3, H, W) images."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.mixer.enabled = self.mixing
        mixed = self.mixer(batch.images, batch.targets, indices=batch.indices)
        if self.watch is not None:
            self.watch(mixed)
        region_logits = None
        if mixed.boxes is None:
            logits = self.network(mixed.images)
        else:
            logits, region_logits = self.network(mixed.images, mixed.boxes)
        losses = self.mixer.losses(logits, mixed, region_logits)
        self.mixer.remember(mixed, logits)
        values = {f"loss_{name}": loss.detach() for name, loss in losses.items()}
        if "acc_mixed" in self.means:
            # A prediction is as right as the mixed label contains its class.
            predicted = logits.detach().argmax(1, keepdim=True)
            values["acc_mixed"] = 100 * mixed.targets.gather(1, predicted).mean()
        zero = torch.zeros_like(values["loss_label"])
        means = [values.get(name, zero) for name in self.means]
        return self.finish_step(list(losses.values()), len(batch.images), index, means)

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch: of the evaluation split (loader 0) or of the probe (loader 1)."""
        scores = self.probe_scores if dataloader_idx == 1 else self.scores
        scores.update(self(batch.images).float(), batch.targets)

    def on_validation_epoch_end(self) -> None:
        for name, value in self.scores.compute().items():
            self.log(name, value, prog_bar=name == self.score)
        if isinstance(self.scores, MultiLabelScores):
            per_class = self.scores.per_class.tolist()
            self.per_class = dict(zip(self.hparams["classes"], per_class, strict=True))
        if self.probe_scores.loss.update_called:
            probed = self.probe_scores.compute()
            self.log(self.probe_scores.probe_score, probed[self.score])
            self.log("loss_clean", probed["val_loss"])
        self.scores.reset()
        self.probe_scores.reset()


def open_run_images(settings: ClassificationSettings, checkpoint: dict[str, Any] | None) -> ImageData:
    """Return the data of a run, with the preprocessing of its weights.

    Raises:
        ValueError: data or weights that cannot be used; a CheckpointError for the checkpoint.
    """
    data = open_images(settings, settings.seed)
    if checkpoint is None:
        return data.prepared(run_preprocessing(settings, data))
    try:
        return data.prepared(preprocessing_of(checkpoint["hyper_parameters"]))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


class ImageLoading:
    """How labelled images become batches: from memory if they are small, else read in every epoch.

    Args:
        settings: of the run.
        data: the data set.
    """

    def __init__(self, settings: ClassificationSettings, data: ImageData) -> None:
        self.data = data
        self.augmentation = augmentation_of(data, settings)
        self.workers = settings.reading_processes
        self.strata: list[Tensor] | None = None
        """The training images of each class, for ``--balanced-sampling``."""
        if settings.balanced_sampling:
            self.strata = [members for _, members in strata(data.train.labels)]
        self.in_memory = self._decide(settings)
        self._probe: StackedImages | None = None

    def _decide(self, settings: ClassificationSettings) -> bool:
        """Return whether the images are kept in memory; raise ValueError if they cannot be."""
        size, possible = self.augmentation.size, not self.augmentation.one_by_one
        if settings.cache == "yes" and not possible:
            raise ValueError(
                "--cache yes needs images that are only shifted and mirrored: with --crop resized, "
                "--color-jitter, --auto-augment and others they are decoded in each epoch; leave --cache "
                "out"
            )
        if settings.cache != "auto":
            return settings.cache == "yes"
        needed = cache_bytes([len(self.data.train), len(self.data.evaluation)], size)
        return possible and size <= SMALL_IMAGE and needed <= CACHE_LIMIT

    def fill_cache(self) -> None:
        """Decode all images if they are kept in memory, and find bad files before the first step."""
        if not self.in_memory:
            return
        workers, progress, split = self.workers, launched_rank() == 0, f"{self.data.split} images"
        size, resize = self.augmentation.size, self.augmentation.resize
        mode = self.augmentation.interpolation
        if resize is not None and resize != size:  # evaluation sees less of an image than training
            self._probe = stack(self.probe(), size, workers, False, "training images", resize, mode)
        # The region that `training_crop` chooses.
        train = stack(self.data.train, size, workers, progress, "training images", size, mode)
        evaluation = stack(self.data.evaluation, size, workers, progress, split, resize, mode)
        self.data = replace(self.data, train=train, evaluation=evaluation)

    def training(
        self, order: TrainingOrder, epoch: Callable[[], int], device: torch.device
    ) -> TrainingBatches:
        """Return the training batches."""
        return TrainingBatches(
            self.data.train,
            order,
            self.augmentation,
            epoch,
            device=device,
            hold=self.in_memory,
            workers=self.workers,
        )

    def evaluation(
        self, images: LabelledImages, batches: Sequence[Tensor], device: torch.device
    ) -> EvaluationBatches:
        """Return evaluation batches of these images."""
        return EvaluationBatches(
            images, batches, self.augmentation, device=device, hold=self.in_memory, workers=self.workers
        )

    def probe(self) -> LabelledImages:
        """Return evenly spaced training images, as evaluation sees them if they are in memory."""
        train = self.data.train
        return train.select(spread_indices(train, PROBE)) if self._probe is None else self._probe


def create_classifier(
    settings: ClassificationSettings, data: ImageData, checkpoint: dict[str, Any] | None
) -> MixedClassifier:
    """Create network, mixer and metrics."""
    source = settings.table or settings.data
    about = {
        "name": "digits" if source is None else str(source),
        "folder": None if settings.data is None else str(settings.data),
        "dataset": "digits" if source is None else settings.dataset,
        "val_split": settings.val_split,
        "seed": settings.seed,
        "images": len(data.train),
        "mean": list(data.mean),
        "std": list(data.std),
        "resize": data.resize,
        "interpolation": data.interpolation,
    }
    weights = None
    if checkpoint is None:
        weights = initial_weights(settings)
    elif "weights" in checkpoint["hyper_parameters"]["data"]:
        about["weights"] = checkpoint["hyper_parameters"]["data"]["weights"]
    loss_weights = None
    if settings.class_weights is not None:
        loss_weights = class_weights(settings.class_weights, data.train.labels, data.classes)
    file_weights.cache_clear()  # else the weights would stay in memory during the run
    return MixedClassifier(
        settings, data.classes, data.image_size, about, data.multi_label, weights, loss_weights
    )


CLASSIFICATION = Task(
    command="fit",
    open_data=open_run_images,
    create_learner=create_classifier,
    create_loading=ImageLoading,
    name_run=lambda settings: f"{settings.model}-{settings.mixer}",
)
