"""A Flask application. It knows nothing of the cluster that serves it."""

import os

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/")
def index():
    return jsonify(pid=os.getpid(), path=request.path)


@app.get("/fail")
def fail():
    raise RuntimeError("on purpose")
