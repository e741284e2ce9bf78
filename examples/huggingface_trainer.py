"""RecursiveMix in the Hugging Face `Trainer`.

    python examples/huggingface_trainer.py --epochs 5 --output saved
    python examples/huggingface_trainer.py --epochs 10 --output saved --resume

`compute_loss` mixes on the device, in training only, and computes the loss from the logits itself. The
model does not receive the soft labels: with `labels=` it would take the task for a multi-label one and set
`config.problem_type` permanently.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import (
    EvalPrediction,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from digits import NUM_CLASSES, load_digits_tensors
from recursivemix import RecursiveMix, RegionModel


class MixingTrainer(Trainer):
    """A Trainer of a `RegionModel`, with a mixer."""

    def __init__(self, mixer: RecursiveMix, **others: Any) -> None:
        super().__init__(**others)
        self.mixer = mixer
        self.add_callback(MixerCallback(mixer))

    def compute_loss(
        self,
        model: RegionModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        images, labels = inputs["pixel_values"], inputs["labels"]
        if model.training:
            batch = self.mixer(images, labels)
            logits, region_logits = model(batch.images, batch.boxes)
            self.mixer.remember(batch, logits)
            loss = self.mixer.loss(logits, batch, region_logits)
        else:
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        return (loss, {"logits": logits}) if return_outputs else loss


class MixerCallback(TrainerCallback):
    """Tells the mixer when an epoch begins, and puts its state into the Trainer's checkpoints."""

    def __init__(self, mixer: RecursiveMix) -> None:
        self.mixer = mixer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        if state.global_step > 0:  # resumed
            self.mixer.load_state_dict(torch.load(self._file(args, state)))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        # Also called when a run is resumed within an epoch, where the history must be kept.
        if (state.epoch or 0) % 1 == 0:
            self.mixer.start_epoch()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        torch.save(self.mixer.state_dict(), self._file(args, state))

    def _file(self, args: TrainingArguments, state: TrainerState) -> Path:
        # One file per process: each has its own history and random stream.
        return Path(args.output_dir, f"checkpoint-{state.global_step}", f"mixer_{args.process_index}.pt")


def as_dicts(dataset: TensorDataset) -> list[dict[str, Tensor]]:
    """Return the samples as dictionaries, which the Trainer needs."""
    return [{"pixel_values": image, "labels": label} for image, label in dataset]


def share_correct(prediction: EvalPrediction) -> dict[str, float]:
    """The metric that `Trainer.evaluate` reports as ``eval_accuracy``."""
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main(epochs: int, output: Path, resume: bool) -> float:
    """Train to `epochs` in all, save into the folder `output`, and return the test accuracy."""
    torch.manual_seed(0)
    train, test = load_digits_tensors()
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=NUM_CLASSES
    )
    model = RegionModel(ResNetForImageClassification(config))
    args = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        # The Trainer takes both from the arguments of the model's forward, where a RegionModel has neither.
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = MixingTrainer(
        mixer=RecursiveMix(num_classes=NUM_CLASSES),
        model=model,
        args=args,
        train_dataset=as_dicts(train),
        eval_dataset=as_dicts(test),
        compute_metrics=share_correct,
    )
    trainer.train(resume_from_checkpoint=resume)
    # For `from_pretrained`: the Hugging Face model without the region head, which only training needs.
    model.backbone.save_pretrained(output)
    return trainer.evaluate()["eval_accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("saved"), help="folder for all that is saved")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in output")
    print(f"test accuracy {main(**vars(parser.parse_args())):.3f}")
