"""The paper's three studies and its headline in small: what came out, and a picture of it.

Which recipes they are is data of the settings, in :mod:`mmret.settings.studies`.
"""
