"""An ordinary Flask app around a model: nothing here knows the platform that runs it.

model.skops is the file of examples/models/iris/1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, HTTPException

SPECIES = ("setosa", "versicolor", "virginica")
FEATURES = 4

app = Flask(__name__)
# Loaded before the port opens, so that an app that answers is an app that is ready.
model: Any = skops.io.load(Path(__file__).with_name("model.skops"))


@app.get("/")
def index() -> ResponseReturnValue:
    return jsonify(app="flask-iris", mode=os.environ.get("MODE", "default"))


@app.get("/livez")
@app.get("/healthz")
def health() -> ResponseReturnValue:
    return jsonify(status="ok")


@app.post("/predict")
def predict() -> ResponseReturnValue:
    body = request.get_json()
    rows = body.get("rows") if isinstance(body, dict) else None
    try:
        measurements = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadRequest(f"'rows' must be rows of {FEATURES} numbers") from None
    if measurements.ndim != 2 or measurements.shape[1] != FEATURES or not np.isfinite(measurements).all():
        raise BadRequest(f"'rows' must be rows of {FEATURES} numbers")
    return jsonify(species=[SPECIES[label] for label in model.predict(measurements)])


@app.errorhandler(HTTPException)
def error(problem: HTTPException) -> ResponseReturnValue:
    return jsonify(error=problem.description), problem.code or 500
