"""Every shipped config is run by the real command."""

from pathlib import Path

import pytest
import yaml

from tasks.detection.__main__ import main as detection

CONFIGS = Path(__file__).parents[1] / "configs"
MAIN = {"detection": detection}
QUICK = ["--data.num_workers", "0", "--data.batch_size", "2", "--trainer.max_epochs", "1"]
QUICK += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
QUICK += ["--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false"]


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_trains_validates_and_leaves_a_whole_run(config, coco_root, capsys):
    task = config.parent.name
    given = ["--config", str(config), "--data.root", str(coco_root), "--data.version", "", *QUICK]
    assert MAIN[task](["fit", *given]) == 0
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
    asked, used = yaml.safe_load(config.read_text()), yaml.safe_load((run / "config.yaml").read_text())
    for name, value in asked["model"].items():
        assert used["model"][name] == value


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_begins_with_its_command_and_a_figure(config):
    first, *rest = config.read_text().splitlines()
    assert first.startswith(f"# python -m tasks.{config.parent.name} fit")
    assert rest[0].startswith("# ")
