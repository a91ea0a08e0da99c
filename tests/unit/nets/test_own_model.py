"""A user's own network: traced, cut, changed."""

from __future__ import annotations

import copy
from typing import Any

import own_networks as nets
import pytest
import torch
from torch import Tensor, nn

from hwnas.errors import DataFormatError, InputError
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.narrow import kept
from hwnas.nets.model.parent import Parent
from hwnas.nets.model.trace import traced


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_blocks_are_the_modules_of_the_user() -> None:
    found = nets.own(nets.Plain())
    assert [p.name for p in found.pieces] == ["stem", "body.0", "body.1", "head"]
    assert [p.droppable for p in found.pieces] == [False, True, True, False]
    assert [p.repeatable for p in found.pieces] == [False, True, True, False]
    assert [p.widths for p in found.pieces] == [(), (8, 16), (8, 16), ()]
    # 32 * 3 * 9 * 36 places; 2 convolutions of 32 * 24 * 9 at 36 places; 32 * 7
    assert [p.macs for p in found.pieces] == [31104, 497664, 497664, 224]
    assert found.pieces[1].key == found.pieces[2].key != found.pieces[0].key
    assert found.params == sum(p.numel() for p in nets.Plain().parameters())


def test_equal_structures_of_different_code_share_a_key() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(32, 24, 3, padding=1, bias=False)
            self.two = nn.BatchNorm2d(24)
            self.act = nn.ReLU(inplace=True)
            self.drop = nn.Dropout(0.3)
            self.three = nn.Conv2d(24, 32, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.act(x + self.three(self.drop(self.act(self.two(self.one(x))))))
            return y

    def middle(module: nn.Module) -> str:
        key: str = next(p.key for p in nets.own(nets.Wrapped(module)).pieces if p.droppable)
        return key

    assert middle(Other()) == middle(nets.Residual(32, 24))
    assert middle(nets.Residual(32, 32)) != middle(nets.Residual(32, 24))


@pytest.mark.parametrize(
    ("module", "width"),
    [
        (nets.Residual(32, 24), 16),
        (nets.Gated(), 40),
        (nets.Grouped(), 24),
        (nets.Dense(), 8),
        (nets.WithGain(), 16),
    ],
)
def test_narrowed_is_the_same_without_the_channels_that_were_taken(module: nn.Module, width: int) -> None:
    whole = nets.own(nets.settle(nets.Wrapped(module)))
    piece = next(p for p in whole.pieces if p.widths)
    assert width in piece.widths
    stays = kept(piece.channels, width)
    ignoring = copy.deepcopy(whole.graph)  # the channels stay, and nothing reads them
    for each in piece.channels.slices:
        if each.what == "in":
            gone = [i for i, a in enumerate(each.atoms) if not stays.get(int(a), True)]
            weight = nets.weight(ignoring, str(each.node.target))
            with torch.no_grad():
                weight[:, gone] = 0.0
    narrow = whole.variant(Edits(widths={piece.name: width})).module()
    torch.testing.assert_close(narrow(images()), ignoring(images()))
    assert sum(p.numel() for p in narrow.parameters()) < whole.params


def test_groups_of_a_grouped_convolution_go_as_a_whole() -> None:
    whole = nets.own(nets.Wrapped(nets.Grouped()))
    piece = next(p for p in whole.pieces if p.widths)
    # 32 channels in 4 groups of 8 enter it and 64 in 4 of 16 leave it: a fourth is the least to take.
    assert [(g.width, g.unit) for g in piece.channels.groups] == [(32, 8)]
    narrow = whole.variant(Edits(widths={piece.name: 24})).module()
    grouped = narrow.get_submodule("inner.b")
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (3, 24, 48)


def test_the_least_important_channels_are_taken() -> None:
    whole = nets.own(nets.Wrapped(nets.Residual(32, 24)))
    piece = next(p for p in whole.pieces if p.widths)
    scores = {"inner.a": torch.arange(24.0)}
    narrow = whole.variant(Edits(widths={piece.name: 16})).module(scores)
    torch.testing.assert_close(nets.weight(narrow, "inner.a"), nets.weight(whole.graph, "inner.a")[8:])


def test_a_channel_of_no_weight_is_taken_first_and_changes_nothing() -> None:
    module = nets.settle(nets.Wrapped(nets.Residual(32, 24)))
    with torch.no_grad():
        module.inner.norm.weight[:8] = 0.0  # folded, these make a constant ...
        module.inner.norm.bias[:8] = -1.0  # ... that the activation takes away
    whole = nets.own(module)
    piece = next(p for p in whole.pieces if p.widths)
    narrow = whole.variant(Edits(widths={piece.name: 16})).module()
    torch.testing.assert_close(narrow(images()), whole.graph(images()))


@pytest.mark.parametrize("module", [nets.Residual(32, 24), nets.Gated()])
def test_a_copy_changes_nothing_at_first_and_can_be_trained(module: nn.Module) -> None:
    whole = nets.own(nets.settle(nets.Wrapped(module)))
    name = next(p.name for p in whole.pieces if p.repeatable)
    grown = whole.variant(Edits(repeats={name: 3}))
    made = grown.module()
    torch.testing.assert_close(made(images()), whole.graph(images()))
    assert grown.params == sum(p.numel() for p in made.parameters())
    made(images()).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_neighbours_are_dropped_together() -> None:
    module = nets.settle(nets.Plain())
    whole = nets.own(module)
    none = whole.variant(Edits(frozenset(["body.0", "body.1"])))
    wanted = module.head(torch.relu(module.stem(images())).mean((2, 3)))
    torch.testing.assert_close(none.module()(images()), wanted)
    assert [form.piece.name for form in none.forms()] == ["stem", "head"]
    assert not [n for n in none.module().state_dict() if n.startswith("body")]


def test_forms_in_a_row_are_the_variant() -> None:
    whole = nets.own(nets.settle(nets.Plain()))
    edits = Edits(frozenset(["body.0"]), {"body.1": 8}, {"body.1": 2})
    variant = whole.variant(edits)
    out = images()
    for form in variant.forms():
        out = form.module()(out)
    made = variant.module()
    copies = [n for n in made.state_dict() if n.startswith("body.1_2")]
    assert "body.1_2.a.weight" in copies
    assert variant.params == sum(p.numel() for p in made.parameters())
    # The branch of a form is not zero; that of a copy is, which the latency does not depend on.
    assert out.shape == made(images()).shape


def refused(whole: Parent, edits: Edits, words: str) -> None:
    with pytest.raises(InputError, match=words):
        whole.variant(edits)


def test_edits_that_cannot_be_made_say_why() -> None:
    whole = nets.own(nets.Plain())
    refused(whole, Edits(frozenset(["bodi.0"])), r"unknown block.*body\.0")
    refused(whole, Edits(frozenset(["stem"])), "its output has another shape")
    refused(whole, Edits(widths={"body.0": 12}), "offered: 8, 16")
    refused(whole, Edits(widths={"stem": 8}), "they leave the block")
    refused(whole, Edits(frozenset(["body.0"]), repeats={"body.0": 2}), "both dropped and repeated")


def test_edits_come_back_from_json() -> None:
    edits = Edits(frozenset(["b", "a"]), {"c": 8}, {"d": 2})
    assert Edits.from_json(edits.to_json()) == edits
    assert hash(Edits.from_json(edits.to_json())) == hash(edits)
    assert edits.to_json() == {"dropped": ["a", "b"], "widths": {"c": 8}, "repeats": {"d": 2}}
    wrong: list[Any] = [[], {"dropped": "a"}, {"widths": {"a": 0}}, {"repeats": {"a": True}}, {"cut": []}]
    for body in wrong:
        with pytest.raises(DataFormatError):
            Edits.from_json(body)


def test_what_cannot_be_followed_is_a_leaf_with_its_name() -> None:
    whole = nets.own(nets.Wrapped(nets.ByValue()))
    assert [(leaf.name, leaf.reason) for leaf in whole.leaves] == [
        ("inner", "it decides by the values of a tensor")
    ]


def test_control_flow_on_sizes_is_followed_and_said() -> None:
    whole = nets.own(nets.Wrapped(nets.BySize()))
    assert not whole.leaves
    assert whole.notes == ("sizes are fixed to 3x8x8: they are read in inner",)
    torch.testing.assert_close(whole.graph(images(5)).shape, torch.Size([5, 5]))
    dropouts = [m for m in whole.graph.modules() if isinstance(m, nn.Dropout)]
    assert [m.p for m in dropouts] == [0.5]  # training mode drops again


def test_a_module_used_twice_is_left_alone() -> None:
    whole = nets.own(nets.Wrapped(nets.Shared()))
    assert not any(p.widths for p in whole.pieces)
    reasons = " ".join(p.reasons["widths"] for p in whole.pieces)
    assert "used several times" in reasons or "other blocks use" in reasons


class Several(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv, self.aux, self.train_only = (nn.Conv2d(3, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> object:
        out, aux = self.conv(x), self.aux(x)
        if self.training:
            return out, aux, self.train_only(x)
        return {"tuple": (out, aux), "dict": {"aux": aux, "out": out}, "nested": [(out,), aux]}[self.form]


@pytest.mark.parametrize(("form", "name"), [("tuple", "'0'"), ("dict", "'out'"), ("nested", "'0.0'")])
def test_of_several_outputs_the_main_one_is_taken_and_said(form: str, name: str) -> None:
    module = nets.settle(Several(form)).eval()
    found = traced(module, torch.zeros(3, 8, 8))
    torch.testing.assert_close(found.graph(images()), module.conv(images()))
    assert name in found.notes[0]
    assert found.notes[1] == "not used in eval mode and left out: aux, train_only"


class Odd(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.count = how, 0
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> object:
        if self.how == "random":
            return self.conv(x) + torch.rand(4, 1, 1)
        if self.how == "text":
            return "scores"
        if self.how == "fails":
            raise ValueError("too small")
        if self.how == "nan":
            return self.conv(x) * float("nan")
        return torch.stack([self.conv(one) for one in x])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("random", "random in eval mode"),
        ("text", "returns a str"),
        ("fails", r"does not take images of \(3, 8, 8\): ValueError: too small"),
        ("nan", "NaN"),
        ("each", "one by one.*submodule"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_what_to_do(how: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        traced(Odd(how).eval(), torch.zeros(3, 8, 8))
