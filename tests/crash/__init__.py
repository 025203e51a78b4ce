"""Runs of ``gpucnn train`` that are killed, or whose disk fails, at chosen changes to their files.

``fail_at.c`` is loaded before the C library and counts the changes; ``program.py`` starts runs; ``campaign.py`` kills them,
resumes them and compares what they end with. ``python -m crash.campaign --help`` says how to run it by hand.
"""
