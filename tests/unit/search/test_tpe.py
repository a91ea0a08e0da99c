"""Strategy tpe: what the estimator is told of a long history."""

from strategy_fakes import FakeCost

from hwnas.nets import spaces
from hwnas.records import Evaluation, Trial
from hwnas.search.baselines import tpe

SPEC = spaces.make("resnet-cifar").smallest()
ESTIMATE = FakeCost().estimate(SPEC)


def trial(index: int, accuracy: float | None) -> Trial:
    evaluation = None if accuracy is None else Evaluation(accuracy=accuracy, loss=1.0)
    return Trial(index=index, spec=SPEC, estimate=ESTIMATE, state="done", evaluation=evaluation)


def test_a_short_history_is_told_whole_in_its_order() -> None:
    history = [trial(0, 0.5), trial(1, None), trial(2, 0.9)]
    assert [one.index for one in tpe._told(history)] == [0, 2]


def test_of_a_long_history_the_best_and_the_newest_are_told() -> None:
    # Accuracy falls: the best 64 of 300 are the first ones, the newest the last ones.
    history = [trial(index, 1.0 - index / 1000) for index in range(300)]
    assert [one.index for one in tpe._told(history)] == [*range(64), *range(236, 300)]
