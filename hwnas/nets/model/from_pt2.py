"""A program of torch.export (``FILE.pt2``) as ONNX, from which it is read like any other graph.

Such a file holds pickles and code: reading it runs what is in it, as with a Python file that a user names.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from hwnas.errors import BuildError, DataFormatError, InputError
from hwnas.nets.model.to_onnx import module_onnx


class _Open(nn.Module):
    """An exported program with its own names of modules, as a plain module that torch can record."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        for name, child in program.named_children():
            self.add_module(name, child)
        for name, parameter in program.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in program.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self._program = (program,)  # in a tuple, so that it is no module of this one and adds no name

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._program[0].forward(x)
        return made


def program_onnx(path: Path) -> bytes:
    """The program of a file as ONNX; the batch is open where the program leaves it open.

    Raises:
        InputError: there is no such file, or the program takes something else than images.
        DataFormatError: the file holds no program.
    """
    if not path.is_file():
        raise InputError(f"model {path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            whole = torch.export.unflatten(program)
            whole.check_input_constraints = False  # of sizes, no numbers while it is recorded
            module = _Open(whole)
    except Exception as exc:  # whatever a damaged archive leads its readers to
        raise DataFormatError(
            f"model {path} is no program of torch.export: {' '.join(str(exc).split())[:200]}"
        ) from exc
    names = program.graph_signature.user_inputs
    given = [n.meta["val"].shape for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if len(given) != 1 or len(given[0]) != 4 or not all(isinstance(n, int) for n in given[0][1:]):
        raise InputError(f"model {path} does not take one tensor of images (batch, C, H, W) of a fixed size")
    batch, *shape = given[0]
    try:
        return module_onnx(module, shape, batch if isinstance(batch, int) else None)
    except BuildError as exc:
        raise InputError(f"model {path}: {exc}; give the Python function that makes it") from exc
