"""A network as a graph: torch.fx, run on an example while it is traced, so that sizes are numbers.

Every operation is executed as it is recorded. What a network asks about a tensor (sizes, dimensions,
type) has its answer at once, so control flow on shapes is followed for the sizes of the example; the
batch alone stays open. A module whose code cannot be followed becomes a leaf: one operation that is left
as it is, named with the reason. The graph is refused unless it computes what the network computes.
"""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.errors import InputError

BATCH = 2  # of the example
TOLERANCE = 1e-5  # of outputs, relative to the largest one where that is above 1
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


@dataclass(frozen=True)
class Traced:
    """A network as a graph.

    Attributes:
        graph: the network; names in its state dict are those of the network. Each node has in `meta`
            "shape" and "dtype" (of one tensor; absent for anything else), "macs" of one image and
            "path", the module that it belongs to.
        leaves: modules that were not followed.
        notes: what the reader should know: sizes that were taken from the example, outputs left out.
    """

    graph: fx.GraphModule
    leaves: tuple[Leaf, ...]
    notes: tuple[str, ...]


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

    @property
    def value(self) -> Any:
        # torch.fx types `tracer` as its own base class; `_Tracer.proxy` alone makes these.
        return self.tracer.values[self.node]  # type: ignore[attr-defined]

    def _sizes(self) -> _Sizes:
        if not isinstance(self.value, Tensor):
            raise Unfollowed("it asks for the shape of something that is not a tensor")
        shape = tuple(self.value.shape)
        self.tracer.asked.add(self.tracer.scope.module_path)  # type: ignore[attr-defined]
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


class _Tracer(fx.Tracer):
    """Runs each operation as it records it."""

    def __init__(self, example: Tensor, functions: tuple[Callable[..., Any], ...]) -> None:
        super().__init__(autowrap_functions=functions)
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.leaves: dict[str, str] = {}
        self.asked: set[str] = set()
        self.running = False  # fx has patched the modules' calls; while an operation runs they are plain

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, KNOWN) or type(m).__name__ in TRAINING_ONLY:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
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
            self.leaves[name] = _reason(exc)
            return self.create_proxy("call_module", name, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **settings: Any
    ) -> fx.Proxy:
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


def _reason(exc: Exception) -> str:
    if isinstance(exc, Unfollowed):
        return str(exc)
    text = " ".join(str(exc).split())
    return f"its code cannot be followed ({type(exc).__name__}: {text[:160]})"


def traced(module: nn.Module, example: Tensor) -> Traced:
    """Make a graph of a network.

    Args:
        module: the network in eval mode; it keeps its weights, which the graph shares.
        example: one image (C, H, W); the graph is for its size and for any batch.

    Raises:
        InputError: the network does not take the example, cannot be followed at all, or its graph computes
            something else.
    """
    if isinstance(module, fx.GraphModule) and _made_here(module):
        return _graph_again(module, example)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *example.shape, generator=generator)
    expected = _outputs(module, images)
    tracer = _Tracer(images.clone(), _functions())
    try:
        with torch.no_grad():
            graph = tracer.trace(module)
    except InputError:
        raise
    except Exception as exc:
        raise InputError(
            f"the code of {type(module).__name__} cannot be traced: {_reason(exc)}; move that code of its "
            "forward into a submodule of its own, which is then left as it is"
        ) from exc
    _in_place(graph)
    notes = _one_output(graph, tracer)
    _open_batch(graph)
    made = fx.GraphModule(module, graph, type(module).__name__)
    _training_dropout(made)
    graph.lint()
    made.recompile()
    made.eval()
    notes += _unused(module, made)
    if asked := sorted(name for name in tracer.asked if name):
        notes.append(f"sizes are fixed to {_x(example)}: they are read in {_some(asked)}")
    elif tracer.asked:
        notes.append(f"sizes are fixed to {_x(example)}: they are read in the network's forward")
    _check(module, made, images, expected)
    leaves = tuple(Leaf(name, reason) for name, reason in tracer.leaves.items())
    return Traced(made, leaves, tuple(notes))


_OPS = ("call_module", "call_function", "call_method")


def _made_here(graph: fx.GraphModule) -> bool:
    return all("path" in node.meta for node in graph.graph.nodes if node.op in _OPS)


def _graph_again(module: fx.GraphModule, example: Tensor) -> Traced:
    """A graph that was made here before, with the shapes that it has now."""
    made = copy.deepcopy(module).eval()
    annotate(made, tuple(example.shape), torch.float32)
    return Traced(made, (), ())


def annotate(graph: fx.GraphModule, shape_in: tuple[int, ...], dtype: torch.dtype) -> None:
    """Run a graph on zeros, so that its nodes have their shapes, types and multiply-accumulates."""
    values: dict[fx.Node, Any] = {}

    def known(arg: fx.Node) -> Any:
        return values[arg]

    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                value: Any = torch.zeros(BATCH, *shape_in, dtype=dtype)
            elif node.op == "get_attr":
                value = attribute(graph, str(node.target))
            elif node.op == "output":
                continue
            else:
                args, kwargs = (fx.node.map_arg(given, known) for given in (node.args, node.kwargs))
                value = counted(node, partial(run, graph, node, args, kwargs), graph)
            values[node] = value
            if isinstance(value, Tensor):
                node.meta["shape"], node.meta["dtype"] = tuple(value.shape), value.dtype


def _x(example: Tensor) -> str:
    return "x".join(map(str, example.shape))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _functions() -> tuple[Callable[..., Any], ...]:
    """Functions that timm asks not to follow; none where no network of timm's is loaded."""
    layers = sys.modules.get("timm.layers")
    return tuple(layers.get_notrace_functions()) if layers is not None else ()


def _outputs(module: nn.Module, images: Tensor) -> Tensor:
    """The main output of the network itself."""
    try:
        with torch.no_grad():
            out: Tensor = main_output(module(images.clone()))[0]
    except InputError:
        raise
    except Exception as exc:
        raise InputError(
            f"the network does not take images of {tuple(images.shape[1:])}: "
            f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}; give their size by --input CxHxW"
        ) from exc
    if not torch.isfinite(out).all():
        raise InputError("the network's output holds NaN or infinite numbers; are its weights sound?")
    return out


def main_output(out: Any) -> tuple[Any, str]:
    """The output that counts of what a network returns, and its name where there are several.

    The one called "out" or "logits" of a dictionary, else the first.
    """
    if isinstance(out, (Tensor, fx.Node)):
        return out, ""
    if isinstance(out, dict) and out:
        key = next((k for k in ("out", "logits") if k in out), next(iter(out)))
        inner, below = main_output(out[key])
        return inner, f"{key}{below and '.'}{below}"
    if isinstance(out, (tuple, list)) and out:
        inner, below = main_output(out[0])
        name = getattr(out, "_fields", ("0",))[0]
        return inner, f"{name}{below and '.'}{below}"
    raise InputError(
        f"the network returns a {type(out).__name__}; a tensor, or several of them, are expected"
    )


def _one_output(graph: fx.Graph, tracer: _Tracer) -> list[str]:
    """Leave the main output alone; the notes say what was left out."""
    end = next(node for node in graph.nodes if node.op == "output")
    out, name = main_output(end.args[0])
    many = name
    value = tracer.values.get(out)
    while not isinstance(value, Tensor):  # a leaf at the end that returns several
        chosen, below = main_output(value)
        del chosen
        key = below.split(".", maxsplit=1)[0]
        with graph.inserting_before(end):
            at: Any = key if isinstance(value, dict) else 0
            out = graph.call_function(operator.getitem, (out, at))
        value = value[at]  # type: ignore[index]  # a dictionary or a tuple, as `main_output` found
        tracer.values[out] = value
        many = f"{many}.{key}" if many else key
    out.meta.setdefault("shape", tuple(value.shape))
    out.meta.setdefault("dtype", value.dtype)
    out.meta.setdefault("path", "")
    out.meta.setdefault("macs", 0)
    end.args = (out,)
    if not many:
        return []
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return [f"the network has several outputs; {many!r} is taken as the main one, the others are left out"]


def _open_batch(graph: fx.Graph) -> None:
    """Every batch size is asked of the input, so that it does not tie distant places together."""
    first = next(node for node in graph.nodes if node.op == "placeholder")
    sizes = [n for n in graph.nodes if n.op == "call_method" and n.target == "size" and n.args[1:] == (0,)]
    asked: fx.Node | None = None
    for node in sizes:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if not node.users:
            graph.erase_node(node)
            continue
        if source.meta.get("shape", ())[:1] != (BATCH,) or source.op == "get_attr":
            continue
        if asked is None:
            with graph.inserting_after(first):
                asked = graph.call_method("size", (first, 0))
            asked.meta |= {"path": "", "macs": 0}
        node.replace_all_uses_with(asked)
        graph.erase_node(node)
    for node in list(graph.nodes):  # the channels' place is counted, so that it follows a narrower network
        if node.op == "call_method" and node.target in ("view", "reshape"):
            _count_second(node)


def _count_second(node: fx.Node) -> None:
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    shape = node.meta.get("shape")
    if shape is None or len(sizes) < 2 or not isinstance(sizes[1], int) or sizes[1] in (-1, 0, 1):
        return
    if not isinstance(sizes[0], fx.Node):
        return
    rest = [known if given == -1 else given for given, known in zip(sizes[2:], shape[2:])]
    node.args = (node.args[0], sizes[0], -1, *rest)


def _in_place(graph: fx.Graph) -> None:
    """What was changed in place is used as the result of the change."""
    nodes = list(graph.nodes)
    order = {node: at for at, node in enumerate(nodes)}
    for node in nodes:
        if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            before = node.args[0]
            for user in list(before.users):
                if order[user] > order[node]:
                    user.replace_input_with(before, node)


def _training_dropout(made: fx.GraphModule) -> None:
    """Dropout that was called as a function becomes a module, which training mode switches on."""
    for node in list(made.graph.nodes):
        if node.op == "call_function" and node.target is F.dropout:
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            name = f"{node.name}_layer"
            made.add_module(name, nn.Dropout(p))
            node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}


def _unused(module: nn.Module, made: fx.GraphModule) -> list[str]:
    """What of the network has weights and is not used in eval mode."""
    kept = {id(p) for p in made.parameters()}
    lost = [name for name, p in module.named_parameters() if id(p) not in kept]
    tops = sorted({_top(name, lost, module) for name in lost})
    return [f"not used in eval mode and left out: {_some(tops)}"] if tops else []


def _top(name: str, lost: list[str], module: nn.Module) -> str:
    """The largest module around a parameter of which all parameters are lost."""
    gone = set(lost)
    parts = name.split(".")
    for end in range(1, len(parts)):
        path = ".".join(parts[:end])
        if all(f"{path}.{n}" in gone for n, _ in module.get_submodule(path).named_parameters()):
            return path
    return name


def _check(module: nn.Module, made: fx.GraphModule, images: Tensor, expected: Tensor) -> None:
    """The graph computes what the network computes, at two batch sizes."""
    more = torch.cat([images, images[:1]])
    for given, known in ((images, expected), (more, None)):
        wanted = known if known is not None else _outputs(module, given)
        try:
            with torch.no_grad():
                found = made(given.clone())
        except Exception as exc:
            raise InputError(
                f"the traced graph does not run with a batch of {len(given)}: {_reason(exc)}; the network "
                "fixes its batch size somewhere; read it from the input instead (x.shape[0])"
            ) from exc
        if found.shape != wanted.shape:
            raise InputError(
                f"the traced graph gives {tuple(found.shape)}, the network {tuple(wanted.shape)}; its "
                "forward depends on something other than the image"
            )
        off = float((found - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
        if off > TOLERANCE:
            again = float((_outputs(module, given) - wanted).abs().max())
            why = "it is random in eval mode too" if again > 0 else "its forward keeps a state between calls"
            raise InputError(
                f"the traced graph differs from the network by {off:.2g} of its largest output (at most "
                f"{TOLERANCE:g}); {why}"
            )
