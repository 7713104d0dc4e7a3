"""The dense part as artifacts: a ``torch.export`` program (bytes) and its weights (arrays by name).

A server loads the program once and swaps weights; it needs no model code. Embeddings are not in it.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rillet.schemas import FeatureSpec
from rillet.trainer.errors import ModelError


def export_program(model: nn.Module, spec: FeatureSpec, row_dim: int) -> bytes:
    """The model as a serialised program for any number of rows.

    Inputs: embeddings float32[n, S, row_dim], dense float32[n, Dd]; output: logits float32[n, T].
    """
    # 2 is the smallest size that torch.export does not take for a constant.
    example = (torch.zeros(2, spec.segments, row_dim), torch.zeros(2, len(spec.dense)))
    rows = torch.export.Dim("n")
    training = model.training
    model.eval()
    try:
        program = torch.export.export(model, example, dynamic_shapes=({0: rows}, {0: rows}))
    finally:
        model.train(training)
    out = BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


def dense_state(model: nn.Module) -> dict[str, npt.NDArray[np.generic]]:
    """Copies of all weights and buffers by name, as ``load_state_dict`` of model and program takes them.

    :raises ModelError: one holds a number that is not finite: it must reach neither servers nor a checkpoint.
    """
    state = {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ModelError(
                f"{name} of the model holds a number that is not finite; lower model.dense_learning_rate and restart"
                " from an earlier checkpoint (a constant that is infinite on purpose: register it persistent=False)"
            )
    return state
