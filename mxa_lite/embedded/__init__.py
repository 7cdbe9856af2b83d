"""The tiny pretrained model that ships with the kit, and the scripts that made it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
COLD_START = Path(__file__).parent / "cold_start.jsonl"
