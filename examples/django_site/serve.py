"""Serves a Django project. With the program it is: cluster serve mysite.wsgi --chdir examples/django_site

    python examples/django_site/serve.py
    curl localhost:3000
"""

import os

from cluster import cluster, debug

(cluster("mysite.wsgi:application")
    .use(debug())
    .listen(int(os.environ.get("PORT", 3000))))
