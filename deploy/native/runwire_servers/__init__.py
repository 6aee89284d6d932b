"""Real servers on this machine without Docker: fetched, built, started, watched and stopped by pid.

Standard library only, so that it runs with any Python 3.11 or newer before anything is installed.
"""
