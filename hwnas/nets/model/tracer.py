"""Recording operations while they are executed on an example, so that sizes are numbers.

What a network asks about a tensor (sizes, dimensions, type) has its answer at once; the batch alone stays
open. A module whose code cannot be followed becomes a leaf, named with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.errors import InputError

BATCH = 2  # of the example
# These do something in training alone; followed in eval mode they would be lost for the training that comes.
TRAINING_ONLY = ("StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d")
# Known by their type, whatever code a library has put into a subclass (padding as needed, an activation
# fused to a norm); followed, a batch norm would stay in eval mode for ever.
KNOWN = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
NO_OPERATION = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Leaf:
    """A module that is left as it is.

    Attributes:
        name: the module's own name in the network.
        reason: why its code could not be followed.
    """

    name: str
    reason: str


class Unfollowed(Exception):
    """The code asks for what is not known while it is traced."""


class _Sizes(tuple[Any, ...]):
    """Sizes of a tensor, as torch.Size; the batch is a proxy."""

    def numel(self) -> Any:
        """Their product."""
        product: Any = 1
        for size in self:
            product = product * size
        return product


class _Known(fx.Proxy):
    """A value that was computed; what is asked about it is answered."""

    tracer: Tracer  # its `proxy` alone makes these

    @property
    def value(self) -> Any:
        return self.tracer.values[self.node]

    def _sizes(self) -> _Sizes:
        if not isinstance(self.value, Tensor):
            raise Unfollowed("it asks for the shape of something that is not a tensor")
        shape = tuple(self.value.shape)
        self.tracer.asked.add(self.tracer.scope.module_path)
        if not shape:
            return _Sizes()
        first = self.tracer.create_proxy("call_method", "size", (self, 0), {})
        return _Sizes((first, *shape[1:]))

    @property
    def shape(self) -> _Sizes:
        """Sizes."""
        return self._sizes()

    def size(self, dim: int | None = None) -> Any:
        """Sizes, or one."""
        if dim is None:
            return self._sizes()
        at = dim % max(self.value.dim(), 1)
        if at == 0:
            return self.tracer.create_proxy("call_method", "size", (self, 0), {})
        return self._sizes()[at]

    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.value.dim())

    ndimension = dim

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return int(self.value.dim())

    @property
    def dtype(self) -> Any:
        """Type of the numbers."""
        return self.value.dtype

    @property
    def device(self) -> Any:
        """Where it lies."""
        return self.value.device

    @property
    def is_cuda(self) -> bool:
        """Whether it lies on a GPU."""
        return bool(self.value.is_cuda)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are kept."""
        return bool(self.value.requires_grad)

    def is_floating_point(self) -> bool:
        """Whether the numbers are floats."""
        return bool(self.value.is_floating_point())

    def is_contiguous(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the memory is in order."""
        return bool(self.value.is_contiguous(*args, **kwargs))

    def __len__(self) -> int:
        if isinstance(self.value, Tensor):
            raise Unfollowed("it goes through the images of a batch one by one")
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, Tensor):
            if self.value.dim() and self.value.shape[0] == BATCH:
                raise Unfollowed("it goes through the images of a batch one by one")
            return iter([operator.getitem(self, i) for i in range(self.value.shape[0])])
        return iter([operator.getitem(self, i) for i in range(len(self.value))])

    def __bool__(self) -> bool:
        if isinstance(self.value, Tensor):
            raise Unfollowed("it decides by the values of a tensor")
        return bool(self.value)

    def __index__(self) -> int:
        raise Unfollowed("it needs the batch size as a number")

    __int__ = __index__

    def __float__(self) -> float:
        raise Unfollowed("it needs a value of a tensor as a number")


class Tracer(fx.Tracer):
    """Runs each operation as it records it."""

    def __init__(self, example: Tensor, functions: tuple[Callable[..., Any], ...]) -> None:
        super().__init__(autowrap_functions=functions)
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.leaves: dict[str, str] = {}
        self.asked: set[str] = set()
        self.running = False  # fx has patched the modules' calls; while an operation runs they are plain

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that knows its value."""
        return _Known(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation of the graph."""
        if isinstance(m, KNOWN) or type(m).__name__ in TRAINING_ONLY:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Follow a module, or leave it as it is where its code cannot be followed."""
        if self.running:
            return forward(*args, **kwargs)
        last, depth = next(iter(reversed(self.graph.nodes)), None), len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as exc:
            name = self.path_of_module(m)
            if self.is_leaf_module(m, name):
                raise
            while len(self.module_stack) > depth:
                self.module_stack.popitem(last=True)
            for node in reversed(list(self.graph.nodes)):
                if node is last:
                    break
                self.values.pop(node, None)
                self.graph.erase_node(node)
            within = [inner for inner in self.leaves if inner.startswith(f"{name}.")]
            for inner in within:
                del self.leaves[inner]
            self.leaves[name] = reason_of(exc)
            return self.create_proxy("call_module", name, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter as it is while an operation runs, else what stands for it."""
        if self.running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **settings: Any
    ) -> fx.Proxy:
        """Record an operation and run it."""
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **settings)
        node = proxy.node
        stack = node.meta.get("nn_module_stack") or {}
        node.meta["path"] = list(stack.values())[-1][0] if stack else ""
        if kind == "call_module":
            node.meta["path"] = node.target
        try:
            self.values[node] = value = self._run(node)
        except Exception:
            self.graph.erase_node(node)
            raise
        if isinstance(value, Tensor):
            node.meta["shape"], node.meta["dtype"] = tuple(value.shape), value.dtype
        return proxy

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if any(n.op == "placeholder" for n in self.values):
                if node.args:
                    return node.args[0]
                raise InputError(
                    "the network's forward takes several arguments; give a function that returns a module of "
                    "one image tensor"
                )
            return self.example
        if node.op == "get_attr":
            self.running = True
            try:
                return attribute(self.root, str(node.target))
            finally:
                self.running = False
        if node.op == "output":
            return None
        values = self.values

        def known(arg: fx.Node) -> Any:
            if arg not in values:  # a tensor of the code's own, which fx makes an attribute of
                values[arg] = value = getattr(self.root, str(arg.target))
                arg.meta |= {"path": "", "macs": 0, "shape": tuple(value.shape), "dtype": value.dtype}
            return values[arg]

        args = fx.node.map_arg(node.args, known)
        kwargs = fx.node.map_arg(node.kwargs, known)
        self.running = True
        try:
            return counted(node, partial(run, self.root, node, args, kwargs), self.root)
        finally:
            self.running = False


def attribute(root: nn.Module, name: str) -> Any:
    """An attribute by its full name."""
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part)
    return found


def run(root: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """The value of an operation."""
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def counted(node: fx.Node, compute: Callable[[], Any], root: nn.Module) -> Any:
    """The value of an operation, with its multiply-accumulates of one image in `meta`."""
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        value = compute()
        if isinstance(value, Tensor):
            node.meta["macs"] = value.numel() // len(value) * module.weight[0].numel()
        return value
    if module is not None:
        cheap = type(module).__module__.startswith("torch.nn") and not isinstance(module, _MULTIPLIES)
    else:
        cheap = getattr(node.target, "__name__", node.target) in _CHEAP
    if cheap:
        node.meta["macs"] = 0
        return compute()
    with FlopCounterMode(display=False) as counter:
        value = compute()
    node.meta["macs"] = counter.get_total_flops() // 2 // BATCH
    return value


# Of torch's own layers these multiply matrices; they are counted as they run, as is what is not torch's.
_MULTIPLIES = (
    nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.Transformer,
    nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder, nn.TransformerDecoderLayer,
)  # fmt: skip
_CHEAP = frozenset((
    "add", "iadd", "sub", "mul", "imul", "truediv", "size", "getitem", "cat", "flatten", "relu",
    "relu_", "permute", "view", "reshape", "mean", "getattr", "dropout", "contiguous", "add_", "mul_",
))  # fmt: skip


def reason_of(exc: Exception) -> str:
    """Why code could not be followed, in one sentence."""
    if isinstance(exc, Unfollowed):
        return str(exc)
    text = " ".join(str(exc).split())
    return f"its code cannot be followed ({type(exc).__name__}: {text[:160]})"
