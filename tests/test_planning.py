"""Plans: the optimum is the brute-force one, limits are kept or refused by name, and choices can be split."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import spliteasy as se
from spliteasy.errors import CutError, PlanError, ProfileError, SplitError
from spliteasy.memory import MemoryProfile
from spliteasy.planning import ChainCost, Choice, Computer, Constraints, Plan, Wire, plan, predict_step
from spliteasy.planning.chains import FrameBytes, Line, MessageCost, fit_line
from spliteasy.planning.space import DEVICE_SENDS, MODES
from spliteasy.profiling import Profile, profile
from spliteasy.seeding import STATE_BYTES
from spliteasy.traffic import Traffic
from spliteasy.wire import MESSAGES, Codecs

WIRE = Wire(2e-4, 3e-9)
COSTS = [
    ChainCost.given(Codecs(), 1.0, 2000, 3000),
    ChainCost.given(Codecs(forward="fp16"), {m: 2.0 if "g" not in m else 1.0 for m in MESSAGES}, 700, 900),
    ChainCost.given(se.Codecs(*["topk(0.1) | fp16"] * 4), 12.0, 60, 90, fixed_bytes=1500),
]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITEASY_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = (networks.Residual(), networks.Dense(2), networks.Branches(), networks.Pieces(), networks.InPlace())
        return [profile(model, networks.SHAPE, 4, repeats=1, progress=False) for model in made]


_ALLOWED: dict[tuple[int, tuple[str, ...]], bool] = {}


def allowed(known: Profile, cuts: tuple[str, ...]) -> bool:
    """Whether `split` takes these cuts."""
    key = id(known), cuts
    if key not in _ALLOWED:
        try:
            se.split(known.program.model, cuts, known.input_shape)
            _ALLOWED[key] = True
        except SplitError:
            _ALLOWED[key] = False
    return _ALLOWED[key]


def slowly(
    known: Profile, link: se.Link | None, speed: float, server: float, at: tuple[int, ...], cost: ChainCost
) -> tuple[float, float]:
    """Seconds and bytes of a step, straight from the definition."""
    times = dict(zip(known.operations, known.forward + known.backward + known.update, strict=True))
    names = list(known.operations)
    ends = [known.program.train.position[known.cuts[index].name] for index in at]
    if not ends:
        return known.seconds / speed, 0.0
    last = ends[1] if len(ends) == 2 else len(names)
    a, b, c = (sum(times[name] for name in part) for part in (names[: ends[0]], names[ends[0] : last], names[last:]))
    total = (a + c + known.other) / speed + b / server + len(at) * WIRE.call_seconds
    drawn = [bool(known.draws[:end].any()) for end in ends]
    up = down = 0.0
    for message, tensors in Traffic(known.program, known.cuts).between(*at).items():
        coded = sum(tensor.nbytes for tensor in tensors if tensor.dtype.is_floating_point)
        plain = sum(tensor.nbytes for tensor in tensors) - coded
        if message == "activations":
            plain += STATE_BYTES * drawn[0] + (8 * known.batch if len(at) == 1 else 0)
        if message == "outputs":
            plain += STATE_BYTES * drawn[1]
        line = cost.messages[message]
        fixed, slope = line.nbytes.at(at[0] if message in ("activations", "input_gradients") else at[-1])
        nbytes = fixed + slope * coded + plain
        up, down = (up + nbytes, down) if DEVICE_SENDS[message] else (up, down + nbytes)
        sides = (speed, server) if DEVICE_SENDS[message] else (server, speed)
        for what, side in zip((line.encode, line.decode), sides, strict=True):
            total += (what.fixed + what.slope * coded) / side
    total += (up + down) * WIRE.byte_seconds
    if link is not None:
        total += link.seconds(1, 0, 0) * up + link.seconds(0, 1, 0) * down + link.seconds(0, 0, len(at))
    return total, up + down


def every(known: Profile, modes: tuple[str, ...]) -> list[tuple[int, ...]]:
    count = len(known.cuts)
    found: list[tuple[int, ...]] = [()] if "none" in modes else []
    if "single" in modes:
        found += [(index,) for index in range(count)]
    if "double" in modes:
        found += list(itertools.combinations(range(known.first_private, count), 2))
    return [at for at in found if allowed(known, tuple(known.cuts[index].name for index in at))]


links = st.builds(
    se.Link, st.floats(0.01, 1e4), st.one_of(st.floats(0.01, 1e4), st.just(math.inf)), st.floats(0.0, 500.0)
)
modes_of = st.lists(st.sampled_from(MODES), min_size=1, unique=True).map(tuple)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_best_is_that_of_brute_force(profiles: list[Profile], data: st.DataObject) -> None:
    known = data.draw(st.sampled_from(profiles[:2] + profiles[4:]), label="profile")
    link = data.draw(st.one_of(st.none(), links), label="link")
    speed, server = data.draw(st.floats(0.01, 10)), data.draw(st.floats(0.1, 100))
    modes = data.draw(modes_of)
    macs = [cut.macs_before for cut in known.cuts]
    limits = Constraints(
        min_operations=data.draw(st.integers(0, 4)),
        min_macs=data.draw(st.sampled_from([0, *macs])),
        max_bytes=data.draw(st.one_of(st.just(math.inf), st.floats(1e3, 1e5))),
        labels_on_device=data.draw(st.booleans()),
    )
    budget = data.draw(st.one_of(st.just(math.inf), st.floats(1.0, 30.0)))

    def memory(lo: int, hi: int) -> float:
        return float(hi - lo)

    end = len(known.cuts) - 1
    times = []
    for at in every(known, modes):
        first = at[0] if at else end
        need = memory(0, first) + (memory(at[1], end) if len(at) == 2 else 0)
        for cost in COSTS:
            seconds, nbytes = slowly(known, link, speed, server, at, cost)
            position = known.program.train.position[known.cuts[first].name]
            fits = position >= limits.min_operations and macs[first] >= limits.min_macs and need <= budget
            if fits and nbytes <= limits.max_bytes and not (limits.labels_on_device and len(at) == 1):
                times.append(seconds)

    def ask() -> Plan:
        return plan(
            known, link=link, device=Computer(speed, budget, memory), server=server, chains=COSTS, modes=modes,
            constraints=limits, wire=WIRE, progress=False,
        )  # fmt: skip

    if not times:
        with pytest.raises(PlanError, match="Expected a pl"):
            ask()
        return
    found = ask()
    assert found.best.seconds == pytest.approx(min(times), rel=1e-9)
    assert sum(found.best.parts.values()) == pytest.approx(found.best.seconds, rel=1e-9)
    ranked = [found.best.seconds, *(choice.seconds for choice in found.runners_up)]
    assert ranked == sorted(ranked)
    least = min(float(curve.seconds.min(initial=math.inf)) for curve in found.curves)
    assert least <= found.best.seconds * (1 + 1e-9)


@pytest.mark.parametrize("number", range(5))
def test_every_choice_can_be_split(profiles: list[Profile], number: int) -> None:
    known = profiles[number]
    found = plan(known, link="3g", device=0.1, chains=COSTS, runners_up=20, progress=False)
    for choice in (found.best, *found.runners_up, *found.by_mode, *found.by_chain):
        assert allowed(known, choice.cuts)
        if choice.cuts:
            expected, nbytes = slowly_named(known, choice)
            assert choice.bytes_total == pytest.approx(nbytes) and expected > 0
    assert [choice.mode for choice in sorted(found.by_mode, key=lambda c: MODES.index(c.mode))] == list(MODES)
    assert {choice.chain for choice in found.by_chain} == {cost.name for cost in COSTS}


def slowly_named(known: Profile, choice: Choice) -> tuple[float, float]:
    cost = next(cost for cost in COSTS if cost.name == choice.chain)
    return slowly(known, se.LINKS["3g"], 0.1, 1.0, choice.numbers, cost)


IMPOSSIBLE = [
    ({"labels_on_device": True}, ("single",), "labels_on_device.*sends the labels"),
    ({"min_operations": 10_000}, MODES, r"min_operations=10000.*deepest A has (\d+) operations, [\d,]+ too few"),
    ({"min_macs": 10**15}, MODES, r"min_macs.*too few"),
    ({"max_bytes": 10.0}, ("single", "double"), r"max_bytes=10.*the least that any cut and chain sends is .* too many"),
]


@pytest.mark.parametrize(("limit", "modes", "message"), IMPOSSIBLE)
def test_an_impossible_limit_is_named(
    profiles: list[Profile], limit: dict[str, Any], modes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan(profiles[0], link="lte", modes=modes, chains=COSTS, constraints=Constraints(**limit), progress=False)


def test_memory_that_nothing_fits_is_named_with_the_gap(profiles: list[Profile]) -> None:
    device = Computer(1.0, 60.0, lambda lo, hi: 100.0 + hi - lo)
    with pytest.raises(PlanError, match=r"device memory of 60 bytes.*is 100 bytes, 40 too many"):
        plan(profiles[0], link="lte", device=device, chains=COSTS, progress=False)


def test_a_device_has_memory_and_the_plan_keeps_to_it(profiles: list[Profile]) -> None:
    known = profiles[0]
    memory = MemoryProfile(known.program)
    positions = {cut.name: known.program.train.position[cut.name] for cut in known.cuts}
    whole = memory.before()[max(positions.values())]
    free = plan(known, link=None, device=se.Device("slow", 1.0, 2 * whole), modes=("single", "double", "none"))
    alike = plan(known, link=None, device=1.0)
    assert free.best.cuts == alike.best.cuts, "memory that suffices changes nothing"
    tight = plan(known, link=None, device=se.Device("small", 1.0, whole, share=0.6), modes=("single", "double"))
    for choice in (tight.best, *tight.runners_up):
        places = [positions[name] for name in choice.cuts]
        taken = memory.before()[places[0]] + (memory.after()[places[1]] if len(places) == 2 else 0)
        assert taken <= 0.6 * whole
    with pytest.raises(PlanError, match="device memory of"):
        plan(known, link=None, device=se.Device("tiny", 1.0, 64))
    with pytest.raises(PlanError, match="Did you mean 'iphone-xr'"):
        plan(known, link=None, device="iphone")


def test_a_plan_that_sends_the_inputs_says_so(profiles: list[Profile]) -> None:
    known = profiles[0]
    free = plan(known, link="lte", device=1e-4, chains=COSTS, modes="single", progress=False)
    assert free.best.numbers[0] < known.first_private and "sends the inputs" in repr(free)
    deep = Constraints(min_operations=known.program.train.position[known.cuts[known.first_private].name])
    kept = plan(known, link="lte", device=1e-4, chains=COSTS, modes="single", constraints=deep, progress=False)
    assert kept.best.numbers[0] >= known.first_private and "sends the inputs" not in repr(kept)


def test_a_plan_counts_data_and_energy(profiles: list[Profile]) -> None:
    known = profiles[0]
    device = se.Device("phone", 0.5, 1 << 30, joules_per_mac=1e-9, joules_per_mb_up=2.0, joules_per_mb_down=1.0)
    found = plan(known, link="lte", device=device, chains=COSTS, modes="double", progress=False)
    split = se.split(known.program.model, found.best.cuts, known.input_shape)
    assert found.best.device_macs == split.device_macs
    up, total = found.best.bytes_up, found.best.bytes_total
    joules = (3 * split.device_macs * known.batch * 1e-9 + (2 * up + (total - up)) / 1e6) / known.batch
    assert found.joules_per_image(found.best) == pytest.approx(joules)
    row = found.to_pandas().iloc[0]
    assert row["device.joules_per_image"] == pytest.approx(joules) and " J of its energy" in repr(found)
    assert row["device.megabytes_per_image"] == pytest.approx(total / 1e6 / known.batch)
    plain = plan(known, link="lte", device=0.5, chains=COSTS, modes=("none", "double"), progress=False)
    assert "device.joules_per_image" not in plain.to_pandas() and plain.joules_per_image(plain.best) is None
    whole = next(choice for choice in plain.by_mode if choice.mode == "none")
    assert whole.device_macs == se.split(known.program.model, (), known.input_shape).device_macs


def test_limits_that_exclude_each_other_are_both_named(profiles: list[Profile]) -> None:
    known = profiles[0]
    deep = Constraints(min_operations=5)
    device = Computer(1.0, 3.0, lambda lo, hi: float(hi - lo))
    with pytest.raises(PlanError, match=r"device memory of 3 bytes.*together with min_operations=5"):
        plan(known, link="lte", device=device, constraints=deep, chains=COSTS, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"link": "lt"}, "Did you mean 'lte'"),
        ({"link": 5}, "Expected a link"),
        ({"modes": ("tripel",)}, "Expected modes"),
        ({"modes": ()}, "Expected modes"),
        ({"chains": []}, "Expected chains"),
        ({"chains": ["pca(4)"]}, "fitted first"),
        ({"device": 0}, "speed above zero"),
        ({"device": "fast"}, "one of this-machine, iphone-xr, or a speed"),
        ({"server": -1.0}, "speed above zero"),
    ],
)
def test_bad_input(profiles: list[Profile], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(profiles[0], **{"link": None, "progress": False, **arguments})


@pytest.mark.parametrize("memory", [0, -1, math.nan, "much"])
def test_a_device_without_memory_is_refused(memory: Any) -> None:
    with pytest.raises(PlanError, match="device with memory"):
        Computer(1.0, memory)


@pytest.mark.parametrize("name", ["min_operations", "min_macs", "max_bytes"])
def test_limits_below_zero_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match=name):
        Constraints(**{name: -1})  # type: ignore[arg-type]


def test_ratios_that_are_none_are_refused() -> None:
    with pytest.raises(PlanError, match="ratio"):
        ChainCost.given(Codecs(), 0.0, 1, 1)


def test_a_profile_of_other_threads_is_refused(profiles: list[Profile]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ProfileError, match="threads"):
            plan(profiles[0], link=None, progress=False)
    finally:
        torch.set_num_threads(threads)


def test_chains_are_calibrated_on_what_crosses(profiles: list[Profile]) -> None:
    known = profiles[0]
    before = {name: value.clone() for name, value in known.program.model.state_dict().items()}
    state = torch.get_rng_state()
    found = plan(known, link="lte", chains=["raw", Codecs(forward="fp16")], modes="double", progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in known.program.model.state_dict().items())
    kept = {cost.name: cost for cost in known.kept.values()}
    assert kept["raw"].messages["outputs"].nbytes.slope == pytest.approx(1.0)
    half = kept[next(name for name in kept if "fp16" in name)]
    assert half.messages["activations"].nbytes.slope == pytest.approx(0.5, abs=0.1), "a scale a tensor besides"
    assert half.messages["input_gradients"].nbytes.slope == pytest.approx(1.0)
    assert found.error == 0, "every cut of a small network is measured"


@pytest.mark.parametrize("mode", ["single", "double"])
def test_predicted_bytes_are_those_of_a_step(profiles: list[Profile], mode: str) -> None:
    known = profiles[2]  # with a dropout, whose generator's state travels
    found = plan(known, link="lte", chains=["raw"], modes=mode, progress=False)
    split = se.split(known.program.model, found.best.cuts, known.input_shape)
    x, y = torch.rand(known.batch, *known.input_shape), torch.arange(known.batch) % 3
    record = se.Trainer(split).step(x, y)
    frames = sum(size.frame for size in record.bytes.values())
    heads = 400 * len(record.bytes)
    assert frames < found.best.bytes_total < frames + heads


def test_it_shows_what_it_found(profiles: list[Profile], tmp_path: Path) -> None:
    found = plan(profiles[0], link="3g", device=0.05, chains=COSTS, modes=("single", "double"), progress=False)
    text = repr(found)
    assert "best:" in text and "runners-up:" in text and found.best.cuts[0] in text and "se.split(" in text
    assert found.best.cuts[0] in found._repr_html_()
    budget = found.budget()
    assert budget["total"] == pytest.approx(sum(value for name, value in budget.items() if name != "total"))
    table = found.to_pandas()
    assert table["seconds"].is_monotonic_increasing and table.loc[0, "first"] == found.best.cuts[0]
    picture = found.plot()
    picture.savefig(tmp_path / "plan.png")
    assert found.best.cuts[0] in picture.alt and "single split" in picture.alt


@given(
    fixed=st.floats(1, 1e4),
    slope=st.floats(1e-3, 2),
    raw=st.lists(st.floats(1e3, 1e7), min_size=2, max_size=6, unique=True),
)
def test_a_line_is_found_again(fixed: float, slope: float, raw: list[float]) -> None:
    line = fit_line(raw, [fixed + slope * size for size in raw])
    assert line.error < 1e-3
    assert line.fixed + line.slope * raw[0] == pytest.approx(fixed + slope * raw[0], rel=1e-3)


@given(measured=st.lists(st.floats(1e-6, 10), min_size=1, max_size=6))
def test_a_line_has_no_part_below_zero(measured: list[float]) -> None:
    line = fit_line([1000.0 * (index + 1) for index in range(len(measured))], measured)
    assert line.fixed >= 0 and line.slope >= 0 and np.isfinite(line.error)


def test_a_chain_with_both_ways_says_so() -> None:
    line = Line(0.0, 1.0)
    cost = ChainCost(
        Codecs(forward="fp16"), {m: MessageCost(FrameBytes(np.array(0.0), np.array(1.0)), line, line) for m in MESSAGES}
    )
    assert cost.name.startswith("activations=fp16") and ChainCost.given(Codecs(), 1, 1, 1).name == "raw"


def test_a_network_that_cannot_be_cut_twice_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITEASY_CACHE", str(tmp_path))
    known = profile(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2), 2, repeats=1, progress=False)
    with pytest.raises(PlanError, match="other modes"):
        plan(known, link="lte", modes="double", chains=COSTS, progress=False)
    assert plan(known, link="lte", chains=COSTS, progress=False).best.mode in ("none", "single")


def test_state_that_two_operations_use_is_noticed(profiles: list[Profile]) -> None:
    assert [known.state_apart for known in profiles] == [False, True, True, True, True]  # Residual calls a norm twice


def test_a_step_of_ones_own_is_predicted_as_the_plan_does(profiles: list[Profile]) -> None:
    known = profiles[0]
    arguments: dict[str, Any] = {"link": "lte", "device": 0.2, "wire": WIRE}
    for mode in ("single", "double", "none"):
        best = plan(known, **arguments, chains=[COSTS[2]], modes=[mode], progress=False).best
        own = predict_step(known, best.cuts, **arguments, chain=COSTS[2])
        assert own.seconds == pytest.approx(best.seconds) and own.parts == pytest.approx(dict(best.parts))
        assert (own.mode, own.cuts, own.numbers, own.nbytes) == (best.mode, best.cuts, best.numbers, best.nbytes)
    one = predict_step(known, known.cuts[1].name, link=None, wire=Wire(0, 0), chain=COSTS[0])
    assert one.parts["b"] > 0 and one.parts["up"] == 0 and set(one.nbytes) == {"activations", "input_gradients"}


def test_cuts_of_ones_own_that_are_no_split_are_refused(profiles: list[Profile]) -> None:
    names = profiles[0].cuts.names
    with pytest.raises(PlanError, match=f"the first at '{names[1]}' or later.*found '{names[0]}'"):
        predict_step(profiles[0], (names[0], names[3]), link="lte")
    with pytest.raises(PlanError, match="the second behind the first"):
        predict_step(profiles[0], (names[3], names[2]), link="lte")
    with pytest.raises(PlanError, match="one cut or two, found 3"):
        predict_step(profiles[0], names[1:4], link="lte")
    with pytest.raises(CutError, match="nowhere"):
        predict_step(profiles[0], "nowhere", link="lte")
