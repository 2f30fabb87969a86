"""Serves a Flask application that is named by a string, so that `reload` picks up new code.

    python examples/flask_site/serve.py
    curl localhost:3000
"""

import os

from cluster import cluster, debug

(cluster("site_app:app")
    .use(debug())
    .listen(int(os.environ.get("PORT", 3000))))
