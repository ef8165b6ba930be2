"""`budget`: the pick is what brute force gives, and nothing that is printed was measured above the budget."""

import itertools
import json
import math
import random
import re
import shlex
import statistics
import sys
from argparse import ArgumentTypeError

import pytest
import torch
from helpers import refused

import backbone.__main__ as backbone_main
import tasks.__main__ as tasks_main
from backbone.cost import count, total
from backbone.errors import InputError
from backbone.trunks import PUBLISHED
from tasks.classification.__main__ import main as classification
from tasks.deployment import benchmark, budget
from tasks.deployment.budget import Budget, Candidate, choose
from tasks.detection.__main__ import main as detection

WIDTHS, SIZES = (0.25, 0.5, 0.75, 1.0), (128, 160, 192, 224)
PRICES = (0.05, 4e-8, 5e-9, 6e-8)  # ms: of an image, of a mult-add in a depthwise layer, in another, of a weight


def build(head="classifier", classes=1000):
    return lambda *network: tasks_main.build_module(head, classes, *network)


@pytest.fixture(scope="module")
def sixteen():
    return budget.ranked(build(), SIZES, with_timm=False)


def true_ms(one):
    return PRICES[0] + sum(price * cost for price, cost in zip(PRICES[1:], one.costs, strict=True))


def of_times(*times):
    """Candidates of ours, the best first, that take these milliseconds; none can be told from another by its costs."""
    ones = [Candidate("mobilenetv1", 1.0, 224 - i, 70.0 - i, "slim", 100, 100, (1, 1, 1)) for i in range(len(times))]
    return ones, dict(zip(ones, times, strict=True))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("150M", 150e6),
        ("0.5G", 5e8),
        ("1.2e9", 1.2e9),
        ("2m", 2e6),
        ("10", 10),
        (".5", 0.5),
        ("3B", 3e9),
        ("1e1k", 1e4),
    ],
)
def test_amount_has_a_unit(text, value):
    assert budget.amount(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "0", "-1", "M", "1 50", "1T", "nan", "inf", "1e999", "150MB", "٣"])
def test_no_amount_is_refused(text):
    with pytest.raises(ArgumentTypeError):
        budget.amount(text)


def test_costs_are_those_that_the_paper_counts_and_top1_is_slims(sixteen):
    found = {(one.width_mult, one.size): one for one in sixteen}
    assert set(found) == set(itertools.product(WIDTHS, SIZES))
    for width, size in zip(WIDTHS, SIZES, strict=True):
        layers, one = backbone_main.count_network({"width_mult": width}, (size, size)), found[width, size]
        cost = total(layers)
        assert (one.mult_adds, one.params) == (cost.mult_adds, cost.params)
        depthwise = sum(layer.mult_adds for layer in layers if layer.kind == "Conv DW 3x3")
        assert one.costs == (depthwise, cost.mult_adds - depthwise, cost.weights)
    assert [(one.width_mult, one.size) for one in sixteen[:4]] == [(1, 224), (1, 192), (0.75, 224), (1, 160)]
    assert [found[key].top1 for key in ((1, 224), (0.5, 160), (0.25, 128))] == [70.9, 59.1, 41.5]


@pytest.mark.parametrize("row", tasks_main.TABLE_13, ids=lambda row: row.head)
def test_a_detector_is_counted_with_its_head(row):
    one = budget.counted(build(row.head, row.columns - 1), "mobilenetv1", 1.0, row.image_size, 70.9, "slim")
    assert (one.mult_adds, one.params) == tasks_main.count_row(row)


@pytest.fixture
def uncounted(monkeypatch):
    """Candidates that cost nothing."""
    monkeypatch.setattr(budget, "counted", lambda build, *network: Candidate(*network, 1, 1, (1, 1, 1)))


def test_above_224_px_the_larger_image_comes_first(uncounted):
    found = budget.ranked(build, (192, 224, 256, 300), with_timm=False)
    assert [(one.width_mult, one.size) for one in found[:5]] == [(1, 300), (1, 256), (1, 224), (1, 192), (0.75, 300)]
    assert [one.top1 for one in found[:5]] == [70.9, 70.9, 70.9, 70.0, 68.4]


def test_timms_networks_are_there_at_224_px(uncounted):
    pytest.importorskip("timm")
    timm = {one for one in budget.ranked(build, (128, 300), with_timm=True) if one.width_mult is None}
    expected = {(one.trunk, 224, one.top1, one.source) for one in PUBLISHED if one.width_mult is None}
    assert {(one.trunk, one.size, one.top1, one.source) for one in timm} == expected


def test_ours_alone_without_timm(uncounted, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert {one.trunk for one in budget.ranked(build, SIZES, with_timm=True)} == {"mobilenetv1"}
    assert "needs timm: pip install" in capsys.readouterr().err


def test_timms_networks_are_counted_in_their_form_for_inference():
    pytest.importorskip("timm")
    from backbone.timm_trunk import for_inference

    name = "timm:mobileone_s1"
    branches = tasks_main.build_module("classifier", 1000, name, None, 224).eval()
    image = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    trained = total(count(branches, image)).params
    branches.trunk.network = for_inference(branches.trunk.network)
    cost = total(count(branches, image))
    found = budget.counted(build(), name, None, 224, 75.8, "apple_in1k")
    assert (found.mult_adds, found.params) == (cost.mult_adds, cost.params)
    assert found.params < trained


@pytest.mark.parametrize("seed", range(8))
def test_pick_is_that_of_brute_force(seed, sixteen):
    draw = random.Random(seed)
    for _ in range(25):
        limits = {
            "mult_adds": draw.choice([None, math.exp(draw.uniform(math.log(1e7), math.log(7e8)))]),
            "params": draw.choice([None, math.exp(draw.uniform(math.log(4e5), math.log(5e6)))]),
        }
        fitting = [
            one for one in sixteen if all(limit is None or getattr(one, of) <= limit for of, limit in limits.items())
        ]
        if not fitting:
            with pytest.raises(InputError):
                choose(sixteen, Budget(**limits), true_ms)
            continue
        choice = choose(sixteen, Budget(**limits), true_ms)
        assert [choice.pick, choice.runner_up] == [*fitting, None][:2]
        assert choice.times == {}
    for _ in range(25):  # with all four widths to measure, the four prices are found exactly
        ms = draw.uniform(true_ms(min(sixteen, key=true_ms)), 1.1 * true_ms(max(sixteen, key=true_ms)))
        fitting = [one for one in sixteen if true_ms(one) <= ms]
        choice = choose(sixteen, Budget(ms=ms), true_ms)
        assert [choice.pick, choice.runner_up] == [*fitting, None][:2]
        assert len(choice.times[choice.pick]) == 2
        assert not choice.noisy
        for one, guess in choice.estimates.items():
            assert guess == pytest.approx(true_ms(one), rel=1e-6)
        tried = set(choice.times) - set(budget.probes(sixteen))
        assert all(true_ms(one) <= 1.2001 * ms for one in tried)  # no others are exported


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_picked_that_was_measured_above_the_budget(seed, sixteen):
    draw = random.Random(seed)
    noisy = refusals = 0
    for _ in range(60):
        spread, ms, told = draw.choice([0.02, 0.1, 0.4]), draw.uniform(0.3, 8), {}

        def measure(one, told=told, spread=spread):
            told.setdefault(one, []).append(true_ms(one) * draw.uniform(1 - spread, 1 + spread))
            return told[one][-1]

        try:
            choice = choose(sixteen, Budget(ms=ms), measure)
        except InputError:
            refusals += 1
            continue
        assert choice.times == told
        mine = told[choice.pick]
        assert 2 <= len(mine) <= 5
        assert mine[0] <= ms
        assert statistics.median(mine) <= ms
        assert choice.noisy == (abs(mine[-1] - mine[-2]) > 0.1 * min(mine[-2:]))
        assert choice.noisy or max(mine[-2:]) <= ms
        place = sixteen.index(choice.pick)
        assert choice.runner_up is None or told[choice.runner_up][0] <= ms
        assert choice.runner_up is None or place < sixteen.index(choice.runner_up)
        for better in sixteen[:place]:  # is out, or was not worth a measurement
            mine = told.get(better)
            assert choice.estimates[better] > 1.2 * ms if mine is None else max(mine) > ms
        noisy += choice.noisy
    assert noisy < 60 - refusals


def test_what_is_measured_above_the_budget_is_out_and_the_next_is_tried():
    ones, times = of_times(12.0, 11.0, 9.0, 8.0)
    choice = choose(ones, Budget(ms=10), times.get)
    assert (choice.pick, choice.runner_up) == (ones[2], ones[3])
    assert choice.times[ones[2]] == [9.0, 9.0]
    [pick_at_the_limit, *_], times = of_times(10.0)
    assert choose([pick_at_the_limit], Budget(ms=10), times.get).pick == pick_at_the_limit


@pytest.mark.parametrize(
    ("told", "steady"),
    [
        ([10, 10.9], True),
        ([10, 11.1, 11.2], True),
        ([10, 12, 10, 12, 12.1], True),
        ([10, 12, 10, 12, 10], False),
    ],
)
def test_a_measurement_is_repeated_until_two_agree(told, steady):
    times, rest = told[:1], iter(told[1:])
    budget.measure_again(times, lambda: next(rest))
    assert times == told
    assert (budget.difference(times) <= 0.1) == steady


@pytest.mark.parametrize(
    ("told", "pick", "noisy"),
    [
        ([9.8, 10.2], 1, False),  # they agree, and one is above
        ([8, 12, 8, 9.5, 8], 0, True),  # the median fits
        ([8, 12, 14, 16, 11], 1, False),  # it does not
        ([8, 12, 9.7, 9.8], 0, False),  # a spike, then two that agree
    ],
)
def test_the_median_counts_where_measurements_do_not_agree(told, pick, noisy):
    ones, times = of_times(0.0, 5.0)
    rest = iter(told)
    choice = choose(ones, Budget(ms=10), lambda one: next(rest) if one == ones[0] else times[one])
    assert (choice.pick, choice.noisy) == (ones[pick], noisy)
    assert choice.times[ones[0]] == told


def test_what_nothing_fits_says_a_budget_that_is_enough(sixteen):
    for limits in ({"mult_adds": 1e6}, {"params": 1e5}, {"mult_adds": 1e6, "params": 1e5}, {"ms": 0.01}):
        with pytest.raises(InputError) as refusal:
            choose(sixteen, Budget(**limits), true_ms)
        enough = str(refusal.value).split(". ")[-1]
        told = {name.replace("-", "_"): float(value) for name, value in re.findall(r"--([a-z-]+) ([\d.]+)", enough)}
        assert told.keys() == limits.keys()
        assert choose(sixteen, Budget(**told), true_ms).pick.width_mult == 0.25


def test_timms_networks_are_measured_in_their_turn_and_not_estimated(sixteen):
    timm = [Candidate(f"timm:{name}", None, 224, top1, "a", 1, 1, (1, 1, 1)) for name, top1 in (("x", 80), ("y", 75))]
    times = {timm[0]: 99.0, timm[1]: 1.0}
    choice = choose([*timm, *sixteen], Budget(ms=3), lambda one: times.get(one) or true_ms(one))
    assert choice.pick == timm[1]
    assert choice.times[timm[0]] == [99.0]
    assert not set(choice.estimates) & set(timm)
    assert choice.estimates == {one: pytest.approx(true_ms(one), rel=1e-6) for one in choice.estimates}


class Parsed(BaseException):
    """Carries the options of `fit` out of it before it does anything."""


@pytest.mark.parametrize("head", ["classifier", "ssd", "ssdlite"])
@pytest.mark.parametrize(
    "one",
    [
        Candidate("mobilenetv1", 0.25, 160, 45.5, "slim", 1, 1, (1, 1, 1)),
        Candidate("mobilenetv1", 1.0, 224, 70.9, "slim", 1, 1, (1, 1, 1)),
        Candidate("timm:mobilenetv2_100", None, 224, 72.9, "ra_in1k", 1, 1, (1, 1, 1)),
    ],
    ids=lambda one: one.name,
)
def test_the_command_is_taken_by_the_tasks_own_parser(one, head, monkeypatch):
    def give_up(module_class, args, parse):
        raise Parsed(parse(args))

    monkeypatch.setattr("tasks.cli.resolve", give_up)
    main = classification if head == "classifier" else detection
    with pytest.raises(Parsed) as parsed:
        main(["fit", *budget.fit_options(one, head)])
    [settings] = parsed.value.args
    assert settings["data"] == {"root": "DIR", "image_size": one.size}
    model = settings["model"]
    ours = one.width_mult is not None
    of_ours = "coco" if head == "ssd" and one.width_mult in (0.75, 1.0) else "imagenet"
    assert model["weights"] == (of_ours if ours else "hub:timm/mobilenetv2_100.ra_in1k")
    assert model.get("width_mult") == one.width_mult
    assert model.get("trunk") == (None if ours else one.trunk)
    assert model.get("head", "ssd") == ("ssdlite" if head == "ssdlite" else "ssd")


def run(*args):
    return tasks_main.main(["budget", *args])


@pytest.fixture
def measured(monkeypatch, sixteen):
    """In place of counting, exporting and measuring: what was asked for; `times` has other milliseconds of some."""

    def measure(build, task, folder, int8, threads, one):
        asked.append((task, int8, threads, one.name))
        return next(measure.times[one]) if one in measure.times else true_ms(one)

    asked = []
    measure.asked, measure.times = asked, {}
    monkeypatch.setattr(budget, "milliseconds", measure)
    monkeypatch.setattr(budget, "ranked", lambda *args: sixteen)
    return measure


def test_json_has_all_that_was_found_and_nothing_else_is_printed(measured, capsys, sixteen):
    assert run("--ms", "2", "--params", "4M", "--int8", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    allowed = [one for one in sixteen if one.params <= 4e6]
    fitting = [one for one in allowed if true_ms(one) <= 2]
    for name, one in (("pick", fitting[0]), ("runner_up", fitting[1])):
        assert (told[name]["width_mult"], told[name]["size"]) == (one.width_mult, one.size)
        assert (told[name]["mult_adds"], told[name]["params"]) == (one.mult_adds, one.params)
        assert told[name]["milliseconds"] == true_ms(one)
    assert len(told["pick"]["measured"]) == 2
    assert [(one["width_mult"], one["size"]) for one in told["candidates"]] == [
        (one.width_mult, one.size) for one in allowed
    ]
    assert shlex.split(told["command"])[:4] == ["python", "-m", "tasks.classification", "fit"]
    assert all(call[:3] == ("classification", True, 1) for call in measured.asked)


def test_exit_code_says_that_not_all_measurements_of_the_pick_fit(measured, capsys, sixteen):
    pick = next(one for one in sixteen if true_ms(one) <= 3.5)
    measured.times[pick] = itertools.cycle([3.4, 4.0])
    assert run("--ms", "3.5", "--json") == budget.NOISY
    told = json.loads(capsys.readouterr().out)
    assert told["noisy"]
    assert told["pick"]["measured"] == [3.4, 4.0, 3.4, 4.0, 3.4]
    assert told["pick"]["milliseconds"] == 3.4


def test_table_marks_the_pick_and_what_is_estimated(measured, capsys):
    assert run("--ms", "2") == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if " slim " in line]
    picked = [row for row in rows if row[0] == "pick"]
    assert len(picked) == 1
    assert float(picked[0][-1]) <= 2
    assert all(row[-1].startswith("~") or row[0] in ("pick", "runner-up") or float(row[-1]) for row in rows)
    assert f"next: python -m tasks.classification fit --data DIR --weights imagenet --width {picked[0][2]} " in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no limit is given; give --mult-adds"),
        (("--classes", "10"), "no limit is given"),
        (("--params", "2M", "--classes", "0"), "--classes is 0; it must be from 1"),
        (("--params", "2M", "--classes", "1000000000"), "--classes is 1000000000"),
        (("--params", "2M", "--int8"), "--int8 says how --ms is measured; give that too"),
        (("--params", "2M", "--threads", "1"), "--threads says how --ms is measured"),
        (("--ms", "2", "--threads", "0"), "--threads 0: give numbers from 1 to"),
        (("--ms", "2", "--threads", "4096"), "--threads 4096: give numbers from 1 to"),
        (("--mult-adds", "1k"), "--mult-adds 1,000: nothing fits; .* has 13,5.* --mult-adds 13570048 would be enough"),
        (("--ms", "0.001"), "--ms 0.001: nothing fits; .*width 0.25 at 128 px"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(args, message, measured, capsys, monkeypatch):
    monkeypatch.setattr(budget, "_tell", lambda line: None)
    refused(tasks_main.main, ["budget", *args], message, capsys)


@pytest.mark.parametrize(
    "args", [("--ms", "fast"), ("--ms", "-1"), ("--mult-adds", "0"), ("--head", "yolo"), ("--mx",)]
)
def test_what_cannot_be_parsed_ends_with_2(args, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*args)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(("ended", "code"), [(0, 0), (2, 2), (3, 3), (-15, 143)])
def test_backbone_hands_over_and_returns_the_exit_code(ended, code, monkeypatch):
    started = []

    class Child:
        def __init__(self, command):
            started.append(command)
            self.waits = iter((KeyboardInterrupt, ended))

        def wait(self):
            if (found := next(self.waits)) is KeyboardInterrupt:
                raise found
            return found

    monkeypatch.setattr(backbone_main.subprocess, "Popen", Child)
    assert backbone_main.main(["budget", "--ms", "3"]) == code
    assert started == [[sys.executable, "-m", "tasks", "budget", "--ms", "3"]]


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_the_exported_file_is_what_is_measured(int8, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    one = Candidate("mobilenetv1", 0.25, 64, 0.0, "nobody", 1, 1, (1, 1, 1))
    args = build(classes=5), "classification", tmp_path, int8, 1, one
    assert budget.milliseconds(*args) > 0
    [file] = tmp_path.glob("*.onnx")
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert ("QuantizeLinear" in kinds) == int8
    [found] = [benchmark.in_own_process("classification", [str(file)], 1, 3)]
    assert (found["precision"], found["image_size"]) == ("int8" if int8 else "float32", [64, 64])
    written = file.stat().st_mtime_ns
    budget.milliseconds(*args)
    assert file.stat().st_mtime_ns == written
