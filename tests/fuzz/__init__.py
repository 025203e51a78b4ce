"""Damaged and hostile files for every loader: made by Hypothesis, read in processes of bounded memory and time.

``damage.py`` says what is done to a good file, ``formats.py`` which files there are and who reads them, ``campaign.py``
reads many of them and reports; ``known/`` holds the inputs that once did harm. ``python -m fuzz.campaign --help``.
"""
