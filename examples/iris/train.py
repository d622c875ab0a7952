"""Train the iris example and lay it out as a model store does: `models/iris/<version>/`.

    python -m examples.iris.train            # writes examples/models/iris/1
    python -m examples.iris.train --version 2 --models DIRECTORY

Version 2 regularises more, so that its probabilities, and a few of its labels, differ measurably.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from serving_image import manifest
from serving_image.describe import describe

MODELS = Path(__file__).parent.parent / "models"
REGULARISATION = {"1": 1.0, "2": 0.01}
# One flower of each species.
SAMPLE = [[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]]


def train(version: str) -> Pipeline:
    """The estimator of a version; the same on every run."""
    measurements, species = load_iris(return_X_y=True)
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION[version]))
    return estimator.fit(measurements, species)


def write(version: str, models: Path) -> Path:
    """Train a version and write its artifact below `models`. Returns the version directory."""
    directory = models / "iris" / version
    directory.mkdir(parents=True)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "iris.skops"
        skops.io.dump(train(version), file)
        described, files = describe(file, "iris", version, "examples/iris/train.py", SAMPLE)
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True)
        (directory / path).write_bytes(content)
    (directory / manifest.FILE_NAME).write_bytes(manifest.dump(described))
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", choices=sorted(REGULARISATION), default="1")
    parser.add_argument("--models", type=Path, default=MODELS, help="the models/ directory of a store")
    arguments = parser.parse_args()
    directory = arguments.models / "iris" / arguments.version
    if directory.exists():
        parser.error(f"{directory} exists, and a published version never changes; remove it to make it again")
    print(write(arguments.version, arguments.models))


if __name__ == "__main__":
    main()
