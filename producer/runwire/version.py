"""The version, written down: asking the installed metadata would cost every trainer 20 ms."""

__version__ = "0.1.0"
