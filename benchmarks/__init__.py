"""Measuring tools: a strict client, and what our servers and gunicorn's do in the same situations."""
