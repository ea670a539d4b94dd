import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "cosin", "start": 1}, "unknown kind 'cosin'; did you mean 'cosine'"),
        ({"kind": "cosine", "start": 1.0, "end": 0.0, "step": 3}, "no argument 'step'; did you mean 'steps'"),
        ({"kind": "cosine", "start": 1.0}, "cosine needs end, steps"),
        ({"start": 1.0}, "needs 'kind'"),
        ({"kind": ["cosine"]}, "needs 'kind'"),
        ([], "must be a dict"),
        ("cosine", "must be a dict"),
        ({"kind": "join", "parts": [{"kind": "constant", "value": 1.0}, 3]}, "Join: part 1 must be a Schedule"),
        ({"kind": "linear", "start": 0, "end": 1, "steps": {"kind": "constant", "value": 1.0}}, "Linear: steps"),
    ],
)
def test_a_bad_spec_says_what_is_wrong(spec, message):
    with pytest.raises(ScheduleError, match=message):
        lrs.from_spec(spec)


def test_a_spec_is_plain_data():
    s = 0.5 * lrs.warmup(2).then(lrs.Piecewise((1.0, 0.1), (3,)))
    assert s.to_spec() == {
        "kind": "product",
        "factors": [
            {"kind": "constant", "value": 0.5, "steps": None},
            {
                "kind": "join",
                "parts": [
                    {"kind": "linear", "start": 0.0, "end": 1.0, "steps": 2},
                    {"kind": "piecewise", "levels": [1.0, 0.1], "boundaries": [3], "steps": None},
                ],
            },
        ],
    }
