"""The loaders of a transfer run."""

from __future__ import annotations

from typing import Any

from recursivemix.data.annotated import DetectionData, SegmentationData
from recursivemix.data.annotated_batches import AnnotatedEvaluation, AnnotatedTraining, JointTransform
from recursivemix.data.order import TrainingOrder, evaluation_batches
from recursivemix.training.loaders import RunLoaders


class TransferLoaders(RunLoaders):
    """Loaders of annotated images.

    Args:
        data: the images.
        transform: applied to each training image and its target.
        truth: the evaluation's objects as COCO has them, for detection.
        batch_size: images a step, on each device.
        workers: processes that read images; 0 reads in the training process.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        data: DetectionData | SegmentationData,
        transform: JointTransform,
        *,
        truth: dict[str, Any] | None = None,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.data = data
        self.transform = transform
        self.truth = truth
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed

    def train_dataloader(self) -> AnnotatedTraining[Any]:
        trainer = self.trainer
        assert trainer is not None
        order = TrainingOrder(
            len(self.data.train),
            self.batch_size,
            self.seed,
            ranks=trainer.world_size,
            rank=trainer.global_rank,
        )
        batches: AnnotatedTraining[Any] = AnnotatedTraining(
            self.data.train,
            order,
            self.transform,
            lambda: trainer.current_epoch,
            device=trainer.strategy.root_device,
            workers=self.workers,
        )
        batches.first, self.first = self.first, 0
        return batches

    def val_dataloader(self) -> AnnotatedEvaluation[Any]:
        return self.evaluation_dataloader()

    def evaluation_dataloader(self) -> AnnotatedEvaluation[Any]:
        trainer = self.trainer
        assert trainer is not None
        images = self.data.evaluation
        batches = evaluation_batches(len(images), self.batch_size, trainer.world_size, trainer.global_rank)
        return AnnotatedEvaluation(
            images, batches, device=trainer.strategy.root_device, workers=self.workers
        )
