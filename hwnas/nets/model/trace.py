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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hwnas.errors import InputError
from hwnas.nets.model.tracer import BATCH, Leaf, Tracer, attribute, counted, reason_of, run

TOLERANCE = 1e-5  # of outputs, relative to the largest one where that is above 1


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
    tracer = Tracer(images.clone(), _functions())
    try:
        with torch.no_grad():
            graph = tracer.trace(module)
    except InputError:
        raise
    except Exception as exc:
        raise InputError(
            f"the code of {type(module).__name__} cannot be traced: {reason_of(exc)}; move that code of its "
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


def _one_output(graph: fx.Graph, tracer: Tracer) -> list[str]:
    """Leave the main output alone; the notes say what was left out."""
    end = next(node for node in graph.nodes if node.op == "output")
    out, name = main_output(end.args[0])
    many = name
    value: Any = tracer.values.get(out)
    while not isinstance(value, Tensor):  # a leaf at the end that returns several
        _, below = main_output(value)
        key = below.split(".", maxsplit=1)[0]
        with graph.inserting_before(end):
            at: Any = key if isinstance(value, dict) else 0
            out = graph.call_function(operator.getitem, (out, at))
        value = value[at]  # a dictionary or a tuple, as `main_output` found
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
                f"the traced graph does not run with a batch of {len(given)}: {reason_of(exc)}; the network "
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
