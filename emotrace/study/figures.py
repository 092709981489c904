"""Draws the figures of a run: one model's from its tables and vectors, and those over models."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from emotrace.files import write_file
from emotrace.study.across.figures import PICTURES as OVER_MODELS
from emotrace.study.experiment import Tables, instruments, of_instrument, of_model
from emotrace.study.experiments import PICTURES, TABLES
from emotrace.study.folder import RunFolder, file_name
from emotrace.study.style import plt
from emotrace.vectors import EmotionVectors


def draw_figures(run: RunFolder, tables: Tables, model: str) -> None:
    """Draws every figure that the run's tables and vectors of one model allow, as png and svg."""
    own = of_model(tables, model)
    main, *others = instruments(own) or [""]
    file = run.path / "vectors" / f"{file_name(model)}-comprehension-mean.safetensors"
    vectors = EmotionVectors.load(file) if file.exists() else None
    for name, picture in PICTURES.items():
        if _shows(own, picture.table, main):
            _save(run, picture.figure(of_instrument(own, main), vectors), f"{name}-{file_name(model)}")
        for instrument in others if TABLES[picture.table].per_instrument and not picture.vectors else ():
            if not _shows(own, picture.table, instrument):
                continue
            _save(run, picture.figure(of_instrument(own, instrument)), f"{name}-{file_name(model)}-{instrument}")


def _shows(tables: Tables, name: str, instrument: str) -> bool:
    """A table has rows of the instrument, or rests on none."""
    held = instruments({name: tables[name]}) if name in tables else []
    return not held or instrument in held or not TABLES[name].per_instrument


def draw_across(run: RunFolder, tables: Tables) -> None:
    """Draws the figures over models, once a run; their names have no model in them."""
    for picture in OVER_MODELS:
        _save(run, picture.figure(tables), picture.name)


def _save(run: RunFolder, figure: Figure | None, name: str) -> None:
    if figure is None:
        return
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
        write_file(run.path / "figures" / f"{name}.{suffix}", buffer.getvalue())
    plt.close(figure)
