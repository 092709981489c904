"""Our two sets of passages and somebody else's texts: does one author's emotion hold in the other's?

    python scripts/public_transfer.py CORPUS --name emotionscope --out FOLDER smollm2-135m-instruct gemma-3-270m

CORPUS is what ``emotrace.load_instrument`` takes, with three or more of our emotions; EmotionScope's
``data/story_contributions`` (MIT licence) is one. Each of our sets and CORPUS decode each other's texts in each model
(:func:`emotrace.transfer`), beside what the words alone carry over. The texts stay where they are: what is written is
``transfer_NAME.csv``, and the table at the chosen layers between the markers ``NAME`` of a README.md beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from publish_run import replace_between
from published_pages import transfer_rows

import emotrace
from emotrace.study.folder import FLOAT_FORMAT

OURS = ("scenes", "accounts")


def table(corpus: Path, name: str, models: list[str]) -> pd.DataFrame:
    """The rows of :func:`emotrace.transfer` for each model and each of our sets with the corpus."""
    theirs, parts = emotrace.load_instrument(corpus, name=name), []
    for model in models:
        handle = emotrace.load(model)
        parts += [emotrace.transfer(handle, ours, theirs) for ours in OURS]
        print(f"{model}: done", flush=True)
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows = table(asked.corpus, asked.name, asked.models)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(asked.out / f"transfer_{asked.name}.csv", index=False, float_format=FLOAT_FORMAT)
    shown = transfer_rows(rows)
    page = asked.out / "README.md"
    if page.exists() and f"<!-- {asked.name}:begin -->" in page.read_text(encoding="utf-8"):
        replace_between(page, asked.name, shown)
    print(shown)


if __name__ == "__main__":
    main()
