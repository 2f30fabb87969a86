"""The settings of a Django project with nothing in it but one view."""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only good for an example")
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "mysite.urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
USE_TZ = True
