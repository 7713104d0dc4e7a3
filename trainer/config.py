"""Configuration of the model and of the training loop: plain values, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rillet.schemas.ranges import check_above_zero, check_finite, check_not_negative

#: growth of the first batches
_ROWS_PER_BATCH_ROW = 16
#: rows after which the gradient of exposure rows is half the likelihood's
_LIKELIHOOD_ROWS = 20_000
#: a step factor so near 1 counts as 1
_NO_FACTOR = 0.01


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how its dense part learns."""

    #: names the model in deltas, in the store, in checkpoints and in the serving URL; another name is another model
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
    #: share of the weights of matrices that each step takes away, in units of dense_learning_rate; 0 = none
    dense_weight_decay: float = 0.0
    #: AMSGrad for the dense part: steps that get smaller with every larger gradient and never larger again
    dense_amsgrad: bool = False
    #: Adagrad's step size for the bias of each task
    bias_learning_rate: float = 0.5
    #: event time in which half of a bias' sum of squared gradients is forgotten; 0 = never
    bias_half_life_s: float = 86_400.0
    #: norm above which the gradient of one example's embeddings is scaled down to it; inf = never
    max_row_gradient: float = 100.0
    #: norm above which the gradient of the dense part, mean per example of a batch, is scaled down to it; inf = never
    max_dense_gradient: float = 100.0
    #: what a model predicts before its first example: rather too little than too much
    initial_rate: float = 0.02
    #: seed of the dense part's initial weights
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or "|" in self.name:
            raise ValueError(f"name: {self.name!r} is empty, . or .., or holds one of / |")
        if self.kind not in ("logistic", "deepfm") and ":" not in self.kind:
            raise ValueError(f"kind: {self.kind!r} is none of logistic, deepfm, package.module:Class")
        if self.dim < 0 or (self.dim == 0 and self.kind != "logistic"):
            raise ValueError(f"dim: {self.dim} is not above 0")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: {list(self.hidden)} has a width below 1")
        check_above_zero(self, "dense_learning_rate", "bias_learning_rate", "max_row_gradient", "max_dense_gradient")
        check_not_negative(self, "dense_weight_decay", "bias_half_life_s", "seed")
        check_finite(self, "dense_weight_decay", "bias_half_life_s")
        if self.dense_learning_rate * self.dense_weight_decay >= 1:
            raise ValueError(
                f"dense_weight_decay: {self.dense_weight_decay} times dense_learning_rate {self.dense_learning_rate}"
                " is not below 1"
            )
        if not 0 < self.initial_rate < 1:
            raise ValueError(f"initial_rate: {self.initial_rate} is not in (0, 1)")

    @property
    def row_dim(self) -> int:
        """E: columns of an embedding row. Column 0 is the linear weight."""
        return 1 if self.kind == "logistic" else 1 + self.dim


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """How examples are batched, measured and saved."""

    #: rows of a batch; one optimiser step each
    batch_size: int = 512
    #: rows of the first batches; later ones have a sixteenth of the rows trained on so far, up to batch_size
    first_batch_size: int = 32
    #: what the first steps of embedding rows are multiplied by, going to 1 with the rows trained on; below 1 it is a
    #: warm-up
    first_step_factor: float = 6.0
    #: the same for the dense part
    dense_first_step_factor: float = 1.0
    #: rows after which the two factors are half way to 1
    first_step_rows: int = 4000
    #: a batch that is not full is trained on once its oldest row has waited this long and there is no more input
    max_wait_ms: int = 1000
    #: a row with a dense feature further from 0 is refused and becomes a dead letter; inf = only what is not finite
    max_dense: float = 1e15
    #: a dense value further from the median of its feature is replaced by it; in distances from there to the tenth or the
    #: ninetieth percentile of the newest rows; inf = never
    max_dense_spreads: float = 100.0
    #: decoded rows held in memory ahead of training; reading waits above it
    queue_rows: int = 65536
    #: seconds from the end of a checkpoint to the beginning of the next; after a crash what came since the beginning of the
    #: newest complete one is trained again
    checkpoint_interval_s: float = 60.0
    #: newest checkpoints that are kept
    keep_checkpoints: int = 3
    #: quality as served is of the newest complete stretches of request time that hold so many rows of a task
    quality_rows: int = 20000
    #: length of such a stretch, event time; 0 = an eighth of the task's label window, at least a minute
    quality_stretch_ms: int = 0
    #: threads of the dense computation
    threads: int = 1
    #: seconds between two progress lines; quality and loss are measured, and metrics written to files, with each
    progress_interval_s: float = 10.0
    #: all metrics as JSON lines, appended to this file: a local path, or one below data_dir; "" = none
    metrics_file: str = ""
    #: all metrics as event files for TensorBoard, in this folder: a local path, or one below data_dir; "" = none. Needs
    #: ``rillet[tensorboard]``
    tensorboard_dir: str = ""

    def __post_init__(self) -> None:
        may_be_zero, paths = ("max_wait_ms", "quality_stretch_ms"), ("metrics_file", "tensorboard_dir")
        check_above_zero(self, *(field.name for field in fields(self) if field.name not in (*may_be_zero, *paths)))
        check_not_negative(self, *may_be_zero)
        for name in paths:
            if "://" in getattr(self, name):
                raise ValueError(f"{name}: {getattr(self, name)!r} is a URL, a local path is needed")

    def batch_rows(self, trained_rows: int) -> int:
        """Rows of the next batch: a sixteenth of those trained on so far, from first_batch_size to batch_size.

        A step is of one size, however many rows are in its batch: a model without history is to take many soon.

        >>> config = TrainerConfig()
        >>> [config.batch_rows(rows) for rows in (0, 512, 1024, 4096, 10_000)]
        [32, 32, 64, 256, 512]
        """
        return min(self.batch_size, max(self.first_batch_size, trained_rows // _ROWS_PER_BATCH_ROW))

    def row_step_factor(self, trained_rows: int) -> float:
        """What the next step of embedding rows is multiplied by.

        A model without history has all to learn and nothing to lose; later, large steps are noise in its scores.

        >>> config = TrainerConfig(first_step_factor=6.0)
        >>> [round(config.row_step_factor(rows), 2) for rows in (0, 4_000, 100_000, 10_000_000)]
        [6.0, 3.5, 1.19, 1.0]
        """
        return self._step_factor(self.first_step_factor, trained_rows)

    def dense_step_factor(self, trained_rows: int) -> float:
        """What the next step of the dense part is multiplied by.

        >>> config = TrainerConfig(dense_first_step_factor=0.1)
        >>> [round(config.dense_step_factor(rows), 2) for rows in (0, 4_000, 100_000, 10_000_000)]
        [0.1, 0.55, 0.97, 1.0]
        """
        return self._step_factor(self.dense_first_step_factor, trained_rows)

    def _step_factor(self, first: float, trained_rows: int) -> float:
        factor = 1 + (first - 1) / (1 + trained_rows / self.first_step_rows)
        return factor if abs(factor - 1) > _NO_FACTOR else 1.0


def likelihood_share(trained_rows: int) -> float:
    """How much of the gradient of exposure rows is the likelihood's: all in the first minutes of a model, nothing later.

    ``docs/decisions/0006`` has what either is good for.

    >>> [round(likelihood_share(rows), 3) for rows in (0, 5_000, 20_000, 1_000_000)]
    [1.0, 0.941, 0.5, 0.0]
    """
    return 1 / (1 + (trained_rows / _LIKELIHOOD_ROWS) ** 2)
