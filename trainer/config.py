"""Configuration of the model and of the training loop: plain values, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rillet.schemas.ranges import check_above_zero, check_not_negative


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how its dense part learns."""

    #: names the model in deltas, in the store and in the serving URL
    name: str = "model"
    #: "logistic", "deepfm", or "package.module:Class" of your own ``torch.nn.Module``; ``rillet.trainer.check_model``
    #: tells whether one can be used
    kind: str = "deepfm"
    #: columns of an embedding in addition to its linear weight; kind "logistic" has none
    dim: int = 16
    #: widths of the hidden layers
    hidden: tuple[int, ...] = (32,)
    #: Adam's step size for the dense part
    dense_learning_rate: float = 3e-3
    #: seed of the dense part's initial weights
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or "|" in self.name:
            raise ValueError(f"name: {self.name!r} is empty or holds one of / |")
        if self.kind not in ("logistic", "deepfm") and ":" not in self.kind:
            raise ValueError(f"kind: {self.kind!r} is none of logistic, deepfm, package.module:Class")
        if self.dim < 0 or (self.dim == 0 and self.kind != "logistic"):
            raise ValueError(f"dim: {self.dim} is not above 0")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: {list(self.hidden)} has a width below 1")
        check_above_zero(self, "dense_learning_rate")

    @property
    def row_dim(self) -> int:
        """E: columns of an embedding row. Column 0 is the linear weight."""
        return 1 if self.kind == "logistic" else 1 + self.dim


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """How examples are batched, measured and saved."""

    #: rows of a batch; one optimiser step each
    batch_size: int = 512
    #: a batch that is not full is trained on once its oldest row has waited this long and there is no more input
    max_wait_ms: int = 1000
    #: decoded rows held in memory ahead of training; reading waits above it
    queue_rows: int = 65536
    #: seconds between checkpoints; also the most that is trained again after a crash
    checkpoint_interval_s: float = 60.0
    #: newest checkpoints that are kept
    keep_checkpoints: int = 3
    #: quality as served is of the newest complete stretches of request time that hold so many rows of a task
    quality_rows: int = 20000
    #: length of such a stretch, event time; 0 = an eighth of the task's label window, at least a minute
    quality_stretch_ms: int = 0
    #: threads of the dense computation
    threads: int = 1
    #: seconds between two progress lines
    progress_interval_s: float = 10.0

    def __post_init__(self) -> None:
        may_be_zero = ("max_wait_ms", "quality_stretch_ms")
        check_above_zero(self, *(field.name for field in fields(self) if field.name not in may_be_zero))
        check_not_negative(self, *may_be_zero)
