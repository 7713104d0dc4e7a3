"""What a model has to do so that it can be trained online, published and served: one list of checks.

For a user's own ``torch.nn.Module``, before it is put into ``model.kind``; the built-in models pass the same list.
The idea is river's list of checks that every estimator has to pass.
"""

from __future__ import annotations

import copy
from io import BytesIO
from typing import NoReturn

import torch
from torch import Tensor, nn

from rillet.schemas import FeatureSpec
from rillet.trainer.config import ModelConfig
from rillet.trainer.errors import ModelError
from rillet.trainer.export import dense_state, export_program
from rillet.trainer.models import known_statistics

_ROWS = (1, 2, 7)
_RTOL, _ATOL = 1e-4, 1e-5


def check_model(module: nn.Module, spec: FeatureSpec, *, row_dim: int = ModelConfig().row_dim) -> None:
    """Returns if ``module`` can be trained, published and served; takes some seconds. The module stays as it was.

    Checked on seeded random inputs of 1, 2 and 7 rows:

    * ``forward(embeddings float32[n, S, E], dense float32[n, Dd])`` gives logits float32[n, T], finite, in training
      and in evaluation, for a batch of one row too;
    * in evaluation the same input gives the same logits, and a row's logits do not depend on the rows beside it;
    * every task's gradient reaches the embeddings;
    * ``state_dict`` has the same names and shapes before and after use, and only finite numbers;
    * ``torch.export`` exports it for any number of rows, and the exported program gives the same logits.

    >>> import torch
    >>> from rillet.schemas import parse_spec
    >>> from rillet.trainer import check_model
    >>> spec = parse_spec('''
    ... [spec]
    ... name = "films"
    ... [[context]]
    ... name = "user"
    ... slot = 1
    ... kind = "id"
    ... [[item]]
    ... name = "film"
    ... slot = 2
    ... kind = "id"
    ... [[tasks]]
    ... name = "watch"
    ... action = "watch"
    ... window_ms = 1000
    ... ''')
    >>> class Summed(torch.nn.Module):
    ...     def __init__(self, segments, row_dim, dense, tasks, hidden=()):
    ...         super().__init__()
    ...         self.bias = torch.nn.Parameter(torch.zeros(tasks))
    ...
    ...     def forward(self, embeddings, dense):
    ...         return embeddings.sum((1, 2)).unsqueeze(1) + self.bias
    >>> check_model(Summed(2, 17, 0, 1), spec)

    :param module: built as :func:`rillet.trainer.build_model` builds it.
    :param row_dim: E, columns of an embedding row: 1 + ``model.dim``.
    :raises ModelError: names what is wrong, and what to do.
    """
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name}: is not a torch.nn.Module; derive it from torch.nn.Module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        check = _Checks(name, copy.deepcopy(module), spec, row_dim)
        check.state_names_are_stable()
        check.logits_have_the_right_shape()
        check.evaluation_is_deterministic()
        check.rows_are_scored_alone()
        check.gradients_reach_the_embeddings()
        check.export_gives_the_same_logits()


class _Checks:
    """The checks, in an order in which the first that fails names the cause."""

    def __init__(self, name: str, module: nn.Module, spec: FeatureSpec, row_dim: int) -> None:
        self._name = name
        self._module = module
        self._spec = spec
        self._row_dim = row_dim
        self._tasks = [task.name for task in spec.tasks]

    def logits_have_the_right_shape(self) -> None:
        for mode in ("training", "evaluation"):
            self._module.train(mode == "training")
            for rows in _ROWS:
                logits = self._forward(rows, mode)
                if tuple(logits.shape) != (rows, len(self._tasks)):
                    self._refuse(
                        f"forward gives the shape {list(logits.shape)} for {rows} rows, expected"
                        f" [{rows}, {len(self._tasks)}]: one logit per row and task ({', '.join(self._tasks)})"
                    )
                if logits.dtype != torch.float32:
                    self._refuse(f"forward gives {logits.dtype}, expected torch.float32: leave the dtypes as they are")
                if not bool(torch.isfinite(logits).all()):
                    self._refuse(
                        f"forward gives a number that is not finite in {mode}, for inputs between -5 and 5: give the"
                        " weights a smaller scale, and bound what is divided by or exponentiated"
                    )

    def evaluation_is_deterministic(self) -> None:
        self._module.eval()
        inputs = self._inputs(7)
        with torch.no_grad():
            if not torch.equal(self._module(*inputs), self._module(*inputs)):
                self._refuse(
                    "the same input gives other logits the second time in evaluation: make dropout and noise depend"
                    " on self.training"
                )

    def rows_are_scored_alone(self) -> None:
        self._module.eval()
        embeddings, dense = self._inputs(7)
        with torch.no_grad():
            together = self._module(embeddings, dense)
            alone = torch.cat([self._module(embeddings[i : i + 1], dense[i : i + 1]) for i in range(7)])
        if not torch.allclose(together, alone, rtol=_RTOL, atol=_ATOL):
            self._refuse(
                "a row's logits depend on the other rows of the batch in evaluation, but a server batches the rows of"
                " several requests: reduce over dimensions 1 and 2 only, never over the rows"
            )

    def gradients_reach_the_embeddings(self) -> None:
        module = copy.deepcopy(self._module).train()
        with torch.no_grad():  # weights that begin at zero let nothing through, and do after the first step
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        for task, task_name in enumerate(self._tasks):
            embeddings, dense = self._inputs(7)
            embeddings.requires_grad_()
            logit = module(embeddings, dense)[:, task].sum()
            gradient = torch.autograd.grad(logit, embeddings, allow_unused=True)[0] if logit.requires_grad else None
            if gradient is None or not bool(gradient.any()):
                self._refuse(
                    f"the loss of task {task_name} has no gradient with respect to the embeddings, so their rows would"
                    " never learn from it: use them for every task, without detach() or rounding"
                )
            if not bool(torch.isfinite(gradient).all()):
                self._refuse(f"the gradient of task {task_name} is not finite: avoid roots and divisions at 0")

    def state_names_are_stable(self) -> None:
        before = self._state()
        for mode in (True, False):
            self._module.train(mode)
            self._forward(2, "training" if mode else "evaluation")
        after = self._state()
        if changed := sorted(set(before.items()) ^ set(after.items())):
            names = ", ".join(sorted({name for name, _ in changed}))
            self._refuse(
                f"state_dict has other names or shapes after forward ({names}): register parameters and buffers in"
                " __init__, with their final shapes"
            )
        dense_state(self._module)

    def export_gives_the_same_logits(self) -> None:
        self._module.eval()
        try:
            program = torch.export.load(BytesIO(export_program(self._module, self._spec, self._row_dim))).module()
        # Exporting fails in as many ways as there is Python that cannot be exported: all mean the same here.
        except Exception as error:
            raise ModelError(
                f"{self._name}: torch.export cannot export it for any number of rows: {_first_line(error)}; avoid"
                " branches on tensor values, sizes taken from one batch, and code outside of torch"
            ) from error
        if program.state_dict().keys() != self._module.state_dict().keys():
            self._refuse("the exported program has other weights than state_dict: use each of them in forward")
        for rows in _ROWS:
            inputs = self._inputs(rows)
            with torch.no_grad():
                ours, exported = self._module(*inputs), program(*inputs)
            if not torch.allclose(ours, exported, rtol=_RTOL, atol=_ATOL):
                self._refuse(
                    f"the exported program gives other logits for {rows} rows (difference"
                    f" {float((ours - exported).abs().max()):.2g}): compute from the inputs and the weights only, not"
                    " from Python state that changes between calls"
                )

    def _inputs(self, rows: int) -> tuple[Tensor, Tensor]:
        embeddings = torch.randn(rows, self._spec.segments, self._row_dim).clamp(-5, 5)
        return embeddings, torch.randn(rows, len(self._spec.dense)).clamp(-5, 5)

    def _forward(self, rows: int, mode: str) -> Tensor:
        embeddings, dense = self._inputs(rows)
        try:
            with known_statistics(self._module, rows):
                logits = self._module(embeddings, dense)
        except Exception as error:
            what = (
                "batches may be that small: normalise with torch.nn.BatchNorm1d, which then takes its running statistics,"
                " or over features, as torch.nn.LayerNorm does"
                if rows == 1
                else "forward has to take embeddings [n, S, E] and dense [n, Dd] for any n"
            )
            raise ModelError(
                f"{self._name}: forward fails in {mode} for {rows} rows, embeddings {list(embeddings.shape)} and dense"
                f" {list(dense.shape)}: {_first_line(error)}; {what}"
            ) from error
        if not isinstance(logits, Tensor):
            self._refuse(f"forward gives a {type(logits).__name__}, expected one tensor of logits")
        return logits

    def _state(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self._module.state_dict().items()}

    def _refuse(self, problem: str) -> NoReturn:
        raise ModelError(f"{self._name}: {problem}")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
