"""Writes the stories that are kept with the project: ``python scripts/write_stories.py MODEL OUT.csv``.

One story a topic and class, those that passed alone. It takes a few minutes to half an hour on two cores; finished
batches are kept in the folder ``OUT.csv.run``, from which an interrupted run goes on.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress

import emotrace
from emotrace import stories
from emotrace.instrument import corpus
from emotrace.instrument import stories as stored_stories
from emotrace.study.folder import RunFolder
from emotrace.study.methods.story_rates import story_rates

SETTINGS = {"seed": 0, "attempts": 12}
WRITING = asdict(stories.STORY)


def main(name: str, out: Path) -> None:
    model = emotrace.load(name)
    folder = RunFolder(out.with_name(out.name + ".run"), {"model": name, **SETTINGS, **WRITING}, resume=True)
    with Progress() as bar:
        task = bar.add_task(f"stories of {name}", total=len(corpus.topics()) * len(corpus.emotions()))
        written = stories.write_stories(model, **SETTINGS, cache=folder, progress=lambda done: bar.advance(task, done))
    print(story_rates(written).query("emotion == 'all'").to_string(index=False))
    kept = stories.kept(written).assign(
        base_seed=SETTINGS["seed"], max_new_tokens=WRITING["max_new_tokens"], temperature=WRITING["temperature"]
    )
    kept[stored_stories.STORED_COLUMNS].to_csv(out, index=False, lineterminator="\n")
    print(f"{len(kept)} stories in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    main(sys.argv[1], Path(sys.argv[2]))
