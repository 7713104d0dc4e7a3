"""Takes from a ``torch.export`` archive what a plain program needs, and refuses what its loader would execute.

The loader unpickles (custom objects, tensor subclasses, example inputs, older formats), loads shared libraries
(AOTInductor) and evaluates size expressions as Python. Source: ``torch/export/pt2_archive`` and
``torch/_export/serde/serialize.py``. Not a sandbox: the operators of the graph are not looked at.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from typing import Any

from rillet.serving.errors import ProgramError

#: Without ``data/sample_inputs``, see below.
_KEPT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
#: How ``sympy.srepr`` writes an expression: calls of classes, keywords, numbers, and names of symbols.
_SREPR_NODES = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.UnaryOp, ast.USub)


def plain_archive(program: bytes) -> bytes:
    """The archive written anew, with nothing in it that loading would execute.

    It is written anew, and not only looked at, because the loader has another zip reader than Python's.

    :param program: what ``torch.export.save`` wrote of a program of plain tensors and symbolic sizes.
    :raises ProgramError: it contains what a plain program does not, or asks for pickle or evaluation of code.
    :raises Exception: arbitrary bytes fail in many ways (zip, JSON, encoding).
    """
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        records = {info.filename.partition("/")[2]: _record(archive, info) for info in archive.infolist()}
        if len(records) != len(archive.infolist()):
            raise ProgramError("the dense program's archive has a name twice")
    # The loader unpickles them where their safe loading fails; they are examples for a reader and need not be there.
    records[_SAMPLE_INPUTS] = b""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def _record(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    name = info.filename.partition("/")[2]
    if name == _SAMPLE_INPUTS:
        return b""
    if not _KEPT.fullmatch(name):
        raise ProgramError(f"the dense program's archive holds {info.filename[:80]!r}, which no plain program has")
    if info.compress_type != zipfile.ZIP_STORED:  # as torch writes them: nothing can swell
        raise ProgramError(f"the dense program's archive has {name} compressed")
    content = archive.read(info)
    if name.endswith(".json"):
        json.loads(content.decode(), object_hook=_check)
    return content


def _check(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("use_pickle", False) is not False:
        raise ProgramError(f"the dense program asks for pickle to load {str(fields.get('path_name'))[:80]!r}")
    if "expr_str" in fields and not _is_plain(fields["expr_str"]):
        raise ProgramError(f"the dense program has {str(fields['expr_str'])[:80]!r} for a size expression")
    return fields


def _is_plain(expression: str) -> bool:
    """Whether it only makes symbols, numbers and terms of them. A class may evaluate a string: hence only names in those."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except SyntaxError:
        return False
    return all(
        isinstance(node, _SREPR_NODES)
        and not (isinstance(node, ast.Name) and not node.id[0].isupper())
        and not (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"\w+", node.value)
        )
        for node in nodes
    )
