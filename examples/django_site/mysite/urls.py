"""One view: which process answered."""

import os

from django.http import JsonResponse
from django.urls import path


def index(request):
    return JsonResponse({"pid": os.getpid(), "path": request.path})


urlpatterns = [path("", index)]
