"""`train.report_to` with loggers beyond the test packages: run where they are installed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def logged_run(folder: Path, logger: str, **environment: str) -> list[dict[str, object]]:
    """A small run that is told to a logger, made in `folder`; its own metrics."""
    pytest.importorskip(logger)
    sets = ("cold_start.method=none", f"train.report_to=[{logger}]")
    options = [part for one in sets for part in ("--set", one)]
    command = [sys.executable, "-m", "mxa_lite", "run", "arithmetic", "--smoke", *options]
    subprocess.run(
        [*command, "--output", "small"], cwd=folder, env=os.environ | environment, check=True
    )
    return [json.loads(line) for line in (folder / "small" / "metrics.jsonl").open()]


def test_trackio_gets_the_numbers_of_every_step(tmp_path: Path) -> None:
    metrics = logged_run(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "mxa-lite.db") as database:
        rows = database.execute("select run_name, metrics from metrics order by id").fetchall()
    steps = [
        json.loads(text) for name, text in rows if name == "small" and b"train/correct" in text
    ]
    assert [step["train/correct"] for step in steps] == [line["correct"] for line in metrics]
    assert all("train/groups/designer/signal" in step for step in steps)


def test_wandb_offline_leaves_a_run_to_be_sent_later(tmp_path: Path) -> None:
    metrics = logged_run(tmp_path, "wandb", WANDB_MODE="offline")
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.read_bytes().count(b"train/valid_scripts") >= len(metrics)
