import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from backbone.__main__ import SHALLOW, TABLES, count_network, main, paper_table_1, table_1
from backbone.cost import by_kind, total

# The paper's tables 4 to 9, in millions: mult-adds and parameters.
PAPER = {
    "Conv MobileNet": (4866, 29.3),
    "1.0 MobileNet-224": (569, 4.2),
    "0.75 MobileNet-224": (325, 2.6),
    "Shallow MobileNet": (307, 2.9),
    "0.50 MobileNet-224": (149, 1.3),
    "0.25 MobileNet-224": (41, 0.5),
    "1.0 MobileNet-192": (418, 4.2),
    "1.0 MobileNet-160": (290, 4.2),
    "1.0 MobileNet-128": (186, 4.2),
    "0.50 MobileNet-160": (76, 1.32),
}


def by_formula(width=1.0, size=224, classes=1000, rows=None):
    """Mult-adds and parameters by the paper's equations 3 and 5, with no module built."""
    rows = rows or [64, -128, 128, -256, 256, -512, 512, 512, 512, 512, 512, -1024, 1024]  # minus: stride 2
    side, channels = size // 2, int(32 * width)
    mult_adds, params = 27 * channels * side**2, 27 * channels + 2 * channels
    for row in rows:
        side, out = (side // 2 if row < 0 else side), int(abs(row) * width)
        mult_adds += 9 * channels * side**2 + channels * out * side**2
        params += 9 * channels + 2 * channels + channels * out + 2 * out
        channels = out
    return mult_adds + channels * classes, params + channels * classes + classes


def run(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def records():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["--json"]) == 0
    found = json.loads(out.getvalue())
    assert len(found) == len(PAPER)
    return {record["model"]: record for record in found}


def test_json_has_every_network_of_the_tables_once_with_the_papers_figures(records):
    assert set(records) == set(PAPER) == {network.model for group in TABLES.values() for network in group}
    for model, (mult_adds, params) in PAPER.items():
        assert records[model]["paper_mult_adds"] == mult_adds * 1_000_000
        assert records[model]["paper_params"] == pytest.approx(params * 1e6)


def test_counts_are_the_papers_to_its_last_digit(records):
    for model, (mult_adds, params) in PAPER.items():
        # The paper cuts some figures and rounds others (290.7 is printed 290), so one unit of the last digit.
        assert abs(records[model]["mult_adds"] / 1e6 - mult_adds) < 1.3, model
        assert abs(records[model]["params"] / 1e6 - params) < 0.05, model


def test_counts_are_those_of_the_papers_equations_exactly(records):
    assert (records["1.0 MobileNet-224"]["mult_adds"], records["1.0 MobileNet-224"]["params"]) == by_formula()
    assert by_formula() == (568_740_352, 4_231_976)
    for model in set(PAPER) - {"Conv MobileNet", "Shallow MobileNet"}:
        width, _, size = model.partition(" MobileNet-")
        assert (records[model]["mult_adds"], records[model]["params"]) == by_formula(float(width), int(size)), model


def test_comparison_networks_cost_exactly_what_a_hand_counts(records):
    shallow = by_formula(rows=[64, -128, 128, -256, 256, -512, -1024, 1024])
    assert (records["Shallow MobileNet"]["mult_adds"], records["Shallow MobileNet"]["params"]) == shallow
    # 9 x 3,139,584 weights in the 3x3 layers, the stem's 864, a batch norm of 2 for each output, the classifier.
    outputs = 32 + 64 + 2 * 128 + 2 * 256 + 6 * 512 + 2 * 1024
    assert records["Conv MobileNet"]["params"] == 9 * 3_139_584 + 864 + 2 * outputs + 1_025_000
    # A 3x3 layer does nine times what the 1x1 layer of its block does at the same output size.
    separable = by_kind(count_network({}, (224, 224)))
    expected = 9 * separable["Conv 1x1"].mult_adds + separable["Conv 3x3"].mult_adds + 1_024_000
    assert records["Conv MobileNet"]["mult_adds"] == expected


def test_shares_by_kind_are_table_2_but_for_its_one_slip():
    rows = count_network({}, (224, 224))
    kinds, sums = by_kind(rows), total(rows)
    shares = {
        k: (round(100 * c.mult_adds / sums.mult_adds, 2), round(100 * c.weights / sums.weights, 2))
        for k, c in kinds.items()
    }
    assert shares == {
        "Conv 1x1": (94.86, 74.59),
        "Conv DW 3x3": (3.06, 1.06),
        "Conv 3x3": (1.91, 0.02),  # printed 1.19
        "Fully Connected": (0.18, 24.33),
        "Batch norm": (0, 0),
    }


def test_layers_are_those_of_table_1_but_for_its_one_slip():
    ours = [tuple(row[:3]) for row in table_1(count_network({}, (224, 224)))]
    differing = [(o, p) for o, p in zip(ours, paper_table_1(), strict=True) if o != p]
    assert len(ours) == 28
    assert [(o[0], p[0]) for o, p in differing] == [("Conv dw / s1", "Conv dw / s2")]
    assert ours[25] == ("Conv dw / s1", "3 x 3 x 1024 dw", "7 x 7 x 1024")


def test_shallow_network_lacks_five_blocks():
    depth = sum(row.kind.startswith("Conv") for row in count_network({}, (224, 224)))
    assert sum(row.kind.startswith("Conv") for row in count_network(SHALLOW.trunk, (224, 224))) == depth - 10


def test_printed_tables_hold_the_papers_figures_and_ours(capsys):
    text = run(capsys)
    assert [f"Table {i}." in text for i in range(1, 10)] == [True] * 9
    row = next(line for line in text.splitlines() if "0.50 MobileNet-160" in line)
    assert row.split() == ["0.50", "MobileNet-160", "76", "M", "76,524,800", "1.32", "M", "1,331,592", "60.2", "%"]
    layer = next(line for line in text.splitlines() if line.strip().startswith("Depthwise Separable Conv"))
    assert layer.split()[-6:] == ["52.3", "M", "52,283,392", "0.27", "M", "266,752"]


def test_one_network_of_any_width_size_and_classes(capsys):
    (record,) = json.loads(run(capsys, "--width", "0.5", "--size", "192", "--classes", "10", "--json"))
    assert (record["mult_adds"], record["params"]) == by_formula(0.5, 192, 10)
    assert (record["model"], record["paper_mult_adds"], record["paper_params"]) == ("0.50 MobileNet-192", None, None)
    text = run(capsys, "--size", "300x480")
    assert "1024 x 10 x 15" in text  # the last map, ceil(300 / 32) x 480 / 32


def test_one_network_of_the_paper_shows_the_papers_figures(capsys):
    (record,) = json.loads(run(capsys, "--width", "0.5", "--size", "160", "--json"))
    assert (record["paper_mult_adds"], record["paper_params"]) == (76_000_000, 1_320_000)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "31"], "31"),
        (["--size", "large"], "large"),
        (["--size", "1x2x3"], "1x2x3"),
        (["--width", "0"], "0"),
        (["--width", "wide"], "wide"),
        (["--width", "1e30"], "1e+30"),
        (["--classes", "0"], "0"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_argument_gets_one_sentence_with_its_value_and_exit_code_2(arguments, said, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_help_does_not_wait_for_torch():
    # A module of None cannot be imported.
    script = "import runpy, sys; sys.modules['torch'] = None; sys.argv[1:] = ['--help']; "
    script += "runpy.run_module('backbone', run_name='__main__')"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--width" in done.stdout
