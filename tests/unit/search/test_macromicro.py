"""The published controller: rules worked out by hand."""

from collections.abc import Callable

import pytest

from hwnas.errors import InputError
from hwnas.search.macromicro.controller import ChainCandidate, WalkOptions, advance, found, walk

SHAPE = (3, 10)


def run(
    options: WalkOptions, accuracy: Callable[[ChainCandidate], float]
) -> tuple[list[ChainCandidate], ChainCandidate, ChainCandidate]:
    """Walk with an accuracy that is a function of the candidate."""
    controller, seen = walk(options, SHAPE), []
    candidate = next(controller)
    while True:
        seen.append(candidate)
        try:
            candidate = controller.send(accuracy(candidate))
        except StopIteration as end:
            return seen, *end.value


def test_parameters_by_hand() -> None:
    # depth 3, width 2: layers of 2, 4 and 8 channels; the stem gives 4.
    # stem 3*9*4 + 2*4 = 116; separable: 4*9+4*2+4 = 48, 2*9+2*4+8 = 34, 4*9+4*8+16 = 84;
    # classifier 8*10+10 = 90
    assert ChainCandidate(3, 2).params_million(*SHAPE) * 1e6 == pytest.approx(372)
    # full convolution at layer 1: 2*4*9 + 8 = 80 instead of 34; kernel 5 there: 2*4*25 + 8 = 208
    assert ChainCandidate(3, 2, full_conv=(1,)).params_million(*SHAPE) * 1e6 == pytest.approx(418)
    assert ChainCandidate(3, 2, full_conv=(1,), kernel5=(1,)).params_million(*SHAPE) * 1e6 == pytest.approx(
        546
    )
    # first row of the published CIFAR-10 log
    assert ChainCandidate(10, 64).params_million(*SHAPE) == pytest.approx(0.30945, abs=1e-6)


def test_depth_stops_at_the_third_clear_loss_since_the_last_gain() -> None:
    table = {10: 80.0, 11: 80.2, 12: 80.0, 13: 80.17, 14: 80.0, 15: 79.0}
    #        adopt    adopt     loss 1    between    loss 2    loss 3: stop
    seen, macro, _ = run(WalkOptions(max_width=16), lambda c: table[c.depth] if c.epochs > 2 else 50.0)
    deep = [c for c in seen if c.epochs > 2]
    assert [(c.depth, c.epochs) for c in deep] == [(d, d) for d in range(10, 16)]
    assert (macro.depth, macro.width) == (11, 16)


def test_width_continues_from_the_last_tried_epochs_and_adopts_ties() -> None:
    seen, macro, _ = run(
        WalkOptions(max_width=20, max_depth=11), lambda c: 90.0 if c.width >= 18 and c.epochs > 2 else 10.0
    )
    # depth 10, 11 (a tie with depth 10 is no gain of 0.1), then widths 18 and 16
    macro_phase = [(c.depth, c.width, c.epochs) for c in seen if c.epochs > 2]
    assert macro_phase == [(10, 20, 10), (11, 20, 11), (10, 18, 13), (10, 16, 15)]
    assert macro.width == 18


def test_micro_keeps_parameters_by_narrowing() -> None:
    options = WalkOptions(max_width=32, max_depth=10)
    seen, macro, micro = run(options, lambda c: 50.0 + (0 in c.full_conv) + (3 in c.kernel5))
    assert (micro.full_conv, micro.kernel5) == ((0,), (3,))
    limit = macro.params_million(*SHAPE) + 0.01
    assert all(c.params_million(*SHAPE) <= limit for c in seen if c.full_conv and not c.kernel5)
    wider = ChainCandidate(10, micro.width + 1, (0,), (3,))
    first = next(c for c in seen if c.full_conv == (0,))
    assert wider.params_million(*SHAPE) > ChainCandidate(10, first.width, (0,)).params_million(*SHAPE)


def test_perfect_accuracy_ends_the_depth_walk_at_once() -> None:
    seen, macro, _ = run(WalkOptions(max_width=16), lambda c: 99.95)
    assert macro.depth == 10
    assert [c.depth for c in seen if c.epochs > 2] == [10]


def test_advance_is_the_walk() -> None:
    options = WalkOptions(max_width=20, max_depth=12)
    seen, _, _ = run(options, lambda c: 60.0 + c.depth / 10)
    accuracies = [60.0 + c.depth / 10 for c in seen]
    for n, candidate in enumerate(seen):
        assert advance(options, SHAPE, accuracies[:n]) == candidate
    assert advance(options, SHAPE, accuracies) is None


def test_found_is_what_the_walk_ends_with_and_what_it_holds_before() -> None:
    options = WalkOptions(max_width=20, max_depth=12)
    seen, macro, micro = run(options, lambda c: 60.0 + c.depth / 10)
    accuracies = [60.0 + c.depth / 10 for c in seen]
    assert found(options, SHAPE, accuracies) == (macro, micro)
    # after depths 10 and 11, of which the second gains 0.1, everything else is refused
    early, _ = found(options, SHAPE, accuracies[:2])
    assert (early.depth, early.width) == (11, 20)


@pytest.mark.parametrize(
    "wrong", [{"width_resolution": 0}, {"max_width": 8}, {"min_depth": 2}, {"max_depth": 5}]
)
def test_limits_that_make_no_walk_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        WalkOptions(**{"max_width": 64, **wrong})
