"""The playground: a page that holds a network and runs it in the browser. It is made as text; no files are written."""

from gpucnn.playground.operations import Operation, Operations, operations_of
from gpucnn.playground.page import Subject, playground

__all__ = ["Operation", "Operations", "Subject", "operations_of", "playground"]
