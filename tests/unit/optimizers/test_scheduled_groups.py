"""ScheduledLR and groups: own schedules, floors, keys that follow, groups that come later, plans that change."""

import io
import types

import pytest
import torch

from lrscope import schedules as lrs
from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR

S = lrs.warmup(3, start=0.1).then(lrs.Cosine(1.0, 0.0, 7))
W = lrs.Linear(1.0, 0.5, 10)


def parameter():
    return torch.nn.Parameter(torch.ones(2))


def adamw(*names, lr=0.1):
    groups = [{"params": [parameter()], "name": name, "lr": lr * (i + 1)} for i, name in enumerate(names)]
    return torch.optim.AdamW(groups, weight_decay=0.3, foreach=False)


def turn(scheduler, times=1):
    for _ in range(times):
        scheduler.optimizer.step()
        scheduler.step()


def lrs_of(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def test_a_group_has_its_own_schedule_by_name_or_index():
    opt = adamw("body", "head", "neck")
    scheduler = ScheduledLR(opt, S, groups={"head": W, 2: {"lr": lrs.Constant(0.5), "weight_decay": W}})
    turn(scheduler, 2)
    assert lrs_of(opt) == [0.1 * S(2), 0.2 * W(2), 0.1 * 3 * 0.5]
    assert [g["weight_decay"] for g in opt.param_groups] == [0.3, 0.3, 0.3 * W(2)]
    assert scheduler.factors() == {"lr": S(2), "head/lr": W(2), "2/lr": 0.5, "2/weight_decay": W(2)}


def test_ratios_between_groups_are_kept():
    opt = adamw("a", "b")
    scheduler = ScheduledLR(opt, S)
    for _ in range(9):
        first, second = lrs_of(opt)
        assert second == pytest.approx(2 * first, rel=1e-15)
        turn(scheduler)


def test_a_wrong_name_is_an_error_with_the_nearest_one():
    with pytest.raises(ScheduleError, match="no parameter group is called 'haed'; did you mean 'head'"):
        ScheduledLR(adamw("body", "head"), S, groups={"haed": W})
    with pytest.raises(ScheduleError, match=r"late=\['new'\]"):
        ScheduledLR(adamw("body"), S, floor={"new": 1e-3})
    with pytest.raises(ScheduleError, match="an index below 1"):
        ScheduledLR(adamw("body"), S, groups={1: W})


def test_weight_decay_follows_the_learning_rate_by_one_word():
    opt = adamw("body", "head")
    scheduler = ScheduledLR(opt, {"lr": S, "weight_decay": "lr"}, groups={"head": W})
    turn(scheduler, 4)
    assert [g["weight_decay"] for g in opt.param_groups] == [0.3 * S(4), 0.3 * W(4)]
    with pytest.raises(ScheduleError, match="weight_decay follows 'momentum', which no schedule drives"):
        ScheduledLR(adamw("body"), {"weight_decay": "momentum"})


def test_floors_are_absolute_or_a_share_of_the_groups_own_rate():
    """A floor of transformers' cosine_with_min_lr is a share of the default rate, whatever the group's is."""
    end = lrs.Linear(1.0, 0.0, 4)
    for floor, expected in (
        (0.03, [0.03, 0.03]),
        ("10%", [0.1 * 10 / 100, 0.2 * 10 / 100]),
        ({"body": 0.05}, [0.05, 0.0]),
        ({"head": "50%"}, [0.0, 0.1]),
    ):
        opt = adamw("body", "head")
        scheduler = ScheduledLR(opt, end, floor=floor)
        assert lrs_of(opt) == [0.1, 0.2]
        turn(scheduler, 4)
        assert lrs_of(opt) == expected == scheduler.get_last_lr()
    for floor in (-1.0, "10", "ten %", "150%", float("nan"), True):
        with pytest.raises(ScheduleError, match="floor: group 0 must be a learning rate"):
            ScheduledLR(adamw("body"), end, floor=floor)


def test_entries_of_betas_and_momentum_by_one_name():
    opt = adamw("body")
    scheduler = ScheduledLR(opt, {"beta1": lrs.Linear(1.0, 0.5, 2), "beta2": lrs.Constant(0.9)})
    turn(scheduler)
    assert opt.param_groups[0]["betas"] == (0.9 * 0.75, 0.999 * 0.9)
    cycle = lrs.one_cycle(10, momentum=(0.85, 0.95))
    opt, sgd = adamw("body"), torch.optim.SGD([parameter()], lr=0.1, momentum=0.9)
    for optimizer in (opt, sgd):
        scheduler = ScheduledLR(optimizer, cycle, absolute=["momentum"])
        turn(scheduler, 2)
    assert opt.param_groups[0]["betas"] == (0.85, 0.999)
    assert sgd.param_groups[0]["momentum"] == 0.85


@pytest.mark.parametrize("keys", [("betas", "beta1"), ("beta2", "betas"), ("momentum", "beta1")])
def test_one_value_has_one_schedule(keys):
    with pytest.raises(ScheduleError, match=f"{keys[0]} and {keys[1]} both drive betas"):
        ScheduledLR(adamw("body"), dict.fromkeys(keys, S))


def test_a_late_group_joins_before_its_first_update():
    opt = adamw("body")
    scheduler = ScheduledLR(opt, S, groups={"late": W}, late=["late"])
    turn(scheduler, 2)
    opt.add_param_group({"params": [parameter()], "name": "late", "lr": 1.0})
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append(lrs_of(opt)))
    turn(scheduler)
    assert seen == [[0.1 * S(2), W(2)]]
    assert lrs_of(opt) == [0.1 * S(3), W(3)]


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_a_late_group_may_have_its_own_clock_and_keeps_it(order):
    opt = adamw("body")
    scheduler = ScheduledLR(opt, S, own_clock=True)
    turn(scheduler, 2)
    opt.add_param_group({"params": [parameter()], "name": "late", "lr": 1.0})
    turn(scheduler, 3)
    assert lrs_of(opt) == [0.1 * S(5), S(3)]
    file = io.BytesIO()
    torch.save({"opt": opt.state_dict(), "sched": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = adamw("body", "late")
    resumed = ScheduledLR(fresh, S, own_clock=True)
    for load in ("opt", "sched") if order == "optimizer first" else ("sched", "opt"):
        (fresh if load == "opt" else resumed).load_state_dict(saved[load])
    assert lrs_of(fresh) == lrs_of(opt)
    turn(scheduler)
    turn(resumed)
    assert lrs_of(fresh) == lrs_of(opt) == [0.1 * S(6), S(4)]


def test_an_optimizer_restored_last_from_elsewhere_is_put_right_before_its_update():
    opt = adamw("body")
    scheduler = ScheduledLR(opt, S, last_epoch=4)
    opt.load_state_dict(adamw("body", lr=7.0).state_dict())
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append(lrs_of(opt)))
    turn(scheduler)
    assert seen == [[0.1 * S(5)]]


def test_another_horizon_on_resume_is_an_error_that_draws_both():
    """Transformers' cosine jumps from 0.35 to 0.73 here, and says nothing."""
    old = lrs.Cosine(1.0, 0.0, 10)
    scheduler = ScheduledLR(adamw("body"), old)
    turn(scheduler, 6)
    longer = ScheduledLR(opt := adamw("body"), lrs.Cosine(1.0, 0.0, 20))
    with pytest.raises(ScheduleError, match=r"at step 6 its factor is 0.345492, that of this one 0.793893") as caught:
        longer.load_state_dict(scheduler.state_dict())
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["old", "new"]
    assert [line.split()[-2] for line in lines[1:]] == ["10", "20"]
    assert (longer.last_epoch, lrs_of(opt)) == (0, [0.1])


@pytest.mark.parametrize(("keep", "jumps"), [("lr", False), ("fraction", False), ("shape", True)])
def test_a_plan_is_changed_on_purpose_and_the_jump_is_printed(keep, jumps, capsys):
    old, new = lrs.Cosine(1.0, 0.0, 10), lrs.Cosine(1.0, 0.0, 20)
    scheduler = ScheduledLR(adamw("body"), old)
    turn(scheduler, 6)
    resumed = ScheduledLR(opt := adamw("body"), new)
    resumed.load_state_dict(scheduler.state_dict(), replan=keep)
    said = capsys.readouterr().err
    assert "replanned at step 6" in said
    assert ("no jump" in said) != jumps
    at = lrs.replan(old, new, at=6, keep=keep).schedule
    assert lrs_of(opt) == [0.1 * at(6)]
    turn(resumed, 9)
    assert lrs_of(opt) == [0.1 * at(15)]
    # The changed plan is the plan from now on, also for the next resume.
    again = ScheduledLR(other := adamw("body"), at)
    again.load_state_dict(resumed.state_dict())
    assert lrs_of(other) == lrs_of(opt)
    # In the middle of a run it is the same.
    scheduler.replan(new, keep=keep)
    turn(scheduler, 9)
    assert lrs_of(scheduler.optimizer) == lrs_of(opt)


@pytest.mark.parametrize("keep", ["lr", "fraction"])
def test_a_changed_plan_goes_on_however_often_it_is_resumed(keep):
    """The script still builds the schedule from before the change, or the one it was changed to."""
    old, new = lrs.Cosine(1.0, 0.0, 10), lrs.Linear(1.0, 0.0, 20)
    whole = ScheduledLR(adamw("body"), old)
    turn(whole, 6)
    start = whole.state_dict()
    whole.replan(new, keep=keep)
    turn(whole, 10)
    resumed = ScheduledLR(adamw("body"), new)
    resumed.load_state_dict(start, replan=keep)
    for i in range(10):
        turn(resumed)
        file = io.BytesIO()
        torch.save(resumed.state_dict(), file)
        file.seek(0)
        resumed = ScheduledLR(adamw("body"), old if i % 2 else new)
        resumed.load_state_dict(torch.load(file, weights_only=True), **({} if i % 3 else {"replan": keep}))
    assert lrs_of(resumed.optimizer) == lrs_of(whole.optimizer)
    with pytest.raises(ScheduleError, match="saved with another schedule"):
        ScheduledLR(adamw("body"), S).load_state_dict(resumed.state_dict())


def test_a_floor_or_key_that_changed_is_an_error():
    state = ScheduledLR(adamw("body"), S, floor=0.01).state_dict()
    with pytest.raises(ScheduleError, match=r"saved with floor=0.01, this scheduler has None"):
        ScheduledLR(adamw("body"), S).load_state_dict(state)
    with pytest.raises(ScheduleError, match=r"saved driving lr, this scheduler drives lr, weight_decay"):
        ScheduledLR(adamw("body"), {"lr": S, "weight_decay": W}, floor=0.01).load_state_dict(state)


def test_a_plateau_is_torchs_and_its_memory_is_stored():
    torch.manual_seed(0)
    losses = (torch.rand(60) + torch.linspace(1, 0.5, 60)).tolist()
    reference = torch.optim.SGD([parameter()], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, factor=0.5, patience=2, cooldown=1)
    ours = lrs.Plateau(factor=0.5, patience=2, cooldown=1)
    scheduler = ScheduledLR(torch.optim.SGD([parameter()], lr=0.1), ours)
    for i, loss in enumerate(losses):
        plateau.step(loss)
        scheduler.optimizer.step()
        scheduler.step()
        scheduler.observe(loss=loss)
        if i == 30:
            file = io.BytesIO()
            torch.save(scheduler.state_dict(), file)
            file.seek(0)
            scheduler = ScheduledLR(torch.optim.SGD([parameter()], lr=0.1), ours)
            scheduler.load_state_dict(torch.load(file, weights_only=True))
        assert lrs_of(scheduler.optimizer) == pytest.approx(lrs_of(reference), rel=1e-12)
    assert lrs_of(reference)[0] < 0.01
    with pytest.raises(ScheduleError, match="'loss' was not observed; did you mean 'los'"):
        scheduler.observe(los=1.0)


def test_a_plan_may_be_given_as_it_is_stored():
    spec = S.to_spec()
    for given in (spec, {"lr": spec}):
        assert ScheduledLR(adamw("body"), given).schedules == {"lr": S}
    with pytest.raises(ScheduleError, match=r"got namespace\(.*; of a Plan give plan.schedule"):
        ScheduledLR(adamw("body"), types.SimpleNamespace(schedule=spec))


def test_nothing_is_a_share_of_what_is_absolute():
    with pytest.raises(ScheduleError, match="weight_decay follows lr, which works for factors only"):
        ScheduledLR(adamw("body"), {"lr": S, "weight_decay": "lr"}, absolute=["lr"])
    with pytest.raises(ScheduleError, match="'10%' is a share of a base rate, and lr is absolute"):
        ScheduledLR(adamw("body"), S, absolute=["lr"], floor="10%")
    assert lrs_of(ScheduledLR(adamw("body"), S, absolute=["lr"], floor=0.2).optimizer) == [0.2]


def test_a_metric_given_to_step_is_told_where_it_belongs():
    scheduler = ScheduledLR(adamw("body"), lrs.Plateau())
    for metric in (0.37, torch.tensor(0.37)):
        with pytest.raises(ScheduleError, match=r"a metric is reported by scheduler.observe\(loss=...\)"):
            scheduler.step(metric)


def test_a_schedule_that_hears_nothing_says_so_once():
    scheduler = ScheduledLR(adamw("body"), lrs.Plateau())
    turn(scheduler, 999)
    with pytest.warns(LrscopeWarning, match="nothing was observed in 1000 updates"):
        turn(scheduler)
    turn(scheduler, 3)
    heard = ScheduledLR(adamw("body"), lrs.Plateau())
    heard.observe(loss=1.0)
    turn(heard, 1001)


def test_unnamed_groups_are_told_how_to_get_a_name():
    with pytest.raises(ScheduleError, match="they have no names"):
        ScheduledLR(torch.optim.SGD([parameter()], lr=0.1), S, groups={"head": W})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"absolute": ["momentum"]}, "absolute: 'momentum' is not driven; allowed: lr"),
        ({"absolute": ["l"]}, "did you mean 'lr'"),
        ({"groups": [S]}, "groups: must be a dict from names or indices to schedules"),
        ({"groups": {0: None}}, r"groups\[0\]: must be a Schedule"),
        ({"replan": "foo"}, "unknown 'foo'"),
        ({"count": "epochs"}, "unknown 'epochs'"),
    ],
)
def test_options_that_cannot_mean_anything_are_refused(options, message):
    opt = adamw("body")
    with pytest.raises(ScheduleError, match=message):
        ScheduledLR(opt, S, **options)
    assert lrs_of(opt) == [0.1]


def test_one_name_may_stand_for_a_list_of_one():
    assert ScheduledLR(adamw("body"), lrs.Constant(0.2), absolute="lr").get_last_lr() == [0.2]
    ScheduledLR(adamw("body"), S, groups={"head": W}, late="head")


def test_a_base_that_the_script_changed_is_told(capsys):
    scheduler = ScheduledLR(adamw("body"), S)
    turn(scheduler, 2)
    ScheduledLR(adamw("body"), S).load_state_dict(scheduler.state_dict())
    assert capsys.readouterr().err == ""
    ScheduledLR(adamw("body", lr=0.02), S).load_state_dict(scheduler.state_dict())
    assert "lr of group 0 was saved with base 0.1, this run sets 0.02" in capsys.readouterr().err


def test_a_group_is_addressed_in_one_way():
    opt = torch.optim.SGD([{"params": [parameter()]}, {"params": [parameter()], "name": "0"}], lr=1.0)
    with pytest.raises(ScheduleError, match="a name and an index look the same"):
        ScheduledLR(opt, S, groups={0: W, "0": S})
    with pytest.raises(ScheduleError, match="by its index and by its name 'body'"):
        ScheduledLR(adamw("body"), S, groups={0: W, "body": S})


def test_a_late_group_by_index_and_before_a_load():
    opt = adamw("body")
    scheduler = ScheduledLR(opt, S, groups={1: W}, late=[1], own_clock=True)
    turn(scheduler, 2)
    opt.add_param_group({"params": [parameter()], "lr": 1.0})
    turn(scheduler)
    fresh = adamw("body")
    resumed = ScheduledLR(fresh, S, groups={1: W}, late=[1], own_clock=True)
    fresh.add_param_group({"params": [parameter()], "lr": 1.0})
    resumed.load_state_dict(scheduler.state_dict())
    assert lrs_of(fresh) == lrs_of(opt) == [0.1 * S(3), W(1)]


def test_counting_calls_a_late_group_joins_before_its_first_update_too():
    opt = adamw("body")
    scheduler = ScheduledLR(opt, S, count="calls")
    turn(scheduler, 2)
    opt.add_param_group({"params": [parameter()], "lr": 1.0})
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append(lrs_of(opt)))
    turn(scheduler)
    assert seen == [[0.1 * S(2), S(2)]]


def test_what_cannot_be_stored_is_refused_before_training():
    class Saw(lrs.Schedule):
        num_steps = None

        def _at(self, t):
            return t % 2

    with pytest.raises(ScheduleError, match="no kind, so it cannot be stored"):
        ScheduledLR(adamw("body"), Saw())
    with pytest.raises(ScheduleError, match="floor: is for the learning rate, which no schedule drives"):
        ScheduledLR(adamw("body"), {"weight_decay": S}, floor=1e-6)


def test_listeners_hear_what_is_theirs_and_a_deaf_call_changes_nothing():
    drives = {"lr": lrs.Plateau("loss", patience=0), "weight_decay": lrs.Plateau("acc", mode="max", patience=0)}
    scheduler = ScheduledLR(adamw("body"), drives)
    for loss in (1.0, 2.0):
        scheduler.observe(loss=loss)
    assert [lrs_of(scheduler.optimizer)[0], scheduler.optimizer.param_groups[0]["weight_decay"]] == [0.1 * 0.1, 0.3]
    before = scheduler.state_dict()
    with pytest.raises(ScheduleError, match="was not observed"):
        scheduler.observe(f1=1.0)
    assert scheduler.state_dict() == before
    for key, message in (("lr", "is driven by a schedule that listens"),):
        with pytest.raises(ScheduleError, match=message):
            scheduler.replan(S, keep="lr", key=key)
    followed = ScheduledLR(adamw("body"), {"lr": S, "weight_decay": "lr"})
    with pytest.raises(ScheduleError, match="weight_decay follows lr; replan that"):
        followed.replan(20, keep="shape", key="weight_decay")
    with pytest.raises(ScheduleError, match="lr was driven by"):
        ScheduledLR(adamw("body"), S).load_state_dict(ScheduledLR(adamw("body"), lrs.Plateau()).state_dict())


def test_a_new_length_may_be_resumed_by_the_edited_script_and_an_earlier_checkpoint_loaded_back():
    scheduler = ScheduledLR(adamw("body"), lrs.Cosine(1.0, 0.0, 10))
    turn(scheduler, 2)
    early = scheduler.state_dict()
    turn(scheduler)
    scheduler.replan(20, keep="fraction")
    turn(scheduler)
    edited = ScheduledLR(adamw("body"), lrs.Cosine(1.0, 0.0, 10).stretch(20))
    edited.load_state_dict(scheduler.state_dict())
    assert lrs_of(edited.optimizer) == lrs_of(scheduler.optimizer)
    scheduler.load_state_dict(early)
    assert lrs_of(scheduler.optimizer) == [0.1 * lrs.Cosine(1.0, 0.0, 10)(2)]
