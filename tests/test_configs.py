"""Every shipped config is run by the real command."""

from pathlib import Path

import pytest
import yaml

from tasks.classification.__main__ import main as classification
from tasks.detection.__main__ import main as detection
from tasks.face_attributes.__main__ import main as face_attributes

CONFIGS = Path(__file__).parents[1] / "configs"
# the command, and the fixture that gives it small data
TASKS = {
    "classification": (classification, "classes_root"),
    "detection": (detection, "coco_root"),
    "face_attributes": (face_attributes, "faces_root"),
}
QUICK = ["--data.num_workers", "0", "--data.batch_size", "2", "--trainer.max_epochs", "1"]
QUICK += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
QUICK += ["--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false"]


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_trains_validates_and_leaves_a_whole_run(config, request, capsys):
    task = config.parent.name
    main, data = TASKS[task]
    root = str(request.getfixturevalue(data))
    asked = yaml.safe_load(config.read_text())
    given = ["--config", str(config), "--data.root", root, *QUICK]
    for name, value in {"version": "", "without_near_duplicates_of": root}.items():
        if name in asked["data"]:  # what else says which data they are
            given += [f"--data.{name}", value]
    assert main(["fit", *given]) == 0
    run = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run: "))
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "checkpoints",
        "metrics.csv",
        "metrics.json",
        "pictures",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (Path("runs") / task / "latest").resolve() == run.resolve()
    used = yaml.safe_load((run / "config.yaml").read_text())
    for name, value in asked["model"].items():
        assert used["model"][name] == value


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_begins_with_its_command_and_a_figure(config):
    first, *rest = config.read_text().splitlines()
    assert first.startswith(f"# python -m tasks.{config.parent.name} fit")
    assert rest[0].startswith("# ")
